"""One question at a time: the prompt, both answers, and how near every choice is to them. The panel of notebook 50."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jmedlora_utils.book.answer_sources import Sheet, Shelf
from jmedlora_utils.core import notebook
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import sha256_text
from jmedlora_utils.data import prompts
from jmedlora_utils.data.exams import Question
from jmedlora_utils.evaluation import metrics
from jmedlora_utils.figures import plotting

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FILTERS = {
    "all": "all",
    "fixed": "fixed: wrong before, right now",
    "broken": "broken: right before, wrong now",
    "right": "right now",
    "wrong": "wrong now",
    "unreadable": "unreadable: no choice can be read",
    "disputed": "the scorers disagree",
    "prohibited": "a prohibited choice was taken",
}
MENUS = ("exam", "group", "model", "condition", "against", "show", "question")
LABELS = {"model": "Model", "condition": "Condition", "against": "Compared with", "show": "Show", "group": "Group"}


@dataclass(frozen=True)
class Side:
    """One answer to the question.

    Attributes:
        label: Who answered.
        response: What was written.
        score: What the chosen scorer says of it.
        taken: Letters of the choices it was read as.
        distances: Gestalt distance of each choice to the response, 0 to 1, in printed order.
        cut: Whether the answer ended at the token budget.
        source: Where the answer lies.
    """

    label: str
    response: str
    score: metrics.Score
    taken: frozenset[str]
    distances: tuple[float, ...]
    cut: bool
    source: str

    @property
    def verdict(self) -> str:
        return "right" if self.score.accuracy else "wrong" if self.score.readable else "wrong, unreadable"


@dataclass(frozen=True)
class View:
    """One question, looked at.

    Attributes:
        question: The question.
        prompt: What the model read; empty where others asked.
        checked: Whether the prompt's hash equals that of the answers file; None where the file names none.
        now: The answer looked at.
        before: What it is compared with, if anything.
        scorer: Who judged.
    """

    question: Question
    prompt: str
    checked: bool | None
    now: Side
    before: Side | None
    scorer: str


class Explorer:
    """Picks an exam, a model, a condition and a question, and shows what was asked and answered.

    Each menu of `MENUS` offers what the ones before it leave; a pick that is no longer on offer falls back to the first
    offer. The comparison follows the model, its base, until another one is picked. Without a question that fits, all are
    shown at the start, and none later on.

    Args:
        shelf: What can be looked at.
        scorer: Who says what is right: one of `metrics.SCORERS`.
        picks: Where to start, by menu; see `options` for what is on offer.

    Raises:
        JmedloraError: A pick is not on offer, or the shelf is empty.
    """

    def __init__(self, shelf: Shelf, scorer: str = "journal", **picks: str) -> None:
        if scorer not in metrics.SCORERS:
            raise JmedloraError(f"scorer {scorer!r} is not one of {', '.join(metrics.SCORERS)}")
        if unknown := set(picks) - set(MENUS):
            raise JmedloraError(f"no menu {sorted(unknown)[0]!r}; there are {', '.join(MENUS)}")
        if not shelf.sheets:
            raise JmedloraError(f"{shelf.where} holds no answers; run notebook 30 first")
        self.shelf, self.scorer = shelf, scorer
        self.picked: dict[str, Any] = {}
        self._own_comparison = False
        self._scores: dict[tuple[Sheet, str], dict[str, metrics.Score]] = {}
        self._settle(MENUS)
        for menu in MENUS:
            if picks.get(menu):
                self.pick(menu, picks[menu])
        if self.picked["question"] is None:
            self.pick("show", "all")

    # --- picking ---

    def options(self, menu: str) -> list[tuple[str, Any]]:
        """What a menu offers under the picks before it: `(label, value)`, the default first."""
        return getattr(self, f"_{menu}_options")()

    def pick(self, menu: str, value: Any) -> None:
        """Picks a value, or its label, and lets the menus after it follow.

        Raises:
            JmedloraError: It is not on offer.
        """
        offered = self.options(menu)
        found = [v for label, v in offered if value in (v, label)]
        if not found:
            labels = ", ".join(label for label, _ in offered[:8]) or "nothing"
            raise JmedloraError(f"{menu} {value!r} is not on offer in {self.shelf.where}; there is: {labels}")
        self.picked[menu] = found[0]
        if menu == "against":
            self._own_comparison = found[0] != offered[0][1]
        self._settle(MENUS[MENUS.index(menu) + 1 :])

    def _settle(self, menus: Sequence[str]) -> None:
        for menu in menus:
            offered, last = [value for _, value in self.options(menu)], self.picked.get(menu)
            if menu == "condition" and last is not None:
                last = next((s for s in offered if (s.step, s.shots) == (last.step, last.shots)), None)
            if menu not in self.picked or last not in offered or (menu == "against" and not self._own_comparison):
                last = offered[0] if offered else None
            self.picked[menu] = last

    def _exam_options(self) -> list[tuple[str, Any]]:
        return [(exam, exam) for exam in self.shelf.exams]

    def _group_options(self) -> list[tuple[str, Any]]:
        sections = dict.fromkeys(q.section for q in self._questions().values() if q.section)
        return [("all", ""), *((s, s) for s in sections)]

    def _model_options(self) -> list[tuple[str, Any]]:
        return [(run, run) for run in dict.fromkeys(s.run for s in self._sat())]

    def _condition_options(self) -> list[tuple[str, Any]]:
        found = [s for s in self._sat() if s.run == self.picked["model"]]
        return [(s.condition, s) for s in sorted(found, key=lambda s: (s.shots, -s.step))]

    def _against_options(self) -> list[tuple[str, Any]]:
        now = self.now
        others = [s for s in self._sat() if s != now]

        def rank(other: Sheet) -> tuple[bool, ...]:
            base = other.step == 0 and other.shots == now.shots and other.base == now.base
            return not (base and other.run == now.run), not base, other.run != now.run, other.shots != now.shots

        return [(s.label, s) for s in sorted(others, key=rank)] + [("nothing", None)]

    def _show_options(self) -> list[tuple[str, Any]]:
        labels = {name: label.partition(":") for name, label in FILTERS.items()}
        return [(f"{head} ({len(self.matching(name))}){colon}{rest}", name) for name, (head, colon, rest) in labels.items()]

    def _question_options(self) -> list[tuple[str, Any]]:
        known = self._questions()
        return [(f"{key}  {textwrap.shorten(known[key].text, 60, placeholder='…')}", key) for key in self.matching(self.picked["show"])]

    def _questions(self) -> dict[str, Question]:
        now = self.picked.get("condition")
        return self.shelf.questions(now if now in self._sat() else self._sat()[0])

    def _sat(self) -> list[Sheet]:
        return [s for s in self.shelf.sheets if s.exam == self.picked["exam"]]

    # --- what was picked ---

    @property
    def now(self) -> Sheet:
        """The sheet looked at."""
        return self.picked["condition"]

    @property
    def before(self) -> Sheet | None:
        """The sheet that it is compared with."""
        return self.picked["against"]

    def scores(self, sheet: Sheet, scorer: str = "") -> dict[str, metrics.Score]:
        """The score of every answer of a sheet, by question id; the explorer's own scorer where none is named."""
        key = (sheet, scorer or self.scorer)
        if key not in self._scores:
            known, rows = self.shelf.questions(sheet), sheet.answers
            self._scores[key] = {name: metrics.score(q, rows[name]["response"], key[1]) for name, q in known.items() if name in rows}
        return self._scores[key]

    def matching(self, show: str) -> list[str]:
        """Ids of the questions of the picked group that a filter keeps, in exam order."""
        now, group, known = self.scores(self.now), self.picked["group"], self._questions()
        before = self.scores(self.before) if self.before else {}
        asked = [key for key in now if not group or known[key].section == group]

        def keeps(key: str) -> bool:
            right, was = bool(now[key].accuracy), bool(before[key].accuracy) if key in before else None
            match show:
                case "fixed":
                    return right and was is False
                case "broken":
                    return not right and was is True
                case "right":
                    return right
                case "wrong":
                    return not right
                case "unreadable":
                    return not now[key].readable
                case "disputed":
                    return len({self.scores(self.now, scorer)[key].accuracy for scorer in metrics.SCORERS}) > 1
                case "prohibited":
                    return bool(now[key].picked & known[key].prohibited)
            return True

        return [key for key in asked if keeps(key)]

    def tally(self) -> pd.DataFrame:
        """How many questions each filter keeps, one row a group; the picks stay as they are."""
        import pandas as pd

        groups = [(label, value) for label, value in self._group_options() if value] or self._group_options()
        rows, kept = [], self.picked["group"]
        for label, value in groups:
            self.picked["group"] = value
            rows.append({"group": label, **{name: len(self.matching(name)) for name in FILTERS}})
        self.picked["group"] = kept
        return pd.DataFrame(rows).rename(columns={"all": "questions"})

    def frame(self) -> pd.DataFrame:
        """Every question of the exam under the picked condition: gold, both answers, what was read in them, right or not."""
        import pandas as pd

        rows = []
        for key, question in self._questions().items():
            row: dict[str, Any] = {"id": key, "group": question.section, "gold": "".join(sorted(question.gold))}
            for name, sheet in (("before", self.before), ("now", self.now)):
                if sheet and key in sheet.answers:
                    score = self.scores(sheet)[key]
                    row |= {f"{name}_response": sheet.answers[key]["response"], f"{name}_picked": "".join(sorted(score.picked))}
                    row |= {f"{name}_right": int(score.accuracy)}
            rows.append(row)
        frame = pd.DataFrame(rows)
        return frame.dropna(subset=["now_right"])

    # --- looking ---

    def view(self) -> View | None:
        """The picked question; None where no question fits the picks."""
        key = self.picked["question"]
        if key is None:
            return None
        question, now = self._questions()[key], self.now
        prompt, checked = "", None
        if now.template:
            prompt = self._prompt(question, now)
            known = None if prompts.get_template(now.template).chat else now.answers[key].get("prompt_sha256")
            checked = None if known is None else known == sha256_text(prompt)
        before = self._side(question, self.before) if self.before and key in self.before.answers else None
        return View(question, prompt, checked, self._side(question, now), before, self.scorer)

    def _prompt(self, question: Question, sheet: Sheet) -> str:
        shots = self.shelf.read_shots(sheet)
        if prompts.get_template(sheet.template).chat:
            # The model's own tokenizer wraps this in its chat form; it is not loaded only to look.
            asked = [f"{q.text}\n\n{prompts.choice_lines(q, sheet.template)}" for q in (*shots, question)]
            answered = [f"{text}\n\n{prompts.answer_text(q)}" for text, q in zip(asked, shots, strict=False)]
            return "\n\n".join(["(without the model's own chat form)", *answered, asked[-1]])
        return prompts.build_exam_prompt(question, sheet.template, shots)

    def _side(self, question: Question, sheet: Sheet) -> Side:
        row, score = sheet.answers[question.id], self.scores(sheet)[question.id]
        variant = metrics.DEFAULT_VARIANT[self.scorer]
        distances = tuple(metrics.gestalt_distance(row["response"].strip(), c, variant) for c in question.choices)
        # The other sheet may have its choices in another order; letters are those of the question shown.
        own = self.shelf.questions(sheet)[question.id]
        taken = frozenset(letter for letter in question.letters if question.choice(letter) in {own.choice(x) for x in score.picked})
        return Side(sheet.label, row["response"], score, taken, distances, row.get("finish") == "length", sheet.source)

    def card(self) -> str:
        """The picked question as HTML: prompt, answers, and a table of the choices."""
        view = self.view()
        return card(view) if view else f'<div class="jm-card"><p>No question fits: {html.escape(FILTERS[self.picked["show"]])}.</p></div>'

    def figure(self) -> Figure:
        """The picked question as a figure, see `bars`.

        Raises:
            JmedloraError: No question fits the picks.
        """
        view = self.view()
        if view is None:
            raise JmedloraError(f"no question fits: {FILTERS[self.picked['show']]}; pick another filter")
        return bars(view)

    def show(self) -> Any:
        """The panel with its menus in JupyterLab; the picked question alone under papermill, where nobody can click."""
        from IPython.display import HTML

        return HTML(self.card()) if notebook.quiet() else self.panel()

    def panel(self) -> Any:
        """Menus, and below them the picked question: an ipywidgets box."""
        import ipywidgets as widgets

        wide = widgets.Layout(width="auto", min_width="14em")
        menus: dict[str, Any] = {}
        for menu in MENUS[:-1]:
            menus[menu] = widgets.Dropdown(description=LABELS.get(menu, menu.capitalize()), layout=wide, style={"description_width": "8em"})
        menus["question"] = widgets.Select(description="Question", rows=6, layout=wide, style={"description_width": "8em"})
        for menu, widget in menus.items():
            widget.add_class(f"jm-menu-{menu}")
        shown = widgets.HTML()
        shown.add_class("jm-shown")
        busy = [False]

        def draw() -> None:
            busy[0] = True
            for menu, widget in menus.items():
                offered = self.options(menu)
                if list(widget.options) != offered:
                    widget.options = offered
                widget.value = self.picked[menu]
            busy[0] = False
            view = self.view()
            shown.value = self.card() + (f"<figure>{_image(view)}</figure>" if view else "")

        def picked(menu: str) -> Callable[[Any], None]:
            def on(change: Any) -> None:
                if not busy[0]:
                    self.pick(menu, change["new"])
                    draw()

            return on

        for menu, widget in menus.items():
            widget.options = self.options(menu)
            widget.value = self.picked[menu]
            widget.observe(picked(menu), names="value")
        draw()
        grid = widgets.GridBox(
            [menus[m] for m in MENUS[:-1]], layout=widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(20em, 1fr))", width="100%")
        )
        return widgets.VBox([grid, menus["question"], shown], layout=widgets.Layout(width="100%"))


