"""The one look: fonts, minus signs, styles, and the data that the figures draw."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from jmedlora_utils.figures import plotting

BASES = pd.DataFrame(
    [("en-small", 2e5, "english"), ("en-medium", 8e5, "english"), ("en-large", 3e6, "english"), ("ja-medium", 8e5, "japanese")],
    columns=["base", "size_params", "centric"],
)


@pytest.fixture(autouse=True)
def style():
    import matplotlib as mpl

    with mpl.rc_context():
        plotting.use_style()
        yield


def estimates(**columns):
    frame = pd.DataFrame(columns)
    return frame.assign(low=frame["value"] - 0.1, high=frame["value"] + 0.1)


def draw(figure):
    figure.savefig(io.BytesIO(), dpi=40)
    return figure.axes[0]


def test_japanese_glyphs_are_drawn():
    frame = pd.DataFrame({"tokenizer": ["日本語の医療・鱗条病", "英語"], "language": ["ja", "ja"], "tokens_per_character": [0.5, 1.5]})
    assert [t.get_text() for t in draw(plotting.fertility(frame)).get_yticklabels()] == ["日本語の医療・鱗条病", "英語"]


def test_a_missing_glyph_is_an_error():
    plotting.use_style()  # pytest resets the warning filters between a fixture and its test
    figure, axes = plotting.new_figure()
    axes[0, 0].set_title("\U00012000")  # a cuneiform sign, in none of the fonts
    with pytest.raises(UserWarning, match="missing from"):
        draw(figure)


def test_minus_signs_are_ascii():
    gains = estimates(base=["en-small", "en-large"], value=[-0.2, 0.3], size_params=[2e5, 3e6], centric=["english", "english"])
    ax = draw(plotting.gain_by_size(gains, plotting.base_styles(BASES)))
    assert any("-" in t.get_text() for t in ax.get_yticklabels())
    assert not any("\u2212" in t.get_text() for t in ax.get_yticklabels())


def test_every_base_has_its_own_look_and_language_its_own_dashes():
    styles = plotting.base_styles(BASES)
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(BASES)
    assert {b: s.dashes for b, s in styles.items()} == {"en-small": "-", "en-medium": "-", "en-large": "-", "ja-medium": "--"}


def test_accuracy_by_steps_draws_each_base_in_percent():
    frame = estimates(base=["en-small", "en-small", "en-large", "en-large"], steps=[0, 100, 0, 100], value=[0.2, 0.4, 0.2, 0.8])
    ax = draw(plotting.accuracy_by_steps(frame, plotting.base_styles(BASES), chance=0.18))
    heights = sorted(round(float(y)) for c in ax.containers for y in c.lines[0].get_ydata())
    assert heights == [20, 20, 40, 80]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "100"]
    assert ax.get_ylim() == (0, 103)
    assert any(line.get_label() == "chance" and line.get_ydata()[0] == pytest.approx(18) for line in ax.lines)


def test_a_negative_error_from_rounding_does_not_break_a_figure():
    frame = pd.DataFrame({"run": ["a"], "steps": [0], "value": [0.5], "low": [0.5 + 1e-12], "high": [0.5]})
    draw(plotting.forgetting(frame, chance=0.2))


def test_groups_of_facts_have_fixed_names():
    facts = list(plotting.FACTS)
    frame = estimates(condition=["base"] * len(facts), facts=facts, value=[0.2] * (len(facts) - 1) + [0.9])
    figure = plotting.dot_intervals(frame, 0.2)
    draw(figure)
    shown = {t.get_text() for t in figure.legends[0].get_texts()}
    assert shown == {*(name for name, _, _ in plotting.FACTS.values()), "chance"}


def test_loss_curves_draw_the_mean_over_seeds():
    series = pd.DataFrame({"run": ["a"] * 4, "seed": [1, 1, 2, 2], "step": [1, 2, 1, 2], "loss": [3.0, 1.0, 1.0, 1.0]})
    ax = draw(plotting.loss_curves(series))
    assert list(ax.lines[0].get_ydata()) == [2.0, 1.0]


def test_flip_bars_count_in_percent_of_the_group():
    flipped = pd.DataFrame({"facts": ["taught"] * 4 + ["untaught"] * 2, "flip": ["fixed", "fixed", "broken", "x", "fixed", "broken"]})
    ax = draw(plotting.flip_bars(flipped))
    assert sorted(round(p.get_width()) for p in ax.patches) == [-50, -25, 50, 50]


def test_prices_stand_beside_gains():
    frame = estimates(run=["a", "b"], minutes=[1.0, 2.0], value=[0.2, 0.4])
    assert draw(plotting.gain_by_minutes(frame)).get_xlim()[0] == 0


def test_the_story_shows_groups_of_facts_and_the_gain_of_each_base():
    lines = estimates(facts=["taught", "taught", "untaught", "untaught"], steps=[0, 80, 0, 80], value=[0.2, 0.9, 0.2, 0.2])
    gains = estimates(base=["en-small", "ja-medium"], value=[0.3, 0.1])
    figure = plotting.story(lines, gains, plotting.base_styles(BASES), 0.175)
    left = draw(figure)
    assert [t.get_text() for t in left.get_xticklabels()] == ["0", "80"]
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["en-small", "ja-medium"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["taught, trained phrasing", "untaught (control)", "chance"]


def test_published_scores_stand_in_one_panel_a_family_and_rows_without_a_number_in_none():
    frame = pd.DataFrame({"family": ["a", "a", "b", "c"], "system": ["x", "y", "x", "z"], "percent": [10.0, 20.0, 30.0, float("nan")]})
    figure = plotting.sources(frame, {"a": "First", "b": "Second", "c": "Third"})
    draw(figure)
    assert [ax.get_title(loc="right") for ax in figure.axes] == ["First", "Second"]
    assert [list(ax.lines[0].get_xdata()) for ax in figure.axes] == [[10.0, 20.0], [30.0]]


@pytest.mark.parametrize(("n", "label"), [(159_000, "159k"), (1_960_000, "1.96M"), (7e9, "7B"), (12, "12")])
def test_sizes_are_short(n, label):
    assert plotting.size_label(n) == label
