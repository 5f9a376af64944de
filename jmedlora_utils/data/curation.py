"""Which generated records are kept, and on which side of the split they stand; what is dropped is counted."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.core.records import sha256_text, write_json, write_jsonl
from jmedlora_utils.core.settings import Checked

Row = dict[str, Any]


class CurationSettings(Checked):
    """Which records are kept, and how they are split."""

    min_chars: Annotated[int, Field(gt=0)] = 2  #: Shortest instruction and output, in characters
    max_chars: int = 1000  #: Longest instruction and output, in characters
    #: Jaccard similarity of character 5-grams of the normalised instruction and output from which a record repeats an earlier one; 1 keeps
    #: all that differ in more than case, blanks and punctuation
    near: Annotated[float, Field(gt=0, le=1)] = 0.9
    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  #: Share of the articles whose records are held out
    seed: int = 1  #: Of the split

    @model_validator(mode="after")
    def _has_room(self) -> CurationSettings:
        if self.max_chars < self.min_chars:
            raise ValueError(f"max_chars is {self.max_chars}, below min_chars, {self.min_chars}; raise it")
        return self


@dataclass
class Filtered:
    """Records that were kept, and those that were not with their `reason`."""

    kept: list[Row] = field(default_factory=list)
    dropped: list[Row] = field(default_factory=list)


def filter_records(records: Sequence[Row], language: str, settings: CurationSettings) -> Filtered:
    """Drops records that are too short or long, of another language (`ja` or `en`), broken, or that repeat an earlier one.

    Returns:
        Kept records, unaltered and in order; dropped ones with their `reason`.
    """
    result, fit = Filtered(), []
    for record in records:
        if reason := _unfit(record, language, settings):
            result.dropped.append(record | {"reason": reason})
        else:
            fit.append(record)
    repeated = _repeated([(r["instruction"], r["output"]) for r in fit], settings.near)
    result.kept = [record for i, record in enumerate(fit) if i not in repeated]
    result.dropped += [fit[i] | {"reason": reason} for i, reason in repeated.items()]
    return result


def _unfit(record: Row, language: str, settings: CurationSettings) -> str:
    texts = (record["instruction"], record["output"])
    if any(unicodedata.category(c) == "Cc" for text in texts for c in text):
        return "line break or control character"
    if any(len(text.strip()) < settings.min_chars for text in texts):
        return "too short"
    if any(len(text) > settings.max_chars for text in texts):
        return "too long"
    return "" if is_language("".join(texts), language) else f"not {language}"


def is_language(text: str, language: str) -> bool:
    """Whether a text is Japanese or English, by its characters.

    Japanese: holds kana, and no ideograph outside the Japanese standards (JIS X 0213, CP932), which sorts out Chinese.
    English: at least nine in ten letters are Latin.
    """
    letters = [c for c in nfkc(text) if c.isalpha()]
    if language == "en":
        return bool(letters) and sum("LATIN" in unicodedata.name(c, "") for c in letters) >= 0.9 * len(letters)
    kana = any("\u3041" <= c <= "\u30fa" for c in letters)
    return kana and all(_is_japanese_ideograph(c) for c in letters if unicodedata.name(c, "").startswith("CJK UNIFIED"))


def _is_japanese_ideograph(character: str) -> bool:
    return any(character.encode(codec, "ignore") for codec in ("euc_jis_2004", "cp932"))


def normalise(text: str) -> str:
    """NFKC, lower case, letters and digits only: what two texts share beyond their typography."""
    return "".join(c for c in nfkc(text).casefold() if c.isalnum())


def _repeated(pairs: Sequence[tuple[str, str]], near: float, n: int = 5) -> dict[int, str]:
    """Positions of pairs that repeat an earlier kept one, with the reason.

    A candidate must share one of the rarest n-grams: of two sets with Jaccard similarity t or more, the (1 - t) part of
    each that is rarest must meet (prefix filter of Bayardo et al. 2007), so few pairs are compared and none is missed.
    """
    texts = [f"{normalise(a)}\n{normalise(b)}" for a, b in pairs]
    grams = [{text[i : i + n] for i in range(max(len(text) - n + 1, 1))} for text in texts]
    frequency = Counter(gram for found in grams for gram in found)
    exact: set[tuple[str, str]] = set()
    same: set[str] = set()
    index: dict[str, list[int]] = {}
    repeated: dict[int, str] = {}
    for i, (pair, text, found) in enumerate(zip(pairs, texts, grams, strict=True)):
        if pair in exact:
            repeated[i] = "exact duplicate"
            continue
        ranked = sorted(found, key=lambda gram: (frequency[gram], gram))
        rarest = ranked[: len(found) - int(near * len(found) - 1e-9)]
        candidates = {j for gram in rarest for j in index.get(gram, ())}
        if text in same or (near < 1 and any(len(found & grams[j]) >= near * len(found | grams[j]) for j in candidates)):
            repeated[i] = "near duplicate"
            continue
        exact.add(pair)
        same.add(text)
        for gram in rarest:
            index.setdefault(gram, []).append(i)
    return repeated


def split_by_article(records: Sequence[Row], settings: CurationSettings) -> tuple[list[Row], list[Row]]:
    """Training and held-out records, each in their order, such that no article is on both sides.

    The articles are ranked by a hash of seed and id, so the split needs no state, and an article added later moves few.
    """
    articles = sorted({r["article"] for r in records}, key=lambda article: sha256_text(f"{settings.seed}\n{article}"))
    count = max(round(settings.heldout_share * len(articles)), 1) if settings.heldout_share else 0
    if count >= len(articles) and articles:
        why = f"only {len(articles)} article(s) have a record left after dropping repetitions and the rest, too few to hold one out"
        raise JmedloraError(f"parameter heldout_share: {why}; add articles, take a model that writes better, or set it to 0")
    chosen = set(articles[:count])
    return [r for r in records if r["article"] not in chosen], [r for r in records if r["article"] in chosen]


def write_split(folder: Path, train: Sequence[Row], heldout: Sequence[Row], seed: int) -> list[Path]:
    """Writes `train.jsonl`, `heldout.jsonl` and `split.json` (the articles of each side and the seed)."""
    sides = {"train": train, "heldout": heldout}
    written = [write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in sides.items()]
    split = {"seed": seed} | {name: sorted({r["article"] for r in rows}) for name, rows in sides.items()}
    return [*written, write_json(folder / "split.json", split)]
