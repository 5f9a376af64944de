"""From one's own articles to a workspace: read, generate, filter, check against the exams, split, write."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_jsonl
from jmedlora_utils.data import contamination, curation, exam_files
from jmedlora_utils.data.articles import Article, load_articles
from jmedlora_utils.data.curation import CurationSettings, Filtered, Row
from jmedlora_utils.data.instructions import Generated, GenerationSettings, generate
from jmedlora_utils.data.questions import Question, read_exam


@dataclass
class Prepared:
    """Records from one's own articles, and what was left out on the way."""

    articles: list[Article]  #: As read
    read: dict[str, int]  #: How many articles were read, and how many left out as empty or as copies
    generated: Generated  #: What the model wrote
    filtered: Filtered  #: What the filters kept and dropped
    report: contamination.Report  #: Overlap of the kept records with the exams
    leaked: list[Row]  #: Records dropped because they share 30 characters with an exam
    train: list[Row]  #: Records for training
    heldout: list[Row]  #: Records of held-out articles
    pretraining: list[Article]  #: Articles for continued pretraining: those of the training side without 30 shared characters

    def counts(self) -> dict[str, int]:
        """How many articles, texts, pairs and records there were at every step, in its order."""
        rejects = Counter(f"rejected: {r['reason']}" for r in self.generated.rejects)
        dropped = Counter(f"dropped: {r['reason']}" for r in self.filtered.dropped)
        return {
            **{f"articles {name}": count for name, count in self.read.items()},
            **self.generated.counts,
            **dict(rejects.most_common()),
            **dict(dropped.most_common()),
            "dropped: 30 characters of an exam": len(self.leaked),
            "records for training": len(self.train),
            "records held out": len(self.heldout),
            "articles for continued pretraining": len(self.pretraining),
        }

    def write(self, workspace: paths.Workspace, seed: int) -> list[Path]:
        """Writes the records, the split, the articles for continued pretraining, and everything left out with its reason."""
        folder = workspace.data / "instructions"
        leaked = [r | {"reason": "30 characters of an exam"} for r in self.leaked]
        return [
            *curation.write_split(folder, self.train, self.heldout, seed),
            write_jsonl(workspace.data / "articles.jsonl", [asdict(a) for a in self.pretraining]),
            write_jsonl(folder / "rejects.jsonl", self.generated.rejects),
            write_jsonl(folder / "dropped.jsonl", [*self.filtered.dropped, *leaked]),
            write_jsonl(folder / "overlaps.jsonl", [asdict(o) for o in self.report.overlaps]),
        ]


def prepare(
    path: Path | str,
    generation: GenerationSettings,
    kept: CurationSettings,
    exams: dict[str, list[Question]],
    cache_dir: Path | None = None,
) -> Prepared:
    """Makes records from the articles at `path`; answers are kept in `cache_dir`, by default one folder for all presets and seeds."""
    articles, read = load_articles(path)
    generated = generate(articles, generation, cache_dir or paths.runs_root() / "generated")
    filtered = curation.filter_records(generated.records, generation.language, kept)
    report = contamination.check(filtered.kept, exams)
    clean, leaked = contamination.enforce(filtered.kept, report)
    if not clean:
        raise JmedloraError(
            f"no record is left of {len(generated.records)} pairs and {len(generated.rejects)} rejects from {len(articles)} articles: "
            f"{dict(Counter(r['reason'] for r in [*generated.rejects, *filtered.dropped]))}, {len(leaked)} shared text with an exam; "
            "a model that follows instructions better, or other limits, will help"
        )
    train, heldout = curation.split_by_article(clean, kept)
    outside = {r["article"] for r in heldout}
    texts = [{"id": a.id, "instruction": a.title, "output": a.text} for a in articles]
    outside |= contamination.check(texts, exams).contaminated()
    return Prepared(articles, read, generated, filtered, report, leaked, train, heldout, [a for a in articles if a.id not in outside])


def load_exams(names: Sequence[str], years: Sequence[int], language: str, workspace: paths.Workspace) -> dict[str, list[Question]]:
    """Reads exams that records are checked against, whole: published ones by name such as `igakuqa`, others as JSONL files."""
    published = [name for name in names if not name.endswith(".jsonl")]
    found = exam_files.collect(workspace, published, years, language, "error").exams
    for path in (Path(name).expanduser() for name in names if name.endswith(".jsonl")):
        if path.stem in found:
            raise JmedloraError(f"parameter check_exams: {path} and another exam are both called {path.stem!r}; rename the file")
        found[path.stem] = read_exam(path)
    return found
