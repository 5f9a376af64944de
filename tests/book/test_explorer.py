import html
import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from jmedlora_utils.book import answer_sources, explorer
from jmedlora_utils.book.answer_sources import Sheet, Shelf
from jmedlora_utils.book.explorer import FILTERS, MENUS, Explorer
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl, sha256_text, write_jsonl
from jmedlora_utils.data import prompts
from jmedlora_utils.data.exams import Question, read_exam
from jmedlora_utils.figures import plotting
from tests import synthetic_study

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "en-large_full")]
MODEL = "en-large_lora"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield answer_sources.open_shelf("smoke", 1)


@pytest.fixture
def panel(answers) -> Explorer:
    return Explorer(answers, exam="mini_trained", model=MODEL)


def made_up(question: Question, **responses: str) -> Shelf:
    """A shelf of one question and one answer a system."""

    def sheet(name: str, response: str) -> Sheet:
        return Sheet("made_up", name, name, 0, 0, "", (), 0, "records", lambda: {question.id: {"response": response}})

    sheets = tuple(sheet(name, response) for name, response in responses.items())
    return Shelf("", "nowhere", sheets, lambda _: {question.id: question}, lambda _: [])


QUESTION = Question(
    "q1",
    "made_up",
    "ja",
    "<b>どれ</b>か。",
    ("赤い薬", "青い薬", "白い薬", "黒い薬", "黄色い薬"),
    frozenset("b"),
    prohibited=frozenset("d"),
    breakdown=(0.1, 0.6, 0.1, 0.15, 0.05),
    student_accuracy=0.6,
)


def test_it_opens_at_the_last_step_beside_the_base_of_the_same_run(panel: Explorer) -> None:
    assert (panel.now.run, panel.now.step, panel.now.shots) == (MODEL, 40, 0)
    assert (panel.before.run, panel.before.step, panel.before.shots) == (MODEL, 0, 0)


def test_a_run_without_step_0_is_compared_with_its_base_in_another_run(panel: Explorer) -> None:
    panel.pick("model", "en-large_full")
    assert (panel.before.base, panel.before.step) == ("en-large", 0)
    assert panel.before.run == MODEL


def test_the_comparison_follows_the_model_until_another_is_picked(panel: Explorer) -> None:
    panel.pick("model", "en-small_lora")
    assert panel.before.base == "en-small"
    panel.pick("condition", "step 10, 1-shot")
    assert (panel.before.run, panel.before.step, panel.before.shots) == ("en-small_lora", 0, 1)
    panel.pick("against", "en-large_lora, step 40, 0-shot")
    panel.pick("model", "en-large_full")
    assert (panel.now.step, panel.now.shots) == (10, 1), "the condition is kept where the next model has it"
    assert panel.before.label == "en-large_lora, step 40, 0-shot"


def test_each_menu_offers_what_the_ones_before_it_leave(panel: Explorer) -> None:
    panel.pick("exam", "mini_general")
    assert [label for label, _ in panel.options("group")] == ["all", "general"]
    assert all(s.exam == "mini_general" for _, s in panel.options("condition"))
    assert panel.now.run == MODEL, "the model is kept where the next exam has it"
    with pytest.raises(JmedloraError, match=r"model 'gpt5' is not on offer in seed1; there is: .*en-large_lora"):
        panel.pick("model", "gpt5")
    with pytest.raises(JmedloraError, match="no menu 'colour'"):
        Explorer(panel.shelf, colour="red")
    with pytest.raises(JmedloraError, match="scorer 'kind' is not one of journal"):
        Explorer(panel.shelf, "kind")


def test_filters_split_the_questions(panel: Explorer) -> None:
    kept = {name: set(panel.matching(name)) for name in FILTERS}
    before, now = panel.scores(panel.before), panel.scores(panel.now)
    assert kept["all"] == set(now)
    assert kept["right"] | kept["wrong"] == kept["all"]
    assert not kept["right"] & kept["wrong"]
    assert kept["fixed"] == {key for key in now if now[key].accuracy and not before[key].accuracy}
    assert kept["broken"] == {key for key in now if not now[key].accuracy and before[key].accuracy}
    assert kept["fixed"] and kept["wrong"]
    panel.pick("group", "untaught")
    assert {panel._questions()[key].section for key in panel.matching("all")} == {"untaught"}


def test_the_tally_counts_what_the_filters_keep(panel: Explorer) -> None:
    tally = panel.tally().set_index("group")
    assert list(tally.index) == ["taught", "untaught"]
    assert tally["questions"].sum() == len(panel.matching("all"))
    assert tally["fixed"].sum() == len(panel.matching("fixed"))
    assert panel.picked["group"] == "", "counting changed the picks"


def test_the_written_table_agrees_with_the_filters(panel: Explorer) -> None:
    frame = panel.frame().set_index("id")
    fixed = frame[(frame["now_right"] == 1) & (frame["before_right"] == 0)]
    assert sorted(fixed.index) == sorted(panel.matching("fixed"))


