"""The reader of generated pairs: what it takes, what it refuses, and that it alters nothing."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.data.pairs import REASONS, Pair, Reject, parse_pairs

ODD = Path(__file__).parent / "odd_outputs"
PLAIN = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60).filter(str.strip)
PAIRS = st.lists(st.builds(Pair, instruction=PLAIN, output=PLAIN), min_size=1, max_size=6)
LAYOUTS = {
    "lines": lambda rows: "\n".join(rows),
    "numbered": lambda rows: "\n".join(f"{i}. {row}" for i, row in enumerate(rows, 1)),
    "bullets": lambda rows: "\n".join(f"- {row}" for row in rows),
    "array": lambda rows: "[" + ", ".join(rows) + "]",
    "trailing commas": lambda rows: "[\n" + ",\n".join(rows) + ",\n]",
    "fence": lambda rows: "```json\n" + "\n".join(rows) + "\n```",
    "nested arrays": lambda rows: "[[" + "],[".join(rows) + "]]",
    "wrapped": lambda rows: '{"pairs": [' + ",".join(rows) + "]}",
    "thinking": lambda rows: '<think>{"instruction": "draft", "output": "draft"}</think>\n' + "\n".join(rows),
    "one line": lambda rows: " ".join(rows),
}


def as_json(pair: Pair, ascii_only: bool = False) -> str:
    return json.dumps({"instruction": pair.instruction, "output": pair.output}, ensure_ascii=ascii_only)


@given(PAIRS, st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_valid_pairs_come_back_unaltered_in_every_layout(pairs, layout, ascii_only):
    parsed = parse_pairs(LAYOUTS[layout]([as_json(p, ascii_only) for p in pairs]))
    assert parsed.pairs == pairs
    assert parsed.rejects == []


@given(st.text(st.sampled_from('{}[]｛｝"“”「」:：,，、\\n\n instructionoutput1.`<think></think>'), max_size=200))
@settings(max_examples=100)
def test_any_text_is_read_without_an_error(text):
    parsed = parse_pairs(text)
    assert {r.reason for r in parsed.rejects} <= set(REASONS)
    assert all(r.raw in text for r in parsed.rejects)


@given(PAIRS, st.floats(0, 1))
def test_a_cut_answer_keeps_the_whole_pairs_and_says_so(pairs, share):
    rows = [as_json(p) for p in pairs]
    text = "\n".join(rows)
    cut = int(share * len(text))
    parsed = parse_pairs(text[:cut])
    whole = [i for i in range(len(rows)) if len("\n".join(rows[: i + 1])) <= cut]
    assert parsed.pairs == pairs[: len(whole)]
    inside = cut > len("\n".join(rows[: len(whole)])) + (1 if whole else 0)
    assert [r.reason for r in parsed.rejects] == (["truncated"] if inside else [] if whole else ["empty answer"])


@given(PLAIN.filter(lambda s: '"' not in s and "\\" not in s and "\n" not in s), st.sampled_from(["“”", "””", "＂＂", "''", "‘’", "「」"]))
def test_other_quotes_delimit_but_do_not_change_the_text(value, quotes):
    if any(q in value for q in quotes):
        return
    left, right = quotes
    text = f"{{{left}instruction{right}：{left}問い{right}，{left}output{right}：{left}{value}{right}}}"
    assert parse_pairs(text).pairs == [Pair("問い", value)]


@pytest.mark.parametrize(
    ("text", "pairs", "reasons"),
    [
        ('{"instruction": "彼は何と言ったか", "output": "彼は"痛い"と言った"}', [Pair("彼は何と言ったか", '彼は"痛い"と言った')], []),
        ("{'instruction': 'q', 'output': 'it's fine',}", [Pair("q", "it's fine")], []),
        ('{"Instruction ": "q", "OUTPUT": "a", "input": "x", "no": 3}', [Pair("q", "a", "x")], []),
        ('{"instruction": "q", "output": "one\ntwo"}', [Pair("q", "one\ntwo")], []),
        ('{"question": "q", "answer": "a"}', [], ["key missing"]),
        ('{"instruction": "q", "instruction": "r", "output": "a"}', [], ["duplicate key"]),
        ('{"instruction": "q", "Instruction": "r", "output": "a"}', [], ["duplicate key"]),
        ('{"instruction": "q", "output": ["a", "b"]}', [], ["not text"]),
        ('{"instruction": "q", "output": "　"}', [], ["empty text"]),
        ('{"instruction": "q", "output": "\\alpha"}', [], ["invalid escape"]),
        ('{"instruction": "q" "output": "a"}', [], ["broken object"]),
        ('{"instruction": "q", "output": "a\n{"instruction": "r", "output": "b"}', [Pair("r", "b")], ["truncated"]),
        ('{"pairs": [{"instruction": "q", "output": "a"}, {"instruction": "r"', [Pair("q", "a")], ["broken object", "truncated"]),
        ("<think>all my tokens went here {", [], ["truncated"]),
        ("<think>and nothing after it</think>", [], ["empty answer"]),
        ('opened by the prompt</think>{"instruction": "q", "output": "</think>"}', [Pair("q", "</think>")], []),
        ("申し訳ありませんが、お手伝いできません。", [], ["outside text"]),
        ('以下に示します。\n\n{"instruction": "q", "output": "a"}\n\n以上です。', [Pair("q", "a")], ["outside text"] * 2),
        ('1) {"instruction": "q", "output": "a"},\n(2) {"instruction": "r", "output": "b"}', [Pair("q", "a"), Pair("r", "b")], []),
        ("｛“instruction”：“q”，“output”：“眠気と“一過性”の頭痛です。”｝", [Pair("q", "眠気と“一過性”の頭痛です。")], []),
        (r'{"instruction": "q\ud83d", "output": "a"} {"instruction": "r", "output": "b"}', [Pair("r", "b")], ["not text"]),
        (" \n\u3000", [], ["empty answer"]),
    ],
)
def test_odd_pieces(text, pairs, reasons):
    parsed = parse_pairs(text)
    assert parsed.pairs == pairs
    assert [r.reason for r in parsed.rejects] == reasons


def test_deep_nesting_is_a_reject_not_a_crash():
    parsed = parse_pairs('{"a":' * 5000 + "\n" + as_json(Pair("q", "a")))
    assert parsed.pairs == [Pair("q", "a")]
    assert {r.reason for r in parsed.rejects} == {"broken object"}


@pytest.mark.parametrize("path", sorted(ODD.glob("*.txt")), ids=lambda p: p.stem)
def test_real_answers_of_a_small_model(path):
    """`odd_outputs/make.py` had them written; `expected.json` says which pairs are read, what is refused for which reason, and why so."""
    expected = json.loads((ODD / "expected.json").read_text(encoding="utf-8"))[path.stem]
    text = path.read_text(encoding="utf-8")
    parsed = parse_pairs(text)
    assert [[p.instruction, p.output] for p in parsed.pairs] == expected["read"]
    assert Counter(r.reason for r in parsed.rejects) == expected["refused"] and expected["why"]
    assert all(r.raw in text for r in parsed.rejects)


def test_rejects_keep_the_piece_as_it_stood():
    assert parse_pairs('Here:\n{"instruction": "Q　"}').rejects == [
        Reject("outside text", "Here:"),
        Reject("key missing", '{"instruction": "Q　"}'),
    ]
