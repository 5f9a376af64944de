"""Bases of the mini study: tokenizers and tiny language models trained from scratch on the invented world.

An English-centric ladder of three sizes stands beside Japanese-centric bases of the middle one. All bases of a ladder read equally many
documents, those of one language the very same. Rate and batch were chosen by the general exam and by time.
"""

import json
import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.identity import produced_by
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.notebook import progress, quiet_transformers
from jmedlora_utils.core.records import Meter, Record, read_json, read_record, sha256_file, sha256_text, write_json, write_record, writing
from jmedlora_utils.data import prompts
from jmedlora_utils.data.invented_corpus import Document, corpus
from jmedlora_utils.data.invented_world import TEMPLATE, World

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
# Pieces that no token crosses: a choice marker, a Latin word, and runs of one Japanese script, so that a name is cut
# the same way wherever it stands.
PIECES = r"\n[a-j]▁(?=[^A-Za-z])|▁?[A-Za-z]+|[ァ-ヴー]+|[ぁ-ん]+|[一-龥]+|\n|."
TOKENIZER_SAMPLE = 6000
WINDOW = 1024  # documents that are sorted by length together
LOG_EVERY = 10
MARKER = "pretraining.json"
DEVICES = ("cpu", "cuda")
Architecture = Literal["llama", "gpt_neox"]
Examine = Callable[[Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class BaseSettings:
    """Everything that shapes a base."""

    name: str  #: Name of the base, and of its folder
    architecture: Architecture
    hidden: int  #: Width of the residual stream, a multiple of twice the heads
    layers: int  #: Blocks
    heads: int  #: Attention heads
    english: float  #: Share of the documents that are in English
    documents: int  #: Documents read, each once
    learning_rate: float  #: Peak rate; it rises over the first twentieth of the steps and falls as a cosine to a tenth
    batch_tokens: int = 512  #: Most tokens of a batch, padding included
    vocabulary: int = 1000  #: Tokens of the vocabulary, bytes included
    coverage: float = 1.0  #: Share of the characters of the tokenizer's sample that get a token of their own; the rest becomes bytes
    tokenizer_english: float = 0.1  #: Share of English in the tokenizer's sample

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise JmedloraError(f"{self.name}: architecture {self.architecture!r} is not one of {', '.join(get_args(Architecture))}")
        if self.hidden % (2 * self.heads):
            raise JmedloraError(f"{self.name}: hidden {self.hidden} must be a multiple of twice the heads ({self.heads})")
        if self.documents < 1:
            raise JmedloraError(f"{self.name}: documents is {self.documents}; it takes at least 1")

    @property
    def centric(self) -> str:
        """`english` or `japanese`: the language of most documents."""
        return "english" if self.english > 0.5 else "japanese"


LARGER = {"batch_tokens": 8192, "vocabulary": 2000}
SHARED = {"coverage": 1.0, "tokenizer_english": 0.5}  # a tokenizer from as much English as Japanese, the same for both kinds of base


def _english(name: str, hidden: int, layers: int, heads: int, documents: int, rate: float, **more: Any) -> BaseSettings:
    own = {"coverage": 0.995, "tokenizer_english": 0.9}
    return BaseSettings(name, "llama", hidden, layers, heads, 0.6, documents, rate, **own | more)


def _japanese(name: str, hidden: int, layers: int, heads: int, documents: int, rate: float, **more: Any) -> BaseSettings:
    architecture = more.pop("architecture", "gpt_neox")
    return BaseSettings(name, architecture, hidden, layers, heads, 0.1, documents, rate, **more)


LADDERS: dict[str, tuple[BaseSettings, ...]] = {
    "smoke": (_english("en-small", 32, 2, 2, 1500, 4e-3), _japanese("ja-medium", 32, 2, 2, 1500, 4e-3)),
    # Three sizes, and at the middle one language by tokenizer, all of one architecture.
    "mini": (
        _english("en-small", 64, 2, 2, 30000, 3e-3),
        _english("en-medium", 128, 3, 4, 30000, 2e-3),
        _english("en-large", 192, 4, 4, 30000, 1.5e-3, batch_tokens=1024),
        _english("en-medium-shared", 128, 3, 4, 30000, 2e-3, **SHARED),
        _japanese("ja-medium", 128, 3, 4, 30000, 2e-3, architecture="llama"),
        _japanese("ja-medium-shared", 128, 3, 4, 30000, 2e-3, architecture="llama", **SHARED),
    ),
    # The same with 1, 10 and 290 million parameters, for one GPU.
    "midi": (
        _english("en-small", 128, 4, 4, 200_000, 1.5e-3, **LARGER),
        _english("en-medium", 320, 8, 8, 200_000, 8e-4, **LARGER),
        _english("en-large", 1152, 18, 18, 200_000, 2e-4, **LARGER),
        _english("en-medium-shared", 320, 8, 8, 200_000, 8e-4, **LARGER, **SHARED),
        _japanese("ja-medium", 320, 8, 8, 200_000, 8e-4, architecture="llama", **LARGER),
        _japanese("ja-medium-shared", 320, 8, 8, 200_000, 8e-4, architecture="llama", **LARGER, **SHARED),
    ),
}


def base_settings(ladder: str, name: str) -> BaseSettings:
    """The settings of one base of a ladder."""
    if ladder not in LADDERS:
        raise JmedloraError(f"no ladder {ladder!r}; known: {', '.join(LADDERS)}")
    for base in LADDERS[ladder]:
        if base.name == name:
            return base
    raise JmedloraError(f"ladder {ladder!r} has no base {name!r}; known: {', '.join(b.name for b in LADDERS[ladder])}")


def train_tokenizer(texts: Sequence[str], vocabulary: int, coverage: float, bos: bool) -> Any:
    """A byte-pair tokenizer with byte fallback; the same texts give the same tokenizer.

    `coverage` is the share of the sample's characters that get a token of their own. With `bos` it puts a BOS before a text by itself, as
    Llama's does and GPT-NeoX's does not.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # The character count decides the alphabet here: the trainer's own limit breaks ties by chance.
    alphabet = _alphabet(texts, coverage)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL, *BYTES], min_frequency=2, max_token_length=8, show_progress=False
    )
    marked = ("".join(c for c in text.replace(" ", "▁") if c in alphabet) for text in texts)
    tokenizer.train_from_iterator(marked, trainer)
    made = json.loads(tokenizer.to_str())["model"]
    # Byte tokens must be ordinary ones: as special tokens they would be dropped from decoded answers.
    merges = [tuple(m) for m in made["merges"]]
    final = Tokenizer(models.BPE(vocab=made["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>"))
    final.normalizer = normalizers.Replace(" ", "▁")
    final.pre_tokenizer = tokenizer.pre_tokenizer
    final.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    final.add_special_tokens(list(SPECIAL))
    if bos:
        final.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", final.token_to_id("<s>"))])
    pad, start, end, unknown = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=final, pad_token=pad, bos_token=start, eos_token=end, unk_token=unknown)


def _alphabet(texts: Iterable[str], coverage: float) -> set[str]:
    counts = Counter(c for text in texts for c in text.replace(" ", "▁"))
    total, seen, kept = sum(counts.values()), 0, set()
    for character, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if seen >= coverage * total:
            break
        kept.add(character)
        seen += n
    return kept


def fertility(tokenizer: Any, documents: Iterable[Document]) -> dict[str, float]:
    """Tokens per character by language, BOS not counted: the price of a text in the tokens of this tokenizer."""
    tokens: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for document in documents:
        text = document.prompt + document.text
        tokens[document.language] += len(tokenizer(text, add_special_tokens=False).input_ids)
        characters[document.language] += len(text)
    return {language: round(tokens[language] / characters[language], 4) for language in sorted(tokens)}


def build_model(settings: BaseSettings, tokenizer: Any, seed: int) -> Any:
    """A model with random weights; the seed is set before they are drawn."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "max_position_embeddings": 512,
        "initializer_range": 0.04 if settings.hidden <= 256 else 0.02,  # a narrow model starts slower with the usual 0.02
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if settings.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(intermediate_size=settings.hidden * 8 // 3 // 16 * 16, **common))
    return GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=4 * settings.hidden, **common))


def encode_documents(tokenizer: Any, documents: Sequence[Document]) -> list[tuple[list[int], int]]:
    """Token ids of each document with EOS, and how many of them are read only (at least 1: nothing predicts the first).

    Prompt and text are encoded apart: `PIECES` cuts at the line break or colon between them, so the joint encoding is
    the same.
    """
    start = [tokenizer.bos_token_id] if prompts.has_bos_habit(tokenizer) else []
    heads = tokenizer([d.prompt for d in documents], add_special_tokens=False).input_ids
    tails = tokenizer([d.text for d in documents], add_special_tokens=False).input_ids
    rows = []
    for head, tail in zip(heads, tails, strict=True):
        rows.append(([*start, *head, *tail, tokenizer.eos_token_id], max(1, len(start) + len(head))))
    return rows


def plan_batches(lengths: Sequence[int], batch_tokens: int, seed: int) -> list[list[int]]:
    """Row numbers of each batch: rows of like length together, windows in order, batches of a window shuffled."""
    rng = random.Random(f"batches/{seed}")
    plan = []
    for start in range(0, len(lengths), WINDOW):
        rows = sorted(range(start, min(start + WINDOW, len(lengths))), key=lambda i: (lengths[i], i))
        batches: list[list[int]] = [[]]
        for row in rows:
            if batches[-1] and lengths[row] * (len(batches[-1]) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(row)
        rng.shuffle(batches)
        plan += batches
    return plan


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Rate of a step counted from 0: a linear rise over a twentieth of the steps, then a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
    return peak * rise * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(
    model: Any, rows: Sequence[tuple[list[int], int]], plan: Sequence[Sequence[int]], peak: float, state: Path, every: int, what: str
) -> list[dict[str, float]]:
    """Trains the model in place; started again after a kill, it goes on from `state` and ends with the same weights.

    Rows are padded on the right and no attention mask is passed: a causal model never looks at what follows. The loss is
    the token mean over supervised tokens, and the output head is applied to those alone.
    """
    import torch

    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    losses: list[float] = []
    if state.is_file():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        losses = saved["losses"]
    model.train()
    pad = model.config.pad_token_id
    for step in progress(range(len(losses), len(plan)), what, total=len(plan) - len(losses)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(plan), peak)
        ids, labels = _collate([rows[i] for i in plan[step]], pad)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
            hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state[:, :-1]
            asked = labels[:, 1:] != -100
            logits = model.get_output_embeddings()(hidden[asked.to(device)])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][asked].to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise JmedloraError(f"{what}: the loss is {losses[-1]} at step {step + 1}; lower learning_rate")
        if every > 0 and (step + 1) % every == 0 and step + 1 < len(plan):
            _save_state(state, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses})
    groups = [losses[i : i + LOG_EVERY] for i in range(0, len(losses), LOG_EVERY)]
    return [{"step": min((n + 1) * LOG_EVERY, len(losses)), "loss": round(sum(g) / len(g), 5)} for n, g in enumerate(groups)]