def test_a_filter_that_keeps_nothing_shows_all_at_the_start_and_nothing_later(answers) -> None:
    panel = Explorer(answers, exam="mini_trained", model=MODEL, show="prohibited")
    assert panel.picked["show"] == "all"
    panel.pick("show", "prohibited")
    assert panel.view() is None
    assert "No question fits" in panel.card()
    with pytest.raises(JmedloraError, match="no question fits"):
        panel.figure()


def test_the_prompt_is_the_one_the_model_read_or_says_that_it_is_not(panel: Explorer) -> None:
    key = panel.picked["question"]
    question = panel._questions()[key]
    workspace = paths.Workspace("smoke", 1)
    assert question in read_exam(workspace.data / "exams" / "mini_trained.jsonl")
    prompt = prompts.build_exam_prompt(question, "plain_ja")
    assert panel.view().prompt == prompt
    assert panel.view().checked is None
    file = workspace.answers / f"{MODEL}__step40__mini_trained__0shot.jsonl"
    rows = read_jsonl(file)
    for hashed, said in ((prompt, "is the one that was read"), ("another prompt", "differs from the one that was read")):
        write_jsonl(file, [row | {"prompt_sha256": sha256_text(hashed)} for row in rows])
        again = Explorer(answer_sources.open_shelf("smoke", 1), exam="mini_trained", model=MODEL, question=key)
        assert said in again.card()
    write_jsonl(file, rows)


def test_the_card_shows_everything_and_lets_nothing_of_an_answer_act() -> None:
    panel = Explorer(made_up(QUESTION, system='<script>alert("x")</script>', other="黒い薬"))
    text = panel.card()
    assert "<script" not in text
    assert html.escape('<script>alert("x")</script>') in text
    assert "&lt;b&gt;どれ&lt;/b&gt;か。" in text
    assert all(choice in text for choice in QUESTION.choices)
    assert "60% of the students were right" in text
    assert "prohibited" in text
    assert '<td class="jm-number">60.0%</td>' in text
    panel.pick("model", "other")
    assert re.search(
        r"<td>d</td><td class=.jm-choice.>黒い薬</td><td>prohibited</td>[^\n]*?1\.00 \(taken\)</td><td class=.jm-number.>15\.0%",
        panel.card(),
    )
    assert panel.matching("prohibited") == ["q1"]


def test_an_empty_and_a_cut_answer_say_so() -> None:
    question = replace(QUESTION, breakdown=(), student_accuracy=None)
    panel = Explorer(made_up(question, system="  "))
    assert "(an empty answer)" in panel.card()
    assert "wrong, unreadable" in panel.card()
    assert panel.before is None
    side = replace(panel.view().now, cut=True)
    assert "cut at the token limit" in explorer.card(replace(panel.view(), now=side))


def test_choices_asked_in_another_order_are_compared_by_their_text() -> None:
    asked = made_up(QUESTION, system="青い薬", other="黒い薬")
    now, before = asked.sheets
    shuffled = replace(asked, sheets=(now, replace(before, shuffle=3)))
    panel = Explorer(shuffled)
    assert panel._questions()["q1"].choices == QUESTION.choices
    assert shuffled.questions(panel.before)["q1"].choices != QUESTION.choices
    assert panel.view().before.taken == frozenset("d")
    panel.pick("model", "other")
    assert panel.view().now.taken <= panel.view().question.prohibited


def test_the_figure_has_a_bar_for_each_choice_and_answer() -> None:
    plotting.use_style()
    panel = Explorer(made_up(QUESTION, system="青い薬", other="黒い薬"))
    figure = panel.figure()
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    widths = sorted(round(p.get_width(), 2) for p in ax.patches)
    assert len(widths) == 10
    assert widths[-2:] == [1.0, 1.0]
    gold = [t.get_text() for t in ax.get_yticklabels() if t.get_color() == plotting.PALETTE["blue"]]
    assert len(gold) == 1 and gold[0].startswith("b  青い薬")
    assert "b 1.00" in explorer.alt(panel.view())


def test_the_panel_follows_its_menus_and_is_static_under_papermill(panel: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.display import HTML

    plotting.use_style()
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    assert isinstance(panel.show(), HTML)
    monkeypatch.setenv("JMEDLORA_PROGRESS", "1")
    grid, question, shown = panel.show().children
    menus = dict(zip(MENUS, [*grid.children, question], strict=True))
    first = shown.value
    menus["question"].value = menus["question"].options[1][1]
    assert shown.value != first
    assert f'data-question="{panel.picked["question"]}"' in shown.value
    menus["exam"].value = "mini_general"
    assert panel.now.exam == "mini_general"
    assert menus["condition"].value is panel.now
    menus["show"].value = "prohibited"
    assert "No question fits" in shown.value
    assert "<img" not in shown.value
