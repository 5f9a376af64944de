"""One question at a time: the prompt, both answers, and how near every choice is to them. The panel of notebook 50."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
import seaborn as sns
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from jmedlora_utils.book.answer_sources import AnswerSet, AnswerSource
from jmedlora_utils.core import notebook, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import visible
from jmedlora_utils.core.records import sha256_text
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import metrics
from jmedlora_utils.figures import style

if TYPE_CHECKING:
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
MENUS = {"exam": "Exam", "group": "Group", "model": "Model", "condition": "Condition", "against": "Compared with", "show": "Show"} | {
    "question": "Question"
}
Option = tuple[str, Any]


@dataclass(frozen=True)
class Side:
    """One answer to the question in view."""

    label: str  #: Who answered
    response: str  #: What was written
    score: metrics.Score  #: What the chosen scorer says of it
    taken: frozenset[str]  #: Letters of the choices it was read as, in the order of the question in view
    distances: tuple[float, ...]  #: Gestalt distance of each choice to the response, 0 to 1, in the order of the question in view
    cut: bool  #: Whether the answer ended at the token limit
    source: str  #: Where the answer is

    @property
    def verdict(self) -> str:
        return "right" if self.score.accuracy else "wrong" if self.score.readable else "wrong, unreadable"


class Explorer:
    """Picks an exam, a model, a condition and a question, and shows what was asked and answered.

    Each menu of `MENUS` offers what the ones before it leave; a pick that is no longer on offer falls back to the first
    option. The comparison follows the model, its base, until another one is picked. If no question fits, all are
    shown at the start, and none later on. `picks` say where to start, by menu.

    Raises:
        JmedloraError: A pick is not on offer, or the source is empty.
    """

    def __init__(self, source: AnswerSource, scorer: str = "journal", **picks: str) -> None:
        if scorer not in metrics.SCORERS:
            raise JmedloraError(f"scorer {scorer!r}: is not one of {', '.join(metrics.SCORERS)}")
        if unknown := set(picks) - set(MENUS):
            raise JmedloraError(f"no menu {min(unknown)!r}: there are {', '.join(MENUS)}")
        if not source.sets:
            raise JmedloraError(f"{source.where}: holds no answers; run notebook 30 first")
        self.source, self.scorer = source, scorer
        self.picked: dict[str, Any] = {}
        self._own_comparison = False
        self._scores: dict[tuple[AnswerSet, str], dict[str, metrics.Score]] = {}
        self._settle(list(MENUS))
        for menu in MENUS:
            if picks.get(menu):
                self.pick(menu, picks[menu])
        if self.picked["question"] is None:
            self.pick("show", "all")

    @property
    def now(self) -> AnswerSet:
        """The answers looked at."""
        return self.picked["condition"]

    @property
    def before(self) -> AnswerSet | None:
        """The answers that they are compared with."""
        return self.picked["against"]

    def options(self, menu: str) -> list[Option]:
        """What a menu offers under the picks before it: `(label, value)`, the default first."""
        sets = [s for s in self.source.sets if s.exam == self.picked.get("exam")]
        match menu:
            case "exam":
                return [(exam, exam) for exam in dict.fromkeys(s.exam for s in self.source.sets)]
            case "group":
                sections = dict.fromkeys(q.section for q in self.source.read_questions(self.picked["exam"]).values() if q.section)
                return [("all", ""), *((s, s) for s in sections)]
            case "model":
                return [(run, run) for run in dict.fromkeys(s.run for s in sets)]
            case "condition":
                asked = [s for s in sets if s.run == self.picked["model"]]
                return [(s.condition, s) for s in sorted(asked, key=lambda s: (s.shots, -s.step))]
            case "against":
                others = sorted((s for s in sets if s != self.now), key=self._distance)
                return [*((s.label, s) for s in others), ("nothing", None)]
            case "show":
                parts = {name: label.partition(":") for name, label in FILTERS.items()}
                return [(f"{head} ({len(self.matching(name))}){colon}{rest}", name) for name, (head, colon, rest) in parts.items()]
        known = self._questions()
        return [(f"{key}  {textwrap.shorten(known[key].text, 60, placeholder='…')}", key) for key in self.matching(self.picked["show"])]

    def _distance(self, other: AnswerSet) -> tuple[bool, ...]:
        """Orders what the answers may be compared with: the base of the same run first, then the same base, run and shots."""
        base = other.step == 0 and other.shots == self.now.shots and other.base == self.now.base
        same_run = other.run == self.now.run
        return not (base and same_run), not base, not same_run, other.shots != self.now.shots

    def pick(self, menu: str, value: Any) -> None:
        """Picks a value, or its label, and lets the menus after it follow.

        Raises:
            JmedloraError: It is not on offer.
        """
        offered = self.options(menu)
        found = [v for label, v in offered if value in (v, label)]
        if not found:
            labels = ", ".join(label for label, _ in offered[:8]) or "nothing"
            raise JmedloraError(f"{menu} {value!r}: is not on offer in {self.source.where}; choose from {labels}")
        self.picked[menu] = found[0]
        if menu == "against":
            self._own_comparison = found[0] != offered[0][1]
        self._settle(list(MENUS)[list(MENUS).index(menu) + 1 :])

    def _settle(self, menus: Sequence[str]) -> None:
        for menu in menus:
            offered, last = [value for _, value in self.options(menu)], self.picked.get(menu)
            if menu == "condition" and last is not None:
                last = next((s for s in offered if (s.step, s.shots) == (last.step, last.shots)), None)
            if menu not in self.picked or last not in offered or (menu == "against" and not self._own_comparison):
                last = offered[0] if offered else None
            self.picked[menu] = last

    def _questions(self) -> dict[str, Question]:
        return self.source.questions(self.now)

    def scores(self, answers: AnswerSet, scorer: str = "") -> dict[str, metrics.Score]:
        """The score of every answer, by question id; the explorer's own scorer where none is named."""
        key = (answers, scorer or self.scorer)
        if key not in self._scores:
            known, rows = self.source.questions(answers), answers.answers
            self._scores[key] = {name: metrics.score(q, rows[name]["response"], key[1]) for name, q in known.items() if name in rows}
        return self._scores[key]

    def matching(self, show: str, group: str | None = None) -> list[str]:
        """Ids of the questions that a filter keeps, in exam order; of the picked group where none is given."""
        group, known = self.picked["group"] if group is None else group, self._questions()
        return [key for key in self.scores(self.now) if (not group or known[key].section == group) and show in self._filters(key)]

    def _filters(self, key: str) -> set[str]:
        """The filters of `FILTERS` that keep a question."""
        score = self.scores(self.now)[key]
        right, found = bool(score.accuracy), {"all", "right" if score.accuracy else "wrong"}
        before = self.scores(self.before).get(key) if self.before else None
        if before is not None and bool(before.accuracy) != right:
            found.add("fixed" if right else "broken")
        if not score.readable:
            found.add("unreadable")
        if len({self.scores(self.now, scorer)[key].accuracy for scorer in metrics.SCORERS}) > 1:
            found.add("disputed")
        if score.picked & self._questions()[key].prohibited:
            found.add("prohibited")
        return found

    def tally(self) -> pd.DataFrame:
        """How many questions each filter keeps, one row per group."""
        groups = self.options("group")[1:] or [("all", "")]
        rows = [{"group": label} | {name: len(self.matching(name, value)) for name in FILTERS} for label, value in groups]
        return pd.DataFrame(rows).rename(columns={"all": "questions"})

    def frame(self) -> pd.DataFrame:
        """Every answered question of the exam: gold, both answers, what was read in them, right or not."""
        rows = []
        for key, question in self._questions().items():
            row: dict[str, Any] = {"id": key, "group": question.section, "gold": "".join(sorted(question.gold))}
            for name, answers in (("before", self.before), ("now", self.now)):
                if answers and key in answers.answers:
                    score = self.scores(answers)[key]
                    row |= {f"{name}_response": answers.answers[key]["response"], f"{name}_picked": "".join(sorted(score.picked))}
                    row |= {f"{name}_right": int(score.accuracy)}
            rows.append(row)
        return pd.DataFrame(rows).dropna(subset=["now_right"])

    def question(self) -> Question | None:
        """The picked question; None where no question fits the picks."""
        return self._questions().get(self.picked["question"])

    def sides(self) -> dict[str, Side]:
        """The answers to the picked question: `before`, where there is one, and `now`."""
        key = self.picked["question"]
        found = {"before": self.before, "now": self.now}
        return {name: self._side(answers) for name, answers in found.items() if answers and key in answers.answers}

    def _side(self, answers: AnswerSet) -> Side:
        question = self._questions()[self.picked["question"]]
        row, score = answers.answers[question.id], self.scores(answers)[question.id]
        variant = metrics.DEFAULT_VARIANT[self.scorer]
        distances = tuple(metrics.gestalt_distance(row["response"].strip(), c, variant) for c in question.choices)
        # The other answers may have their choices in another order; letters are those of the question shown.
        own = self.source.questions(answers)[question.id]
        read = {own.choice(letter) for letter in score.picked}
        taken = frozenset(letter for letter in question.letters if question.choice(letter) in read)
        return Side(answers.label, row["response"], score, taken, distances, row.get("finish") == "length", answers.source)

    def prompt(self) -> tuple[str, bool | None]:
        """What the model read, empty for published answers; and whether it has the hash of the answers file, None if that has none."""
        question, now = self._questions()[self.picked["question"]], self.now
        if not now.template:
            return "", None
        shots = self.source.read_shots(now)
        if prompts.get_template(now.template).chat:
            # The model's own tokenizer would put this into its chat format; it is not loaded only to look.
            asked = [f"{q.text}\n\n{prompts.choice_lines(q, now.template)}" for q in (*shots, question)]
            answered = [f"{text}\n\n{prompts.answer_text(q)}" for text, q in zip(asked, shots, strict=False)]
            return "\n\n".join(["(without the model's own chat format)", *answered, asked[-1]]), None
        text, known = prompts.build_exam_prompt(question, now.template, shots), now.answers[question.id].get("prompt_sha256")
        return text, None if known is None else known == sha256_text(text)

    def card(self) -> str:
        """The picked question as HTML that needs no script: both answers, the choices with their distances, and the prompt, folded."""
        if (q := self.question()) is None:
            return f'<div class="jm-card"><p>No question fits: {escape(FILTERS[self.picked["show"]])}.</p></div>'
        prompt, same = self.prompt()
        about = {"prompt": prompt, "same": same, "scorer": self.scorer, "variant": metrics.DEFAULT_VARIANT[self.scorer]}
        return _template().render(q=q, sides=self.sides(), notes=_notes, **about)

    def figure(self) -> Figure:
        """Distance of every choice to both answers; the students' shares where published.

        Raises:
            JmedloraError: No question fits the picks.
        """
        if (q := self.question()) is None:
            raise JmedloraError(f"no question fits: {FILTERS[self.picked['show']]}; pick another filter")
        sides, labels = list(self.sides().values()), [_tick(q, letter) for letter in q.letters]
        rows = [(label, side.label, d) for side in sides for label, d in zip(labels, side.distances, strict=True)]
        long = pd.DataFrame(rows, columns=["choice", "answer", "distance"])
        figure, axes = style.new_figure(height=1.3 + 0.55 * len(labels) + 0.15 * sum(label.count("\n") for label in labels))
        ax, colours = axes[0, 0], [style.PALETTE["sky"], style.PALETTE["blue"]][-len(sides) :]
        look = {"palette": colours, "saturation": 1, "edgecolor": "white", "errorbar": None}
        sns.barplot(long, x="distance", y="choice", hue="answer", ax=ax, **look)
        for bars, key, side in zip(ax.containers, ax.get_legend_handles_labels()[0], sides, strict=True):
            ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=9.5)
            for bar in (*bars, key):
                bar.set_hatch("" if side is sides[-1] else "//")
        if q.breakdown:
            look = {"color": style.PALETTE["vermilion"], "marker": "D", "zorder": 3, "label": "share of students"}
            ax.scatter(q.breakdown, range(len(labels)), s=30, **look)
        for tick, letter in zip(ax.get_yticklabels(), q.letters, strict=True):
            if letter in q.gold:
                tick.set_color(style.PALETTE["blue"])  # the Japanese font has no bold face
        ax.set(xlabel="Gestalt distance to the answer (higher is closer)", ylabel="", xlim=(0, 1.12))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        style.legend_above(figure, ax, columns=1)
        return figure

    def alt(self) -> str:
        """The figure in words."""
        letters = self._questions()[self.picked["question"]].letters
        said = []
        for side in self.sides().values():
            numbers = (f"{letter} {distance:.2f}" for letter, distance in zip(letters, side.distances, strict=True))
            said.append(f"{side.label}: {', '.join(numbers)}")
        return f"Distance of each choice to the answer. {'; '.join(said)}"

    def show(self) -> Any:
        """The panel with its menus in JupyterLab; the picked question alone under papermill, where nobody can click."""
        from IPython.display import HTML

        return HTML(self.card()) if notebook.quiet() else self.panel()

    def panel(self) -> Any:
        """Menus, and below them the picked question: an ipywidgets box."""
        import ipywidgets as widgets

        shared = {"layout": widgets.Layout(width="auto", min_width="14em"), "style": {"description_width": "8em"}}
        menus = {menu: widgets.Dropdown(description=label, **shared) for menu, label in MENUS.items() if menu != "question"}
        menus["question"] = widgets.Select(description=MENUS["question"], rows=6, **shared)
        shown = widgets.HTML()
        shown.add_class("jm-shown")
        drawing = False

        def draw() -> None:
            nonlocal drawing
            drawing = True
            for menu, widget in menus.items():
                offered = self.options(menu)
                if list(widget.options) != offered:
                    widget.options = offered
                widget.value = self.picked[menu]
            drawing = False
            shown.value = self.card() + (f"<figure>{self._image()}</figure>" if self.question() else "")

        def changed(change: Any) -> None:
            if not drawing:
                self.pick(next(menu for menu, widget in menus.items() if widget is change["owner"]), change["new"])
                draw()

        draw()
        for menu, widget in menus.items():
            widget.add_class(f"jm-menu-{menu}")
            widget.observe(changed, names="value")
        columns = widgets.Layout(grid_template_columns="repeat(auto-fit, minmax(20em, 1fr))", width="100%")
        grid = widgets.GridBox([widget for menu, widget in menus.items() if menu != "question"], layout=columns)
        return widgets.VBox([grid, menus["question"], shown], layout=widgets.Layout(width="100%"))

    def _image(self) -> str:
        picture = io.BytesIO()
        self.figure().savefig(picture, format="png", dpi=110)
        data = base64.b64encode(picture.getvalue()).decode()
        return f'<img style="background: #fff; max-width: 100%" alt="{escape(visible(self.alt()))}" src="data:image/png;base64,{data}">'


@cache
def _template() -> Template:
    """`resources/explorer.html`, which escapes every text, and marks what would be unseen."""
    environment = Environment(
        autoescape=True, trim_blocks=True, finalize=lambda value: visible(value) if type(value) is str else value, undefined=StrictUndefined
    )
    environment.filters["lines"] = lambda text: Markup("<br>").join(visible(text).split("\n"))
    return environment.from_string((paths.PACKAGE_DATA / "explorer.html").read_text(encoding="utf-8"))


def _notes(q: Question, letter: str) -> list[str]:
    return [note for note, letters in (("gold", q.gold), ("prohibited", q.prohibited)) if letter in letters]


def _tick(q: Question, letter: str) -> str:
    lines = textwrap.wrap(q.choice(letter), 18)
    shown = lines if len(lines) <= 2 else [lines[0], f"{lines[1][:-1]}…"]
    return "\n".join([f"{letter}  {shown[0]}", *shown[1:], *(f"({note})" for note in _notes(q, letter))])
