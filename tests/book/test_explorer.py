"""The explorer picks what belongs together, its filters split the questions, and an answer is shown as text."""

import re
from dataclasses import replace

import pytest
from markupsafe import escape

from jmedlora_utils.book import answer_sources
from jmedlora_utils.book.answer_sources import AnswerSet, AnswerSource
from jmedlora_utils.book.explorer import FILTERS, MENUS, Explorer
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl, sha256_text, write_jsonl
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import Question, read_exam
from jmedlora_utils.figures import style
from tests import synthetic_study

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "en-large_full")]
MODEL = "en-large_lora"
ABOUT = {"prohibited": frozenset("d"), "breakdown": (0.1, 0.6, 0.1, 0.15, 0.05), "student_accuracy": 0.6}
CHOICES = ("赤い薬", "青い薬", "白い薬", "黒い薬", "黄色い薬")
QUESTION = Question("q1", "made_up", "ja", "<b>どれ</b>か。", CHOICES, frozenset("b"), **ABOUT)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield answer_sources.open_answers("smoke", 1)


@pytest.fixture
def panel(answers) -> Explorer:
    return Explorer(answers, exam="mini_trained", model=MODEL)


def made_up(question: Question = QUESTION, **responses: str) -> AnswerSource:
    """One question, and one answer of each system."""

    def answer(name: str, response: str) -> AnswerSet:
        return AnswerSet("made_up", name, "records", lambda: {question.id: {"response": response, "finish": "length"}}, base=name)

    sets = tuple(answer(name, response) for name, response in responses.items())
    return AnswerSource("", "nowhere", sets, lambda _: {question.id: question})


def test_an_answer_is_compared_with_its_own_base_until_another_is_picked(panel: Explorer) -> None:
    def seen() -> tuple[str, str]:
        return panel.now.label, panel.before.label

    assert seen() == (f"{MODEL}, step 40, 0-shot", f"{MODEL}, base (step 0), 0-shot")
    panel.pick("model", "en-large_full")
    assert panel.before.label == f"{MODEL}, base (step 0), 0-shot", "this run has no step 0 of its own, its base has"
    panel.pick("model", "en-small_lora")
    panel.pick("condition", "step 10, 1-shot")
    assert panel.before.label == "en-small_lora, base (step 0), 1-shot"
    panel.pick("against", f"{MODEL}, step 40, 0-shot")
    panel.pick("model", "en-large_full")
    assert seen() == ("en-large_full, step 10, 1-shot", f"{MODEL}, step 40, 0-shot"), "condition and comparison are kept"


def test_each_menu_offers_what_the_ones_before_it_leave(panel: Explorer) -> None:
    panel.pick("exam", "mini_general")
    assert [label for label, _ in panel.options("group")] == ["all", "general"]
    assert all(s.exam == "mini_general" for _, s in panel.options("condition"))
    assert panel.now.run == MODEL, "the model is kept where the next exam has it"
    with pytest.raises(JmedloraError, match=r"model 'gpt5': is not on offer in seed1; choose from .*en-large_lora"):
        panel.pick("model", "gpt5")
    with pytest.raises(JmedloraError, match="no menu 'colour'"):
        Explorer(panel.source, colour="red")
    with pytest.raises(JmedloraError, match="scorer 'kind': is not one of journal"):
        Explorer(panel.source, "kind")


def test_filters_split_the_questions_and_the_tables_agree_with_them(panel: Explorer) -> None:
    kept = {name: set(panel.matching(name)) for name in FILTERS}
    before, now = panel.scores(panel.before), panel.scores(panel.now)
    assert kept["all"] == set(now) == kept["right"] | kept["wrong"] and not kept["right"] & kept["wrong"]
    assert kept["fixed"] == {key for key in now if now[key].accuracy and not before[key].accuracy} != set()
    assert kept["broken"] == {key for key in now if not now[key].accuracy and before[key].accuracy}
    tally, frame = panel.tally().set_index("group"), panel.frame().set_index("id")
    assert list(tally.index) == ["taught", "untaught"]
    assert tally["questions"].sum() == len(kept["all"]) and tally["fixed"].sum() == len(kept["fixed"])
    assert set(frame[(frame["now_right"] == 1) & (frame["before_right"] == 0)].index) == kept["fixed"]
    panel.pick("group", "untaught")
    assert {panel.source.read_questions("mini_trained")[key].section for key in panel.matching("all")} == {"untaught"}