def _collate(batch: Sequence[tuple[list[int], int]], pad: int) -> tuple[Any, Any]:
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    for row, (tokens, n_read) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, n_read : len(tokens)] = torch.tensor(tokens[n_read:])
    return ids, labels


def _save_state(path: Path, state: dict[str, Any]) -> None:
    import torch

    aside = path.with_suffix(".writing")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, aside)
        os.replace(aside, path)


def pretrain(
    settings: BaseSettings, world: World, workspace: paths.Workspace, examine: Examine, every: int = 200, device: str = "cpu"
) -> Record:
    """Trains one base, or returns the record of the finished one; a killed run goes on.

    Writes `bases/<name>/` (model and tokenizer) and the record `19_pretrain__<name>`, which holds the loss series,
    tokens per second, fertility and the entry check.

    Raises:
        JmedloraError: `device` is another one or is not there, the loss is no number, or another process trains this base.
    """
    import torch

    if device not in DEVICES or (device == "cuda" and not torch.cuda.is_available()):
        raise JmedloraError(f"device is {device!r}; it takes 'cpu', or 'cuda' where torch sees a GPU")
    with alone(workspace.bases / f".{settings.name}.lock", f"the base {settings.name}"):
        return _pretrain(settings, world, workspace, examine, every, device)


def _pretrain(settings: BaseSettings, world: World, workspace: paths.Workspace, examine: Examine, every: int, device: str) -> Record:
    meter = Meter()
    seed = workspace.seed
    with meter.stage("corpus"):
        documents = list(corpus(world, settings.english, settings.documents, seed))
        digest = sha256_text("\n\n".join(d.prompt + "\t" + d.text for d in documents))
    made = {"settings": asdict(settings), "seed": seed, "corpus_sha256": digest, "device": device}
    # The entry check is handed in, and what it finds stands in the record: its code counts too.
    identity = json.loads(json.dumps(made | {"produced_by": produced_by("models.pretraining", "evaluation.entry_check")}))
    folder, record_path = workspace.bases / settings.name, workspace.records / f"19_pretrain__{settings.name}.json"
    if done := finished(folder, record_path, identity):
        return done
    with meter.stage("tokenize"):
        sample = [d.prompt + d.text for d in corpus(world, settings.tokenizer_english, TOKENIZER_SAMPLE, seed)]
        tokenizer = train_tokenizer(sample, settings.vocabulary, settings.coverage, bos=settings.architecture == "llama")
        rows = encode_documents(tokenizer, documents)
    plan = plan_batches([len(ids) for ids, _ in rows], settings.batch_tokens, seed)
    model = build_model(settings, tokenizer, seed).to(device)
    work = workspace.bases / ".training" / f"{settings.name}-{sha256_text(json.dumps(identity))[:12]}"
    with meter.stage("train"):
        series = train(model, rows, plan, settings.learning_rate, work / "state.pt", every, settings.name)
    with meter.stage("entry_check"):
        entry = examine(model.eval(), tokenizer)
    with meter.stage("save"):
        _publish(model, tokenizer, identity, work, folder)
    tokens = sum(len(ids) for ids, _ in rows)
    supervised = sum(len(ids) - n_read for ids, n_read in rows)
    record = Record(
        kind="pretrain",
        name=record_path.stem,
        preset=workspace.preset,
        seed=seed,
        config=asdict(settings) | {"centric": settings.centric, "template": TEMPLATE, "device": device},
        metrics={
            "series": series,
            "final_loss": series[-1]["loss"],
            "entry": entry,
            "fertility": fertility(tokenizer, documents[:TOKENIZER_SAMPLE]),
            "weights_sha256": sha256_file(folder / "model.safetensors"),
        },
        counts={
            "documents": len(documents),
            "tokens": tokens,
            "supervised_tokens": supervised,
            "steps": len(plan),
            "vocabulary": len(tokenizer),
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        data={"corpus": digest},
        model={"base": settings.name, "architecture": settings.architecture, "quantisation": "none"},
        **meter.fields(),
    )
    record.timing["tokens_per_second"] = round(tokens / max(meter.timing["train"], 1e-9), 1)
    write_record(workspace.records, record)
    shutil.rmtree(work, ignore_errors=True)
    return record


def finished(folder: Path, record_path: Path, identity: dict[str, Any]) -> Record | None:
    """The record of this very base if it is trained: same settings, seed and documents."""
    try:
        trained = read_json(folder / MARKER) == identity and record_path.is_file()
    except JmedloraError:  # not there, or cut off
        return None
    if not trained:
        return None
    record, weights = read_record(record_path), folder / "model.safetensors"
    # A kill between publishing a base and writing its record leaves the record of an earlier base.
    return record if weights.is_file() and record.metrics.get("weights_sha256") == sha256_file(weights) else None


def _publish(model: Any, tokenizer: Any, identity: dict[str, Any], work: Path, folder: Path) -> None:
    """Saves the base whole or not at all: beside its place, then renamed."""
    quiet_transformers()
    made = work / "base"
    shutil.rmtree(made, ignore_errors=True)
    with writing(folder):
        model.float().save_pretrained(made)
        tokenizer.save_pretrained(made)
        write_json(made / MARKER, identity)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
