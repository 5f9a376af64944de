"""The invented world: deterministic, balanced, and without a way to guess what was never taught."""

import math
import os
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import read_jsonl, sha256_text
from jmedlora_utils.data import invented_corpus, invented_world, prompts
from jmedlora_utils.data.invented_corpus import corpus
from jmedlora_utils.data.invented_names import CLINICAL
from jmedlora_utils.data.invented_world import World, WorldSettings
from jmedlora_utils.data.questions import LETTERS, read_exam
from tests.servers import run_python

SMALL = WorldSettings(seed=3, towns=6, answers=6, people=8, general_questions=12)
HASHES = {
    1: "133591576741cbccd5351c0eb9d1f13e58b66fb6da1c9f8d5a86d1fa641d4f7f",
    7: "db14759ecf5a9c31d903163bb1d55959d974007c1280b67903e0f8c89eae67cf",
}


def hash_of_texts(seed: int) -> str:
    """SHA-256 over everything that a world says."""
    world = World(WorldSettings(seed=seed))
    texts = [d.prompt + d.text for d in corpus(world, 0.6, 300)]
    asked = [*world.exams().values(), world.shots()]
    exams = [(q.id, q.text, q.choices, sorted(q.gold)) for questions in asked for q in questions]
    return sha256_text(repr((world.facts, texts, world.articles(), world.instructions(), world.held_out_instructions(), exams)))


@pytest.fixture(scope="module")
def world():
    return World(WorldSettings())