# --- what is shown ------------------------------------------------------------------------------------------------

STYLE = """<style>
.jm-card { line-height: 1.5; max-width: 60rem; }
.jm-card p { margin: 0.5em 0; }
.jm-card .jm-stem { font-size: 1.1em; font-weight: 600; }
.jm-card pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6em; border: 1px solid rgba(128, 128, 128, 0.5); }
.jm-card .jm-table { overflow-x: auto; }
.jm-card table { border-collapse: collapse; margin: 0.5em 0; }
.jm-card th, .jm-card td { padding: 0.2em 0.7em; text-align: left; border-bottom: 1px solid rgba(128, 128, 128, 0.5); }
.jm-card td.jm-number { text-align: right; font-variant-numeric: tabular-nums; }
.jm-card td.jm-choice { min-width: 9em; }
.jm-card tr.jm-gold { font-weight: 700; }
.jm-card .jm-foot { font-size: 0.85em; }
</style>"""


def card(view: View) -> str:
    """A question as HTML that needs no script: who answered what, the choices with their distances, and the prompt, folded."""
    q, sides = view.question, [side for side in (view.before, view.now) if side]
    about = " · ".join(html.escape(part) for part in (q.exam, q.id, q.section, q.category) if part)
    lines = [f'<div class="jm-card" data-question="{html.escape(q.id)}">', STYLE, f"<p>{about}</p>"]
    lines.append(f'<p class="jm-stem">{_text(q.text)}</p>')
    for name, side in zip(_names(sides), sides, strict=True):
        said = f"「{_text(side.response)}」" if side.response.strip() else "(an empty answer)"
        cut = " (cut at the token limit)" if side.cut else ""
        lines.append(f"<p>{name.capitalize()} ({html.escape(side.label)}): {said}{cut}: <strong>{side.verdict}</strong></p>")
    lines.append(f'<div class="jm-table">{_choices(view, sides)}</div>')
    if q.student_accuracy is not None:
        lines.append(f"<p>{q.student_accuracy:.0%} of the students were right.</p>")
    if view.prompt:
        lines.append(f"<details><summary>What the model read</summary><pre>{html.escape(view.prompt)}</pre></details>")
    lines.append(f'<p class="jm-foot">{html.escape(_foot(view, sides))}</p></div>')
    return "\n".join(lines)


