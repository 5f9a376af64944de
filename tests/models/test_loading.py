"""Models: found, loaded (also in 4-bit), counted, and refused by name."""

import shutil
from pathlib import Path

import pytest

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import sha256_file, sha256_text
from jmedlora_utils.models import loading
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.make_checkpoint(root / family, family) for family in tiny.LOADED_FAMILIES}


@pytest.mark.parametrize("family", tiny.LOADED_FAMILIES)
def test_four_bit_counts_the_true_parameters(folders, family: str) -> None:
    plain, _ = loading.load_base(str(folders[family]))
    packed, _ = loading.load_base(str(folders[family]), quantisation="nf4")
    assert any(p.__class__.__name__ == "Params4bit" for p in packed.parameters())
    counts = [loading.count_parameters(model)["total"] for model in (packed, plain)]
    assert counts == [sum(p.numel() for p in plain.parameters())] * 2


@pytest.mark.parametrize("family", tiny.LOADED_FAMILIES)
def test_default_targets_are_all_linear_layers_of_the_blocks(folders, family: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import LoraLayer

    model, _ = loading.load_base(str(folders[family]))
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()}
    targets = loading.lora_targets(loading.find_base(str(folders[family])), model)
    assert set(targets) == {n.rsplit(".", 1)[-1] for n in linear}
    tuned = get_peft_model(model, LoraConfig(target_modules=targets))
    assert {n for n, m in tuned.get_base_model().named_modules() if isinstance(m, LoraLayer)} == linear


REFUSED = [
    (loading.load_base, "someone/some-model", "someone/some-model: its revision is unknown"),
    (lambda name: loading.load_tokenizer(loading.find_base(name)), "swallow-70b-instruct", "swallow-70b-instruct: its revision is unknown"),
    (loading.find_adapter, "someone/some-adapter", "someone/some-adapter: its revision is unknown"),
    (loading.load_base, "open-calm-7b", "cannot be reached and the model is not in the local cache"),
]