@pytest.mark.parametrize("seed", HASHES)
def test_a_seed_gives_the_texts_of_the_committed_study_in_every_process(seed):
    code = f"from tests.data.test_invented_world import hash_of_texts; print(hash_of_texts({seed}))"
    elsewhere = run_python("-c", code, PYTHONHASHSEED="1234")
    assert hash_of_texts(seed) == elsewhere.stdout.strip() == HASHES[seed]


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"towns": 7}, "towns"),
        ({"answers": 12}, "answers"),
        ({"people": 5}, "people"),
        ({"choice_pairs": -1}, "choice_pairs"),
        ({"people": 4, "general_questions": 40}, "general_questions"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_by_name(change, parameter):
    with pytest.raises(JmedloraError, match=parameter):
        WorldSettings(**change)


def test_untaught_facts_stand_nowhere_but_in_the_exams(world):
    untaught = {f.id for f in world.facts_of("untaught")}
    assert not untaught & {i for row in [*world.articles(), *world.instructions(), *world.held_out_instructions()] for i in row["facts"]}
    # Nor do their words meet: no article or record names the disease together with its untaught answer.
    pairs = [(f.subject.ja, a.ja) for f in world.facts_of("untaught") for a in f.answers]
    texts = [row["text"] for row in world.articles()] + [row["instruction"] + row["output"] for row in world.instructions()]
    assert not [(d, a) for d, a in pairs for text in texts if d in text and a in text]


def test_pretraining_knows_no_clinical_fact():
    """Outside documents drawn at random no disease meets its answer; inside them, lots and suppositions are right as often as chance."""
    world = World(SMALL)
    gold = {(f.subject.ja, f.relation.key): (f.section, {a.ja for a in f.answers}) for f in world.facts_of("taught", "untaught")}
    kind_of = {a.ja: r for r in CLINICAL for a in world.entities[r.answer]}
    hits, expected, variance = Counter(), Counter(), Counter()
    for document in corpus(world, 0.0, 12000):
        text = document.prompt + document.text
        diseases = [d.ja for d in world.entities["disease"] if d.ja in text]
        if document.kind not in ("guess", "supposition"):
            assert not [a for d in diseases for relation in CLINICAL for a in gold[d, relation.key][1] if a in text]
            continue
        if document.kind == "guess":
            said = [(document.prompt, document.text.split(prompts.SEPARATOR))]
        else:  # the two sentences that are supposed
            lines = document.prompt.split("もし")[1].split("。")[:2]
            said = [(line, [a for a in kind_of if a in line]) for line in lines]
        for line, answers in said:
            relation, (disease,) = kind_of[answers[0]], [d for d in diseases if d in line]
            section, right = gold[disease, relation.key]
            chance = 1 / math.comb(world.settings.answers, relation.n_answers)
            hits[document.kind, section] += set(answers) == right
            expected[document.kind, section] += chance
            variance[document.kind, section] += chance * (1 - chance)
    for key in ((kind, section) for kind in ("guess", "supposition") for section in ("taught", "untaught")):
        assert expected[key] > 30
        assert abs(hits[key] - expected[key]) <= 4 * variance[key] ** 0.5, key


def test_taught_facts_are_all_asked_and_pairs_stay_at_fifteen(world):
    rows = world.instructions()
    assert {i for r in rows for i in r["facts"]} == {f.id for f in world.facts_of("taught")}
    assert max(Counter(r["article"] for r in rows).values()) <= invented_world.PAIRS_PER_ARTICLE
    assert len({r["id"] for r in rows}) == len(rows)


def test_facts_are_balanced_so_that_frequency_and_order_say_nothing():
    for seed in range(5):
        world = World(WorldSettings(seed=seed))
        n, place = world.settings.answers, {e: i for found in world.entities.values() for i, e in enumerate(found)}
        assert all(place[one] < place[other] for f in world.facts if f.relation.n_answers == 2 for one, other in [f.answers])
        for section in ("taught", "untaught"):
            facts = world.facts_of(section)
            assert Counter(f.subject for f in facts) == Counter({e: 2 for e in world.entities["disease"]})
            times = Counter((f.relation, answer) for f in facts for answer in f.answers)
            assert len(times) == len(CLINICAL) * n
            assert all(k == world.settings.towns // n * relation.n_answers for (relation, _), k in times.items())
            pairs = Counter(f.answers for f in facts if f.relation.key == "symptom")
            assert len(pairs) == math.comb(n, 2) and max(pairs.values()) <= 2


def test_a_guesser_that_knows_all_taught_answers_stays_at_chance_on_untaught_facts():
    """Best of the shortcuts: choose what was taught least often, or most often, over ten worlds."""
    hits: Counter[str] = Counter()
    total, expected = 0, 0.0
    for seed in range(10):
        world = World(WorldSettings(seed=seed))
        taught = Counter(a.ja for f in world.facts_of("taught") for a in f.answers)
        shown = Counter(r["output"] for r in world.instructions())
        listed = Counter(line[2:] for r in world.instructions() for line in r["input"].splitlines())
        for q in world.exams()["mini_trained"]:
            if q.section == "untaught" and q.n_select == 1:
                total, expected = total + 1, expected + 1 / 5
                for name, counts in (("taught", taught), ("shown", shown), ("listed", listed)):
                    for sign in (1, -1):
                        best = max(range(5), key=lambda i, c=counts, s=sign: (s * c[q.choices[i]], -i))
                        hits[f"{name}{sign:+d}"] += LETTERS[best] in q.gold
    margin = 3.3 * (expected * 0.8) ** 0.5
    assert all(abs(n - expected) < margin for n in hits.values()), (hits, expected, total)


def test_gold_positions_are_balanced(world):
    for questions in world.exams().values():
        for section in {q.section for q in questions}:
            singles = Counter(next(iter(q.gold)) for q in questions if q.section == section and q.n_select == 1)
            assert max(singles.values()) - min(singles[letter] for letter in "abcde") <= 1


def test_held_out_phrasing_is_never_in_the_records(world):
    seen = {r["instruction"] for r in world.instructions()}
    asked = {q.text.removesuffix("2つ選べ。").replace("どれか", "何か") for q in world.exams()["mini_heldout"]}
    assert not asked & {s.removesuffix("2つ選べ。").replace("どれか", "何か") for s in seen}
    assert len({q.text for q in world.exams()["mini_trained"] if q.section == "taught"}) == 4 * world.settings.towns


def test_both_clinical_exams_ask_the_same_facts_with_the_same_choices(world):
    exams = world.exams()
    for one, two in zip(exams["mini_trained"], exams["mini_heldout"], strict=True):
        assert one.id.split("-")[1] == two.id.split("-")[1]
        assert set(one.choices) == set(two.choices) and one.text != two.text


def test_every_base_reads_as_much_with_medical_words_whatever_its_language(world):
    medical = {e.ja for kind in ("disease", "drug", "organism", "test", "symptom") for e in world.entities[kind]}

    def with_medical_words(english: float) -> int:
        return sum(any(name in d.prompt + d.text for name in medical) for d in corpus(world, english, 2000))

    expected = 2000 * invented_corpus.EQUAL_UP_TO * sum(invented_corpus.JA_SHARES[k] for k in invented_corpus.MEDICAL_KINDS)
    for english in (0.6, 0.1, 0.0):
        assert abs(with_medical_words(english) - expected) < 4 * expected**0.5
    assert with_medical_words(0.9) < expected / 2
    for japanese in (0.0, 0.1, 0.4, 0.9, 1.0):
        assert sum(invented_corpus.ja_shares(japanese).values()) == pytest.approx(1)


@given(seed=st.integers(0, 10_000), sizes=st.sampled_from([(6, 6), (9, 9), (15, 5), (30, 6)]), people=st.sampled_from([4, 8, 12]))
@settings(max_examples=8, deadline=None)
def test_any_world_is_whole(seed, sizes, people):
    world = World(WorldSettings(seed=seed, towns=sizes[0], answers=sizes[1], people=people, general_questions=8))
    names = [e.ja for found in world.entities.values() for e in found]
    assert len(set(names)) == len(names)
    assert all(len(set(f.answers)) == f.relation.n_answers for f in world.facts)
    assert {f.section for f in world.facts} == {"taught", "untaught", "general", "context"}


def test_files_are_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    workspace = paths.Workspace("smoke", 3)
    world = World(SMALL)
    first = {p: sha256_text(p.read_text(encoding="utf-8")) for p in invented_world.write_world(world, workspace)}
    assert {p: sha256_text(p.read_text(encoding="utf-8")) for p in invented_world.write_world(world, workspace)} == first
    assert invented_world.read_world(workspace).facts == world.facts
    assert read_exam(workspace.data / "exams" / "mini_trained.jsonl") == world.exams()["mini_trained"]
    assert read_jsonl(workspace.data / "instructions" / "train.jsonl") == world.instructions()
    assert len(read_jsonl(workspace.data / "instructions" / "heldout.jsonl")) == 2 * len(world.facts_of("taught"))


@pytest.mark.skipif("JMEDLORA_DATA" not in os.environ, reason="JMEDLORA_DATA is not set: no real exam texts to compare names with")
@pytest.mark.slow
def test_no_invented_medical_name_occurs_in_the_real_exams():
    text = "".join(p.read_text(encoding="utf-8") for p in sorted(paths.exam_data_dir().rglob("*.json*")))
    worlds = [World(WorldSettings(seed=seed, towns=60, answers=60)) for seed in range(20)]
    kinds = ("disease", "drug", "organism", "test", "symptom")
    assert not [name for name in {e.ja for world in worlds for kind in kinds for e in world.entities[kind]} if name in text]


def test_corpus_keeps_its_language_share_and_has_every_form_of_the_exam_with_facts_of_the_general_domain(world):
    documents = list(corpus(world, 0.6, 4000))
    english = [d for d in documents if d.language == "en"]
    assert abs(len(english) / len(documents) - 0.6) < 0.03
    assert all(ord(c) < 0x250 for d in english for c in d.prompt + d.text)
    asked = [d for d in corpus(world, 0.0, 3000) if d.kind == "question"]
    assert any(d.prompt.count("答え:") == 2 for d in asked) and any("2つ選べ" in d.prompt and "、" in d.text for d in asked)
    assert any("\na " not in d.prompt for d in asked)
    general = world.exams()["mini_general"][0]
    assert prompts.build_exam_prompt(general, invented_world.TEMPLATE).startswith("問題:")
    assert any(d.prompt.startswith("問題:" + general.text[:4]) for d in asked)


def test_in_the_study_a_recalled_name_is_always_listed():
    chosen = load_preset("mini").prepare["10_prepare_instructions"]
    world = World(WorldSettings(**chosen))
    kinds = {r.key: {e.ja for e in world.entities[r.answer]} for r in CLINICAL}
    assert all(set(q.choices) == kinds[q.category] for q in world.exams()["mini_trained"])


def test_no_rng_of_the_process_is_used_or_moved():
    random.seed(7)
    before = random.getstate()
    world = World(SMALL)
    world.exams(), world.instructions(), list(corpus(world, 0.5, 50))
    assert random.getstate() == before