def _choices(view: View, sides: Sequence[Side]) -> str:
    q = view.question
    heads = ["", "choice", "", *(f"distance {name}" for name in _names(sides))] + (["students"] if q.breakdown else [])
    rows = ["<tr>" + "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads) + "</tr>"]
    for rank, (letter, choice) in enumerate(zip(q.letters, q.choices, strict=True)):
        notes = [note for note, holds in (("gold", letter in q.gold), ("prohibited", letter in q.prohibited)) if holds]
        cells = [f'<td>{letter}</td><td class="jm-choice">{_text(choice)}</td><td>{", ".join(notes)}</td>']
        for side in sides:
            taken = " (taken)" if letter in side.taken else ""
            cells.append(f'<td class="jm-number">{side.distances[rank]:.2f}{taken}</td>')
        if q.breakdown:
            cells.append(f'<td class="jm-number">{q.breakdown[rank]:.1%}</td>')
        rows.append(f'<tr class="{"jm-gold" if letter in q.gold else "jm-other"}">{"".join(cells)}</tr>')
    return f"<table>{''.join(rows)}</table>"


def _names(sides: Sequence[Side]) -> list[str]:
    """What the two answers are called on the card; one alone is just now."""
    return ["before", "now"][-len(sides) :]


def _foot(view: View, sides: Sequence[Side]) -> str:
    said = [f"Scorer {view.scorer}, distance {metrics.DEFAULT_VARIANT[view.scorer]!r}: 0 to 1, higher is closer."]
    if view.checked is not None:
        same = "The prompt is the one that was read: its SHA-256 is that of the answers file."
        said.append(same if view.checked else "The prompt is built anew and differs from the one that was read.")
    return " ".join([*said, "Records: " + ", ".join(dict.fromkeys(side.source for side in sides)) + "."])


def _text(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def bars(view: View) -> Figure:
    """Distance of every choice to the answer, and to the one it is compared with; the students' shares where published."""
    q, height = view.question, 0.36
    labels = [_tick(q, letter, choice) for letter, choice in zip(q.letters, q.choices, strict=True)]
    figure, axes = plotting.new_figure(height=1.3 + 0.55 * len(labels) + 0.15 * sum(label.count("\n") for label in labels))
    ax = axes[0, 0]
    looks = [(view.now, "blue", "")] if view.before is None else [(view.before, "sky", "//"), (view.now, "blue", "")]
    for rank, (side, colour, hatch) in enumerate(looks):
        y = [i + height * (rank - (len(looks) - 1) / 2) for i in range(len(labels))]
        look = {"color": plotting.PALETTE[colour], "hatch": hatch, "edgecolor": "white"}
        drawn = ax.barh(y, side.distances, height=height * 0.95, label=side.label, **look)
        ax.bar_label(drawn, [f"{d:.2f}" for d in side.distances], padding=3, fontsize=9.5)
    if q.breakdown:
        look = {"color": plotting.PALETTE["vermilion"], "marker": "D", "zorder": 3, "label": "share of students"}
        ax.scatter(q.breakdown, range(len(labels)), s=30, **look)
    ax.set_yticks(range(len(labels)), labels)
    for tick, letter in zip(ax.get_yticklabels(), q.letters, strict=True):
        if letter in q.gold:
            tick.set_color(plotting.PALETTE["blue"])  # the Japanese font has no bold face
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Gestalt distance to the answer (higher is closer)")
    plotting.percent_axis(ax, 0, 1.12, axis="x")
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    plotting.legend_above(figure, ax, columns=1)
    return figure


def _tick(question: Question, letter: str, choice: str) -> str:
    notes = [note for note, holds in (("gold", letter in question.gold), ("prohibited", letter in question.prohibited)) if holds]
    lines = textwrap.wrap(choice, 18)
    shown = lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-1]}…"]
    return "\n".join([f"{letter}  {shown[0]}", *shown[1:], *(f"({note})" for note in notes)])


def alt(view: View) -> str:
    """The figure in words."""
    sides = [side for side in (view.before, view.now) if side]
    said = [f"{s.label}: " + ", ".join(f"{k} {d:.2f}" for k, d in zip(view.question.letters, s.distances, strict=True)) for s in sides]
    return "Distance of each choice to the answer. " + "; ".join(said)


def _image(view: View) -> str:
    picture = io.BytesIO()
    bars(view).savefig(picture, format="png", dpi=110)
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img style="background: #fff; max-width: 100%" alt="{html.escape(alt(view))}" src="data:image/png;base64,{data}">'