@pytest.mark.parametrize(("load", "name", "said"), REFUSED)
def test_what_is_not_pinned_or_out_of_reach_is_refused_before_any_download(monkeypatch, load, name: str, said: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(JmedloraError, match=said):
        load(name)


def test_a_base_of_the_workspace_is_found_before_those_of_the_registry(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    assert loading.find_base("llama", workspace).folder == workspace.bases / "llama"
    with pytest.raises(JmedloraError, match=r"no base model 'lama' \(did you mean 'llama'\?\)"):
        loading.find_base("lama", workspace)


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_model_too_large_for_the_card_is_refused_before_it_is_fetched_or_loaded(folders, monkeypatch, place: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    name, memory = ("llama-2-70b-chat", 24 << 30) if place == "hub" else (str(folders["llama"]), 1 << 10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (memory, memory))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    with pytest.raises(JmedloraError, match=r"its weights take .* GB \(none\), the card has .* GB; use quantisation nf4 or"):
        loading.load_base(name)


def test_the_fingerprint_of_a_small_folder_hashes_its_files_whole(tmp_path) -> None:
    """Keys of answers and the identity of runs hold it, so it must not change."""
    folder = tiny.make_checkpoint(tmp_path / "m")
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    text = "".join(f"{name}:{sha256_file(folder / name)}\n" for name in names)
    assert loading.fingerprint(loading.find_base(str(folder))) == sha256_text(text)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_the_fingerprint_of_large_weights_samples_every_stretch(tmp_path, monkeypatch, name: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(loading, "FULL_HASH_BYTES", 0)
    monkeypatch.setattr(loading, "STRETCHES", 8)
    entry, keys = loading.find_base(str(tmp_path)), set()
    content = bytearray(100_000)
    for at in (0, 0, 50_000, 99_999):  # the first time, as it is
        content[at] += len(keys) > 0
        (tmp_path / name).write_bytes(content)
        keys.add(loading.fingerprint(entry))
    assert len(keys) == 4
    monkeypatch.setattr(loading, "sha256_file", lambda path: pytest.fail("hashed whole") if path.name == name else sha256_file(path))
    assert loading.fingerprint(entry) in keys


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text"])
def test_four_bit_models_are_the_same_on_a_cpu_with_avx512_bf16_and_without(family: str, tmp_path: Path, monkeypatch) -> None:
    """Widths that are no multiples of 32: logits, losses of three steps and the saved bytes. On a CPU bitsandbytes would repack them."""
    import bitsandbytes.nn.modules as linear4bit
    import torch
    from peft import LoraConfig, get_peft_model

    base = tiny.make_checkpoint(tmp_path / "base", family, hidden=72)
    ids = torch.arange(40).reshape(2, 20)

    def run(repacks: bool) -> tuple[torch.Tensor, list[float], list[str]]:
        monkeypatch.setattr(linear4bit, "has_avx512bf16", lambda: repacks)
        model, _ = loading.load_base(str(base), quantisation="nf4", device="cpu")
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        torch.manual_seed(0)
        targets = loading.lora_targets(loading.find_base(str(base)), model)
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=targets)).train()
        optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for _ in range(3):
            loss = tuned(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            tuned.eval()(input_ids=ids)  # a look at the model in evaluation mode is what starts the repacking
            tuned.train()
        folder = tmp_path / str(repacks)
        model.save_pretrained(folder / "base")
        tuned.save_pretrained(folder / "adapter")
        return logits, losses, [sha256_file(path) for path in sorted(folder.rglob("*.safetensors"))]

    plain, other = run(False), run(True)
    assert torch.equal(plain[0], other[0]) and plain[1:] == other[1:]


def _damage_tensor(path: Path, how: str) -> None:
    """Rewrites a safetensors file: a NaN in its first tensor, or without the tensors of one layer."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    if how == "nan":
        next(iter(tensors.values())).view(-1)[0] = float("nan")
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if "layers.1." not in name}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "said"), [("nan", "no finite numbers"), ("lost", "it has no weights for"), ("cut", "could not be"), ("empty", "could not be")]
)
def test_a_damaged_adapter_is_refused_by_name(folders, tmp_path: Path, how: str, said: str) -> None:
    good, bad = (tiny.make_adapter(folders["llama"], tmp_path / name) for name in ("good", "bad"))
    weights = bad / "adapter_model.safetensors"
    if how in ("nan", "lost"):
        _damage_tensor(weights, how)
    else:
        weights.write_bytes(weights.read_bytes()[:1000] if how == "cut" else b"")
    with pytest.raises(JmedloraError, match=f"bad.*{said}"):
        loading.load_adapter(loading.load_base(str(folders["llama"]))[0], bad)
    tuned = loading.load_adapter(loading.load_base(str(folders["llama"]))[0], good)
    with pytest.raises(JmedloraError, match=f"bad.*{said}"):
        loading.exchange_adapter(tuned, bad)
    with pytest.raises(JmedloraError, match=r"holds no adapter_config\.json"):
        loading.find_adapter(str(folders["llama"]))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", b"", "config.json:1: not valid JSON"),
        ("config.json", b"[1]", "config.json: it holds no JSON object"),
        ("config.json", b'{"model_type": "llama"}', "'num_attention_heads' is missing"),
        ("tokenizer.json", b"{", "could not be"),
        ("model.safetensors", b"junk" * 100, "could not be"),
        ("model.safetensors", None, "the folder holds a config.json and no weights"),
        ("model.safetensors", b"nan", "no finite numbers"),
    ],
)
def test_a_damaged_model_folder_is_refused_by_name(folders, tmp_path: Path, file: str, content: bytes | None, said: str) -> None:
    shutil.copytree(folders["llama"], tmp_path / "broken")
    if content is None:
        (tmp_path / "broken" / file).unlink()
    elif content == b"nan":
        _damage_tensor(tmp_path / "broken" / file, "nan")
    else:
        (tmp_path / "broken" / file).write_bytes(content)
    with pytest.raises(JmedloraError, match=f"broken.*{said}"):
        loading.load_base(str(tmp_path / "broken"))


@pytest.mark.parametrize(("argument", "value"), [("quantisation", "int3"), ("dtype", "float8")])
def test_an_unknown_way_to_load_is_named(folders, argument: str, value: str) -> None:
    with pytest.raises(JmedloraError, match=f"{argument} '{value}' is not one of"):
        loading.load_base(str(folders["llama"]), **{argument: value})


def test_a_tokenizer_without_padding_pads_with_eos(tmp_path) -> None:
    folder = tiny.make_checkpoint(tmp_path / "m", pad=False)
    tokenizer = loading.load_tokenizer(loading.find_base(str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
