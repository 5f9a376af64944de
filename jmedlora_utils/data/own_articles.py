"""From one's own articles to a workspace: read, generate, filter, check against the exams, split, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, write_jsonl
from jmedlora_utils.data import contamination, curation, exam_files
from jmedlora_utils.data.articles import Article, load_articles
from jmedlora_utils.data.curation import Filtered, Row
from jmedlora_utils.data.instructions import Generated, GenerationSettings, generate
from jmedlora_utils.data.questions import Question, read_exam

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CurationSettings:
    """Which records are kept; see `curation.filter_records` and `curation.split_by_article`."""

    min_chars: int = 2
    max_chars: int = 1000
    heldout_share: float = 0.1
    seed: int = 1


@dataclass
class Prepared:
    """Records from one's own articles, and what was left out on the way.

    Attributes:
        articles: As read.
        counts: Articles read, and left out as empty or as copies.
        generated: What the model wrote, with tokens and cost.
        filtered: What the filters kept and dropped.
        report: Overlap of the kept records with the exams.
        leaked: Records dropped because they share 30 characters with an exam.
        train: Records for training.
        heldout: Records of held-out articles.
        pretraining: Articles for continued pretraining: those of the training side without 30 shared characters.
    """

    articles: list[Article]
    counts: dict[str, int]
    generated: Generated
    filtered: Filtered
    report: contamination.Report
    leaked: list[Row]
    train: list[Row]
    heldout: list[Row]
    pretraining: list[Article]

    def all_counts(self) -> dict[str, int]:
        """Every count of the way, for the table and the record."""
        rejects = Counter(f"rejected: {r['reason']}" for r in self.generated.rejects)
        dropped = Counter(f"dropped: {r['reason']}" for r in self.filtered.dropped)
        counts = {"articles " + name: count for name, count in self.counts.items()}
        counts |= self.generated.counts | dict(rejects.most_common()) | dict(dropped.most_common())
        counts |= {"prompt tokens": self.generated.prompt_tokens, "answer tokens": self.generated.answer_tokens}
        counts |= {"dropped: 30 characters of an exam": len(self.leaked), "records for training": len(self.train)}
        return counts | {"records held out": len(self.heldout), "articles for continued pretraining": len(self.pretraining)}

    def table(self) -> pd.DataFrame:
        """All counts and the cost, one row each."""
        import pandas as pd

        rows = [(name, f"{count:,}") for name, count in self.all_counts().items()]
        rows += [("cost of all answers", f"{self.generated.cost:.4f}"), ("cost of this run", f"{self.generated.cost_now:.4f}")]
        return pd.DataFrame(rows, columns=["what", "count"])

    def describe(self, record: Record, generation: GenerationSettings, kept: CurationSettings) -> None:
        """Puts settings and counts into the record of notebook 10; `articles` and `instructions` then count one's own."""
        record.config |= {"generation": asdict(generation), "curation": asdict(kept), "exams": self.report.questions}
        record.counts |= {"articles": len(self.pretraining), "instructions": len(self.train)} | self.all_counts()

    def write(self, workspace: paths.Workspace, seed: int) -> list[Path]:
        """Writes the records, the split, the articles for continued pretraining, and everything left out with its reason."""
        folder = workspace.data / "instructions"
        files = curation.write_split(folder, self.train, self.heldout, seed)
        files.append(write_jsonl(workspace.data / "articles.jsonl", [asdict(a) for a in self.pretraining]))
        files.append(write_jsonl(folder / "rejects.jsonl", self.generated.rejects))
        leaked = [r | {"reason": "30 characters of an exam"} for r in self.leaked]
        files.append(write_jsonl(folder / "dropped.jsonl", [*self.filtered.dropped, *leaked]))
        files.append(write_jsonl(folder / "overlaps.jsonl", [asdict(o) for o in self.report.overlaps]))
        return files


def prepare(
    path: Path | str,
    generation: GenerationSettings,
    kept: CurationSettings,
    exams: dict[str, list[Question]],
    cache_dir: Path | None = None,
) -> Prepared:
    """Makes records from the articles at `path`.

    Args:
        path: Folder of texts or JSONL file; see `load_articles`.
        generation: The endpoint and the prompt.
        kept: Filters and split.
        exams: Exams that no record may share text with; see `load_exams`.
        cache_dir: Where answers are kept; by default one folder for all presets and seeds, `runs/generated/`.

    Raises:
        JmedloraError: See the steps; also if no record is left.
    """
    articles, counts = load_articles(path)
    generated = generate(articles, generation, cache_dir or paths.runs_root() / "generated")
    filtered = curation.filter_records(generated.records, generation.language, kept.min_chars, kept.max_chars)
    report = contamination.check(filtered.kept, exams)
    clean, leaked = contamination.enforce(filtered.kept, report)
    if not clean:
        raise JmedloraError(
            f"no record is left of {len(generated.records)} pairs and {len(generated.rejects)} rejects from {len(articles)} articles: "
            f"{dict(Counter(r['reason'] for r in [*generated.rejects, *filtered.dropped]))}, {len(leaked)} shared text with an exam; "
            "a model that follows instructions better, or other limits, will help"
        )
    train, heldout = curation.split_by_article(clean, kept.heldout_share, kept.seed)
    outside = {r["article"] for r in heldout}
    pretraining = _without_exam_text([a for a in articles if a.id not in outside], exams)
    return Prepared(articles, counts, generated, filtered, report, leaked, train, heldout, pretraining)


def load_exams(names: Sequence[str], years: Sequence[int], language: str, workspace: paths.Workspace) -> dict[str, list[Question]]:
    """Reads the exams that records are checked against, whole: also the questions that no model is asked.

    Args:
        names: `igakuqa`, `jjsimqa`, or paths of JSONL files in the exam schema.
        years: Years of IgakuQA.
        language: `ja` or `en`, of IgakuQA.
        workspace: Of the preset.
    """
    files = [Path(name) for name in names if name.endswith(".jsonl")]
    real = [name for name in names if not name.endswith(".jsonl")]
    found = exam_files.collect(workspace, real, years, language, "error").exams
    return {**found, **{path.stem: read_exam(path) for path in files}}


def _without_exam_text(articles: Sequence[Article], exams: dict[str, list[Question]]) -> list[Article]:
    rows: list[dict[str, Any]] = [{"id": a.id, "instruction": a.title, "output": a.text} for a in articles]
    leaked = contamination.check(rows, exams).contaminated()
    return [a for a in articles if a.id not in leaked]
