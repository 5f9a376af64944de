"""The one look: fonts, minus signs, styles, and the data that the figures draw."""

import io
import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from jmedlora_utils.analysis import registered
from jmedlora_utils.figures import pair_plots, study_plots, style, tuning_plots

BASES = pd.DataFrame(
    [("en-small", 2e5, "english"), ("en-medium", 8e5, "english"), ("en-large", 3e6, "english"), ("ja-medium", 8e5, "japanese")],
    columns=["base", "size_params", "centric"],
)


@pytest.fixture(autouse=True)
def look():
    with mpl.rc_context():
        style.use_style()
        yield


def estimates(**columns):
    frame = pd.DataFrame(columns)
    return frame.assign(low=frame["value"] - 0.1, high=frame["value"] + 0.1)


def draw(figure):
    figure.savefig(io.BytesIO(), dpi=40)
    return figure.axes[0]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def heights(ax):
    """The values of every line with a marker, in percent."""
    values = [y for line in ax.lines if line.get_marker() not in ("None", "") for y in line.get_ydata()]
    return sorted(round(float(y)) for y in values if not math.isnan(y))


def test_japanese_glyphs_are_drawn_and_a_missing_one_is_an_error():
    frame = pd.DataFrame({"tokenizer": ["日本語の医療・鱗条病", "英語"], "language": ["ja", "ja"], "tokens_per_character": [0.5, 1.5]})
    assert [t.get_text() for t in draw(tuning_plots.fertility(frame)).get_yticklabels()] == ["日本語の医療・鱗条病", "英語"]
    style.use_style()  # pytest resets the warning filters between a fixture and its test
    figure, axes = style.new_figure()
    axes[0, 0].set_title("\U00012000")  # a cuneiform sign, in none of the fonts
    with pytest.raises(UserWarning, match="missing from"):
        draw(figure)


def made(name: str, *worlds: float, verdict: str = "", unit: str = registered.POINTS) -> registered.Estimate:
    values = pd.Series(worlds, index=range(11, 11 + len(worlds)))
    return registered.estimate(1, name, values, unit=unit)._replace(verdict=verdict)


def test_every_world_of_an_estimand_is_a_dot_in_its_unit_with_ascii_minus_signs():
    ax = draw(study_plots.by_world([made("gain", -0.2, 0.3, 0.4, verdict="supported"), made("form", 0.0, 0.1, 0.2)], 0.05))
    dots = np.concatenate([dots.get_offsets()[:, 0] for dots in ax.collections if len(dots.get_offsets()) == 3])
    assert sorted(np.round(dots)) == [-20, 0, 10, 20, 30, 40] and ax.get_xlabel() == "Points"
    assert "gain: supported" in {text.get_text() for text in ax.texts}
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    assert any("-" in t for t in ticks) and not any("\u2212" in t for t in ticks)
    slopes = draw(study_plots.by_world([made("slope", 0.2, 0.4, unit=registered.LOGITS)], 0.1))
    assert slopes.get_xlabel() == "Logits per doubling" and slopes.get_xlim()[1] < 2, "logits are not drawn in percent"
    assert "not measured" in draw(study_plots.by_world([], 0.05)).texts[0].get_text()


def along_steps(frame: pd.DataFrame, look: dict[str, style.LineStyle], by: str = "base") -> mpl.figure.Figure:
    figure, axes = style.new_figure()
    style.points(axes[0, 0], frame, look, lines=True, x="steps", y="value", hue=by)
    style.legend_above(figure, axes[0, 0])
    return figure


def test_points_draw_values_and_intervals_in_percent():
    frame = estimates(base=["en-small", "en-small", "en-large", "en-large"], steps=[0, 100, 0, 100], value=[0.2, 0.4, 0.2, 0.8])
    figure = along_steps(frame, style.base_styles(BASES))
    ax = draw(figure)
    assert heights(ax) == [20, 20, 40, 80]
    drawn = {round(float(y)) for line in ax.lines for y in line.get_ydata() if not math.isnan(y)}
    assert {10, 30, 50, 70, 90} <= drawn, "ends of the intervals"
    assert labels(figure) == ["en-small", "en-large"]


