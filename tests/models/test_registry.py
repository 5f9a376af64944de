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

BASES = [e for e in registry.entries().values() if e.kind == "base"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("entry", registry.entries().values(), ids=lambda e: e.name)
def test_an_entry_says_what_a_run_needs(entry: ModelEntry) -> None:
    assert entry.source.startswith("https://") and entry.lora_targets
    if entry.kind == "base":
        assert entry.shape is not None and entry.context_length >= 2048 and entry.chat_template is not None
    else:  # its file holds float32 parameters
        assert 4 * adapter_parameters(registry.resolve(entry.base).shape, entry.rank, entry.lora_targets) == entry.bytes


def test_a_name_and_its_hub_id_find_the_same_entry() -> None:
    assert registry.resolve("open-calm-7b") is registry.resolve("cyberagent/open-calm-7b")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(JmedloraError, match=r"no model 'open-calm-7'.*did you mean 'open-calm-7b'"):
        registry.resolve("open-calm-7")


def test_a_commit_after_the_name_pins_it() -> None:
    entry = registry.resolve(f"swallow-70b-instruct@{COMMIT}")
    assert (entry.hub_id, entry.revision) == ("tokyotech-llm/Swallow-70b-instruct-hf", COMMIT)
    assert registry.check(entry) is entry


def test_a_branch_is_no_revision() -> None:
    with pytest.raises(JmedloraError, match="'main' is no full commit hash"):
        registry.resolve("open-calm-7b@main")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swallow-70b-instruct", r"its revision is unknown.*commits/main.*'swallow-70b-instruct@<40"),
        ("someone/some-model", "its revision is unknown"),
        ("llama-2-70b-chat", r"gated and no token.*Accept its licence \(llama2\).*HF_TOKEN"),
    ],
)
def test_what_cannot_be_fetched_is_refused_without_a_network_with_the_fix(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(JmedloraError, match=f"{name}: .*{message}"):
        registry.check(registry.resolve(name))


def test_a_token_a_cached_copy_or_a_commit_is_enough() -> None:
    entry = registry.resolve("llama-2-70b-chat")
    assert registry.check(entry, token="a token") is entry and registry.check(entry, local=True) is entry
    assert registry.check(registry.resolve(f"someone/some-model@{COMMIT}")).shape is None


def test_a_model_too_large_for_the_card_is_refused_with_the_fix() -> None:
    entry = registry.resolve("llama-2-70b-chat")
    with pytest.raises(JmedloraError, match=r"take 138\.0 GB \(none\), the card has 85\.9 GB; use quantisation nf4 or"):
        registry.check(entry, token="a token", card_bytes=80 << 30)
    assert registry.check(entry, token="a token", card_bytes=80 << 30, quantisation="nf4") is entry
    with pytest.raises(JmedloraError, match=r"\(nf4\).*; use a larger card"):
        registry.check(entry, token="a token", card_bytes=24 << 30, quantisation="nf4")


def test_a_local_folder_works_where_a_hub_id_does(tmp_path: Path) -> None:
    config = {"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    config |= {"num_attention_heads": 4, "vocab_size": 500, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    entry = registry.resolve(str(tmp_path))
    assert entry.local and entry.location == str(tmp_path.resolve()) and entry.context_length == 512
    assert entry.shape == Shape("gpt_neox", 2, 64, 128, 4, 4, 16, 500)
    assert registry.check(entry) is entry  # neither revision nor token
    assert entry.download_bytes() == 0


def test_a_local_adapter_names_its_base(tmp_path: Path) -> None:
    settings = {"base_model_name_or_path": "llama-2-7b-chat", "r": 64, "target_modules": ["v_proj", "q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345678")
    entry = registry.resolve(str(tmp_path))
    assert (entry.kind, entry.base, entry.rank, entry.lora_targets, entry.bytes) == (
        "adapter",
        "llama-2-7b-chat",
        64,
        ("q_proj", "v_proj"),
        8,
    )


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JmedloraError, match=r"neither config\.json .* nor adapter_config\.json"):
        registry.resolve(str(tmp_path))


def test_another_architecture_loads_from_a_folder_without_sizes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert registry.resolve(str(tmp_path)).shape is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": 1}, "its shape gives .* parameters says 1"),
        ({"revision": "main"}, "'main' is no full commit hash"),
        ({"licence": None, "drop": "licence"}, "field 'licence' is missing"),
        ({"architecture": "gpt"}, "'architecture': Input should be 'llama', 'gpt_neox', 'qwen3' or 'gemma3_text'"),
        ({"lora_targets": ["q_proj"]}, "'q_proj' is no linear module of gpt_neox"),
        ({"language": "latin"}, "'language': Input should be 'japanese'"),
        ({"colour": "blue"}, "no field 'colour'"),
        ({"gated": "maybe"}, "'gated': Input should be a valid boolean"),
        ({"shape": [1]}, "field 'layers' is missing"),
        ({"shape": {"layers": 0}}, "open-calm-7b, shape: 'layers': Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    raw = yaml.safe_load(registry.MODELS_FILE.read_text(encoding="utf-8"))
    entry = raw["bases"]["open-calm-7b"] | change
    entry.pop(entry.pop("drop", ""), None)
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"bases": {"open-calm-7b": entry}}), encoding="utf-8")
    with pytest.raises(JmedloraError, match=message):
        registry.read_models(path)


def test_an_adapter_of_an_unlisted_base_is_refused(tmp_path: Path) -> None:
    raw = yaml.safe_load(registry.MODELS_FILE.read_text(encoding="utf-8"))
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump({"adapters": {"jmedlora-900": raw["adapters"]["jmedlora-900"]}}), encoding="utf-8")
    with pytest.raises(JmedloraError, match="base 'llama-2-70b-chat' is not listed"):
        registry.read_models(path)


def test_the_registry_imports_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from jmedlora_utils.models import registry, planner; registry.entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def own_file(folder: Path, content: object) -> Path:
    (folder / "models.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "models.yaml"


def test_a_site_names_local_copies_of_listed_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    config |= {"num_attention_heads": 4, "vocab_size": 500, "max_position_embeddings": 512}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    own = own_file(tmp_path, {"bases": {"llama-2-70b-chat": {"folder": "copy"}, "swallow-70b-instruct": {"revision": COMMIT}}})
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
        (["bases"], "a mapping of names to values is expected"),
        ({"bases": ["open-calm-7b"]}, "two parts, bases and adapters"),
        ({"bases": {"open-calm-7b": "a folder"}}, "two parts, bases and adapters"),
        ({"bases": {7: {"revision": None}}}, "field '.*' is missing"),
    ],
)
def test_a_wrong_file_of_a_site_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str) -> None:
    monkeypatch.setenv("JMEDLORA_MODELS", str(own_file(tmp_path, content)))
    with pytest.raises(JmedloraError, match=message):
        registry.resolve("open-calm-7b")
    monkeypatch.setenv("JMEDLORA_MODELS", str(tmp_path / "absent.yaml"))
    with pytest.raises(JmedloraError, match=r"absent\.yaml: no such file; JMEDLORA_MODELS names"):
        registry.resolve("open-calm-7b")
