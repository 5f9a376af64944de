"""The model registry: facts that hold together, and refusals before any download."""

import json
from pathlib import Path

import pytest
import yaml

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import registry
from jmedlora_utils.models.memory import adapter_parameters
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.models.shape import Shape

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("entry", registry.entries().values(), ids=lambda e: e.name)
def test_an_entry_says_what_a_run_needs(entry: ModelEntry) -> None:
    assert entry.source.startswith("https://") and entry.lora_targets
    if entry.kind == "base":
        assert entry.shape is not None and entry.context_length >= 2048 and entry.chat_template is not None
    else:  # its file holds float32 parameters
        assert 4 * adapter_parameters(registry.resolve(entry.base).shape, entry.rank, entry.lora_targets) == entry.bytes


def test_a_name_its_hub_id_and_a_commit_find_the_entry() -> None:
    assert registry.resolve("open-calm-7b") is registry.resolve("cyberagent/open-calm-7b")
    entry = registry.resolve(f"swallow-70b-instruct@{COMMIT}")
    assert (entry.hub_id, entry.revision) == ("tokyotech-llm/Swallow-70b-instruct-hf", COMMIT)
    assert registry.check(entry) is entry


LLAMA = "llama-2-70b-chat"


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("open-calm-7", {}, r"no model 'open-calm-7'.*did you mean 'open-calm-7b'"),
        ("open-calm-7b@main", {}, "'main' is no full commit hash"),
        ("swallow-70b-instruct", {}, r"swallow-70b-instruct: its revision is unknown.*commits/main.*'swallow-70b-instruct@<40"),
        (LLAMA, {}, rf"{LLAMA}: .*gated and no token.*Accept its licence \(llama2\).*HF_TOKEN"),
        (LLAMA, {"token": "t", "card_bytes": 80 << 30}, r"take 138\.0 GB \(none\), the card has 85\.9 GB; use quantisation nf4 or"),
        (LLAMA, {"token": "t", "card_bytes": 24 << 30, "quantisation": "nf4"}, r"\(nf4\).*; use a larger card"),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_network_with_the_fix(monkeypatch, name: str, how: dict, message: str) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(JmedloraError, match=message):
        registry.check(registry.resolve(name), **how)


def test_a_token_a_cached_copy_a_commit_or_four_bits_are_enough() -> None:
    entry = registry.resolve(LLAMA)
    for how in ({"token": "a token"}, {"local": True}, {"token": "a token", "card_bytes": 80 << 30, "quantisation": "nf4"}):
        assert registry.check(entry, **how) is entry
    assert registry.check(registry.resolve(f"someone/some-model@{COMMIT}")).shape is None


CONFIG = {"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
CONFIG |= {"num_attention_heads": 4, "vocab_size": 500, "max_position_embeddings": 512}


def test_a_local_folder_works_where_a_hub_id_does(tmp_path: Path) -> None:
    with pytest.raises(JmedloraError, match=r"neither config\.json .* nor adapter_config\.json"):
        registry.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    entry = registry.resolve(str(tmp_path))
    assert entry.local and entry.location == str(tmp_path.resolve()) and entry.context_length == 512
    assert entry.shape == Shape("gpt_neox", 2, 64, 128, 4, 4, 16, 500)
    assert registry.check(entry) is entry  # neither revision nor token
    assert entry.download_bytes() == 0
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert registry.resolve(str(tmp_path)).shape is None, "another architecture loads without sizes"


def test_a_local_adapter_names_its_base(tmp_path: Path) -> None:
    settings = {"base_model_name_or_path": "llama-2-7b-chat", "r": 64, "target_modules": ["v_proj", "q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345678")
    entry = registry.resolve(str(tmp_path))
    assert (entry.kind, entry.base, entry.rank) == ("adapter", "llama-2-7b-chat", 64)
    assert (entry.lora_targets, entry.bytes) == (("q_proj", "v_proj"), 8)


def models_file(folder: Path, content: object) -> Path:
    (folder / "models.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "models.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": 1}, "its shape gives .* parameters says 1"),
        ({"revision": "main"}, "'main' is no full commit hash"),
        ({"licence": None, "drop": "licence"}, "field 'licence' is missing"),
        ({"architecture": "gpt"}, "'architecture': Input should be 'llama', 'gpt_neox', 'qwen3' or 'gemma3_text'"),
        ({"lora_targets": ["q_proj"]}, "'q_proj' is no linear module of gpt_neox"),
        ({"colour": "blue"}, "no field 'colour'"),
        ({"shape": [1]}, "field 'layers' is missing"),
        ({"shape": {"layers": 0}}, "open-calm-7b, shape: 'layers': Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    raw = yaml.safe_load(registry.MODELS_FILE.read_text(encoding="utf-8"))
    entry = raw["bases"]["open-calm-7b"] | change
    entry.pop(entry.pop("drop", ""), None)
    with pytest.raises(JmedloraError, match=message):
        registry.read_models(models_file(tmp_path, {"bases": {"open-calm-7b": entry}}))


def test_an_adapter_of_an_unlisted_base_is_refused(tmp_path: Path) -> None:
    raw = yaml.safe_load(registry.MODELS_FILE.read_text(encoding="utf-8"))
    with pytest.raises(JmedloraError, match="base 'llama-2-70b-chat' is not listed"):
        registry.read_models(models_file(tmp_path, {"adapters": {"jmedlora-900": raw["adapters"]["jmedlora-900"]}}))


def test_a_site_names_local_copies_of_listed_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text(json.dumps(CONFIG | {"model_type": "llama"}))
    own = models_file(tmp_path, {"bases": {LLAMA: {"folder": "copy"}, "swallow-70b-instruct": {"revision": COMMIT}}})
    monkeypatch.setenv("JMEDLORA_MODELS", str(own))
    entry = registry.resolve("llama-2-70b-chat")
    assert entry.local and entry.location == str(tmp_path / "copy") and entry.hub_id == "meta-llama/Llama-2-70b-chat-hf"
    assert (entry.shape.hidden, entry.context_length, entry.language, entry.licence) == (64, 512, "english", "llama2")
    assert registry.check(entry) is entry  # no token: nothing is fetched
    assert registry.resolve("swallow-70b-instruct").revision == COMMIT
    assert registry.resolve("open-calm-7b").hub_id == "cyberagent/open-calm-7b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bases": {"open-calm-7b": {"folder": "gone"}}}, r"models\.yaml, open-calm-7b: folder 'gone' is not there"),
        ({"bases": {"new": {"folder": "gone"}}}, r"models\.yaml, new: field '\w+' is missing"),
        ({"models": {}}, "two parts, bases and adapters"),
        ({"bases": {"open-calm-7b": "a folder"}}, "two parts, bases and adapters"),
        ({"bases": {7: {"revision": None}}}, "field '.*' is missing"),
    ],
)
def test_a_wrong_file_of_a_site_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.setenv("JMEDLORA_MODELS", str(models_file(tmp_path, content)))
    with pytest.raises(JmedloraError, match=message):
        registry.resolve("open-calm-7b")
    monkeypatch.setenv("JMEDLORA_MODELS", str(tmp_path / "absent.yaml"))
    with pytest.raises(JmedloraError, match=r"absent\.yaml: no such file; JMEDLORA_MODELS names"):
        registry.resolve("open-calm-7b")