def test_every_base_has_its_own_look_and_language_its_own_dashes_in_every_figure():
    styles = style.base_styles(BASES)
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(BASES)
    assert {b: s.dashes for b, s in styles.items()} == {"en-small": "-", "en-medium": "-", "en-large": "-", "ja-medium": "--"}
    frame = estimates(base=["ja-medium", "ja-medium"], steps=[0, 100], value=[0.2, 0.4])
    ax = draw(along_steps(frame, styles))
    line = next(line for line in ax.lines if len(line.get_ydata()) == 2 and line.get_marker() == "D")
    assert mpl.colors.to_hex(line.get_color()).upper() == style.JAPANESE_REDS[0] and line.get_linestyle() == "--"


def test_an_interval_that_rounding_turned_round_does_not_break_a_figure():
    frame = pd.DataFrame({"run": ["a"], "steps": [0], "value": [0.5], "low": [0.5 + 1e-12], "high": [0.5]})
    assert heights(draw(along_steps(frame, style.looks(["a"]), by="run"))) == [50]


def test_loss_curves_and_the_story_draw_means_groups_and_gains():
    series = pd.DataFrame({"run": ["a"] * 4, "seed": [1, 1, 2, 2], "step": [1, 2, 1, 2], "loss": [3.0, 1.0, 1.0, 1.0]})
    assert list(draw(tuning_plots.loss_curves(series)).lines[0].get_ydata()) == [2.0, 1.0], "the mean over seeds"
    runs = {"en-small_lora": "en-small", "en-small_full": "en-small", "ja-medium_lora": "ja-medium"}
    several = pd.concat([series.assign(run=run, base=base) for run, base in runs.items()])
    figure = tuning_plots.loss_curves(several)
    panels = draw(figure).figure.axes
    assert labels(figure) == ["lora", "full"] and [ax.get_title(loc="left") for ax in panels] == ["en-small", "ja-medium"]
    assert [sum(len(line.get_xdata()) > 0 for line in ax.lines) for ax in panels] == [2, 1]
    lines = estimates(facts=["taught", "taught", "untaught", "untaught"], steps=[0, 80, 0, 80], value=[0.2, 0.9, 0.2, 0.2])
    gains = estimates(base=["en-small", "ja-medium"], value=[0.3, 0.1])
    figure = tuning_plots.story(lines, gains, style.base_styles(BASES), 0.18)
    ax = draw(figure)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "80"] and ax.get_ylim() == (0, 103)
    assert any(set(np.round(line.get_ydata())) == {18} for line in ax.lines), "chance"
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["ja-medium", "en-small"]
    assert labels(figure) == ["taught, trained phrasing", "untaught (control)", "chance"]


def test_the_forest_draws_every_pair_and_step_hollow_where_it_does_not_decide():
    pair = {"exam": 120, "base": "b", "adapted": "a", "difference": 0.02, "low": -0.01, "high": 0.05}
    pairs = pd.DataFrame([pair | {"adaptation": "LoRA", "decides": True}, pair | {"adaptation": "fine-tuning", "decides": False}])
    steps = pd.DataFrame([pair]).rename(columns={"base": "smaller", "adapted": "larger"})
    figure = pair_plots.forest(pairs, steps, 0.05)
    ax = draw(figure)
    dots = [line for line in ax.lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]
    assert [float(line.get_xdata()[0]) for line in dots] == [2.0, 2.0, 2.0]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True, False]
    assert labels(figure) == ["LoRA", "fine-tuning", pair_plots.SIZE]
    assert [text.get_text() for text in ax.texts] == ["120: b → a"] * 3


def test_the_ladder_joins_the_sizes_of_a_family_and_keeps_reported_totals_hollow():
    points = pd.DataFrame({"family": "F", "setting": "s", "parameters": [1e9, 3e10], "points": [160, 460], "answers": [False, True]})
    figure = pair_plots.ladder(points)
    ax = draw(figure)
    dots = {float(line.get_xdata()[0]): line.get_markerfacecolor() for line in ax.lines if line.get_marker() not in ("None", "")}
    assert dots[1e9] == "white" != dots[3e10] and labels(figure) == ["F, s"]


def test_groups_of_facts_have_fixed_names():
    facts = list(tuning_plots.FACTS)
    lines = estimates(facts=facts, steps=[0] * len(facts), value=[0.2] * (len(facts) - 1) + [0.9])
    figure = tuning_plots.story(lines, estimates(base=["en-small"], value=[0.3]), style.base_styles(BASES), 0.2)
    draw(figure)
    assert labels(figure) == [*(name for name, _ in tuning_plots.FACTS.values()), "chance"]
