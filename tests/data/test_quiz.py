"""The quiz from one's own records: what holds of every quiz, and what is refused."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import curation, quiz
from jmedlora_utils.data.articles import load_articles

SAMPLE = paths.ROOT / "examples" / "hospital"


def record(article: str, instruction: str, output: str, **more: str) -> dict[str, str]:
    return {"id": f"{article}/{instruction}", "article": article, "instruction": instruction, "output": output, **more}


def hospital(articles: range, wordings: int = 2) -> list[dict[str, str]]:
    """Two facts an article, each in several wordings."""
    facts = [(f"手順{n}", f"{n}室", "場所") for n in articles] + [(f"手順{n}", f"第{n}の班です。", "係") for n in articles]
    return [record(f"{name}.md", f"{name}の{what}{'は' * w}？", answer) for name, answer, what in facts for w in range(1, wordings + 1)]


def split(seed: int, share: float = 0.42) -> tuple[list, list]:
    rows = quiz.read_records(SAMPLE / "records.jsonl")
    return curation.split_by_article(rows, curation.CurationSettings(heldout_share=share, seed=seed))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_quiz_asks_each_fact_once_with_choices_of_its_kind_and_side(seed: int) -> None:
    train, heldout = split(seed)
    made = quiz.make(train, heldout, seed, "plain_ja")
    written = {row["instruction"]: row for row in [*train, *heldout]}
    answers = {side: {quiz.term(r["output"]) for r in rows} for side, rows in (("taught", train), ("untaught", heldout))}
    for question in made.questions:
        row = written[question.text]
        assert question.choice(*question.gold) == row["output"] and question.choices.count(row["output"]) == 1
        assert len(set(question.choices)) == 5 and set(question.choices) <= answers[question.section]
        assert {quiz.kind_of({"output": c}) for c in question.choices} == {question.category}
    assert len({(written[q.text]["article"], q.category) for q in made.questions}) == len(made.questions)
    for side in answers:
        places = Counter(min(q.gold) for q in made.questions if q.section == side)
        assert max(places.values()) - min(places.values()) <= 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_nothing_of_the_quiz_is_trained_on_but_the_taught_facts_are(seed: int) -> None:
    train, heldout = split(seed)
    made = quiz.make(train, heldout, seed, "plain_ja")
    asked = {q.text: q for q in made.questions}
    assert not {r["instruction"] for r in made.records} & set(asked)
    assert not {r["article"] for r in made.records} & {r["article"] for r in heldout}
    taught = {(r["article"], r["output"]) for r in made.records}
    by_text = {r["instruction"]: r for r in [*train, *heldout]}
    for text, question in asked.items():
        row = by_text[text]
        assert ((row["article"], row["output"]) in taught) == (question.section == "taught")
    held = {r["output"] for r in heldout}
    assert not any(answer in r["input"].split() for r in made.records for answer in held)


def test_the_records_of_the_sample_rest_on_its_articles() -> None:
    articles, counts = load_articles(SAMPLE / "articles")
    texts = {a.id: a.text for a in articles}
    rows = quiz.read_records(SAMPLE / "records.jsonl")
    assert counts == {"read": 12, "empty": 0, "same text": 0}
    assert all(row["output"] in texts[row["article"]] for row in rows)
    assert not any(row["output"] in text for row in rows for name, text in texts.items() if name != row["article"])
    assert (SAMPLE / "README.md").read_text(encoding="utf-8").count("articles/") == len(articles)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("かえで室です。", "室"),
        ("３５分", "#分"),
        ("内線4102", "内線#"),
        ("the Lily room", "room"),
    ],
)
def test_the_kind_of_an_answer_is_its_form(output: str, kind: str) -> None:
    assert quiz.kind_of({"output": output}) == kind
    assert quiz.kind_of({"output": output, "kind": "場所"}) == "場所"


def test_sentences_single_wordings_and_rare_kinds_are_left_out_and_counted() -> None:
    rows = hospital(range(1, 13))
    rows += [record("手順1.md", f"手順1の目的{n}？", "だれが見ても同じ結果になるように決められています。") for n in range(2)]
    rows += [record("手順2.md", "手順2の色？", "藤色"), record("手順3.md", "手順3の最後の場所？", "99室")]
    made = quiz.make(rows, hospital(range(20, 32)), 1, "plain_ja")
    assert made.left_out == {
        "taught: the answer is a sentence": 1,
        "taught: fewer than 5 different answers of its kind": 1,
        "taught: asked in one wording only": 1,
    }
    assert "藤色" in {r["output"] for r in made.records}, "what cannot be asked is still taught"


def test_a_fact_of_its_own_name_holds_wordings_together() -> None:
    rows = [row | {"output": "10分", "fact": f"{row['article']}-{i // 2}"} for i, row in enumerate(hospital(range(1, 7)))]
    assert len(quiz.facts_of(rows)) == 12
    assert len(quiz.facts_of([{k: v for k, v in row.items() if k != "fact"} for row in rows])) == 6


def test_an_untaught_question_in_the_words_of_training_is_left_out() -> None:
    shared = [row | {"article": f"{row['article']}-other"} for row in hospital(range(1, 2))]
    heldout = [*hospital(range(20, 32)), *shared]
    made = quiz.make(hospital(range(1, 13)), heldout, 1, "plain_ja")
    assert made.left_out["untaught: asked in the same words in training"] == 2


def test_a_dose_is_another_one_where_its_numbers_differ() -> None:
    rows = [record("薬.md", f"薬の{what}{n}？", dose) for what, dose in (("初回量", "1.5mg"), ("最大量", "15mg")) for n in range(2)]
    assert [fact.answer for fact in quiz.facts_of(rows)] == ["1.5mg", "15mg"]
    alike = [row | {"output": dose} for row, dose in zip(rows, ("1,500mg", "１５００mg", "1500mg。", "1500mg"), strict=True)]
    assert len(quiz.facts_of(alike)) == 1


def test_a_question_of_the_quiz_is_not_trained_on_through_another_article() -> None:
    rows = hospital(range(1, 13))
    again = [row | {"article": "copy.md", "output": "藤色", "instruction": row["instruction"].replace("？", "?")} for row in rows]
    made = quiz.make([*rows, *again], hospital(range(20, 32)), 1, "plain_ja")
    asked = {curation.normalise(q.text) for q in made.questions}
    assert not asked & {curation.normalise(row["instruction"]) for row in made.records}


def test_too_few_questions_are_refused_with_what_to_write() -> None:
    with pytest.raises(JmedloraError, match=r"0 untaught questions, at least 10 .*fewer than 5.*Kinds .*#室 3.*hold more articles out"):
        quiz.make(hospital(range(1, 13)), hospital(range(20, 23)), 1, "plain_ja")
    with pytest.raises(JmedloraError, match=r"0 taught questions.*asked in one wording only.*two wordings"):
        quiz.make(hospital(range(1, 13), wordings=1), hospital(range(20, 32)), 1, "plain_ja")


def test_the_records_of_notebook_10_make_a_quiz(tmp_path) -> None:
    rows = hospital(range(1, 31))
    train, heldout = curation.split_by_article(rows, curation.CurationSettings(heldout_share=0.4, seed=1))
    curation.write_split(tmp_path, train, heldout, 1)
    made = quiz.make(*map(quiz.read_records, quiz.sides(tmp_path)), 1, "alpaca_ja")
    assert {q.section for q in made.questions} == {"taught", "untaught"} and len(made.questions) == 60


def test_an_article_on_both_sides_is_refused() -> None:
    with pytest.raises(JmedloraError, match=r"手順1\.md' is on both sides"):
        quiz.make(hospital(range(1, 13)), hospital(range(1, 2)), 1, "plain_ja")


def test_a_record_without_a_field_is_refused_by_file_and_line(tmp_path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(record("a", "b", "c")) + "\n" + json.dumps({"article": "a", "instruction": "b"}) + "\n")
    with pytest.raises(JmedloraError, match=r"records.jsonl:2: field 'output' is missing"):
        quiz.read_records(file)
    with pytest.raises(JmedloraError, match="notebook 10 has made no records"):
        quiz.sides(tmp_path)


def test_the_same_seed_gives_the_same_quiz_and_another_seed_another() -> None:
    train, heldout = split(1)
    first, again, other = (quiz.make(train, heldout, seed, "plain_ja") for seed in (1, 1, 2))
    assert first.questions == again.questions and first.records == again.records
    assert first.questions != other.questions