def test_a_filter_that_keeps_nothing_shows_all_at_the_start_and_nothing_later(answers) -> None:
    panel = Explorer(answers, exam="mini_trained", model=MODEL, show="prohibited")
    assert panel.picked["show"] == "all"
    panel.pick("show", "prohibited")
    assert panel.question() is None and "No question fits" in panel.card()
    with pytest.raises(JmedloraError, match="no question fits"):
        panel.figure()


def test_the_prompt_is_the_one_the_model_read_or_the_card_says_that_it_is_not(panel: Explorer) -> None:
    question, workspace = panel.question(), paths.Workspace("smoke", 1)
    assert question in read_exam(workspace.data / "exams" / "mini_trained.jsonl")
    prompt = prompts.build_exam_prompt(question, "plain_ja")
    assert panel.prompt() == (prompt, None)
    file = workspace.answers / f"{MODEL}__step40__mini_trained__0shot.jsonl"
    rows = read_jsonl(file)
    for hashed, said in ((prompt, "This prompt has the SHA-256"), ("another prompt", "This prompt does not have the SHA-256")):
        write_jsonl(file, [row | {"prompt_sha256": sha256_text(hashed)} for row in rows])
        again = Explorer(answer_sources.open_answers("smoke", 1), exam="mini_trained", model=MODEL, question=question.id)
        assert said in again.card()
    write_jsonl(file, rows)


def test_the_card_shows_everything_and_lets_nothing_of_an_answer_act() -> None:
    panel = Explorer(made_up(system='<script>alert("x")</script>', other="黒い薬"))
    text = panel.card()
    assert "<script" not in text and escape('<script>alert("x")</script>') in text
    assert "&lt;b&gt;どれ&lt;/b&gt;か。" in text and all(choice in text for choice in QUESTION.choices)
    assert "60% of the students were right" in text and "cut at the token limit" in text
    panel.pick("model", "other")
    row = r"<td>d</td><td class=.jm-choice.>黒い薬</td><td>prohibited</td>[^\n]*?1\.00 \(taken\)</td><td class=.jm-number.>15\.0%"
    assert re.search(row, panel.card())
    assert panel.matching("prohibited") == ["q1"]
    empty = Explorer(made_up(system="  "))
    assert "(an empty answer)" in empty.card() and "wrong, unreadable" in empty.card() and empty.before is None


def test_choices_asked_in_another_order_are_compared_by_their_text() -> None:
    asked = made_up(system="青い薬", other="黒い薬")
    now, before = asked.sets
    panel = Explorer(replace(asked, sets=(now, replace(before, shuffle=3))))
    assert panel.question().choices == QUESTION.choices
    assert panel.source.questions(panel.before)["q1"].choices != QUESTION.choices
    assert panel.sides()["before"].taken == frozenset("d")
    panel.pick("model", "other")
    assert panel.sides()["now"].taken <= panel.question().prohibited


def test_the_figure_has_a_bar_for_each_choice_and_answer() -> None:
    style.use_style()
    panel = Explorer(made_up(system="青い薬", other="黒い薬"))
    ax = panel.figure().axes[0]
    widths = sorted(round(bar.get_width(), 2) for bars in ax.containers for bar in bars)
    assert len(widths) == 10 and widths[-2:] == [1.0, 1.0]
    gold = [t.get_text() for t in ax.get_yticklabels() if t.get_color() == style.PALETTE["blue"]]
    assert len(gold) == 1 and gold[0].startswith("b  青い薬")
    assert "b 1.00" in panel.alt()


def test_the_panel_follows_its_menus_and_is_static_under_papermill(panel: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.display import HTML

    style.use_style()
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    assert isinstance(panel.show(), HTML)
    monkeypatch.setenv("JMEDLORA_PROGRESS", "1")
    grid, question, shown = panel.show().children
    menus = dict(zip(MENUS, [*grid.children, question], strict=True))
    first = shown.value
    menus["question"].value = menus["question"].options[1][1]
    assert shown.value != first and f'data-question="{panel.picked["question"]}"' in shown.value
    menus["exam"].value = "mini_general"
    assert panel.now.exam == "mini_general" and menus["condition"].value is panel.now
    menus["show"].value = "prohibited"
    assert "No question fits" in shown.value and "<img" not in shown.value
