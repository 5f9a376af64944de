"""Tiny checkpoints of the paper's two architectures, of Qwen3 and of Gemma 3, made on the spot, and invented exam questions."""

import random
from pathlib import Path
from typing import Any

from jmedlora_utils.data.questions import LETTERS, Question, write_exam

SYLLABLES = "アイウエオカキクケコサシスセソタチツテトナニヌネノ"
FAMILIES = ("llama", "gpt_neox", "qwen3")
# Gemma 3 is loaded, planned, asked and scored; its tuning is that of Llama.
LOADED_FAMILIES = (*FAMILIES, "gemma3_text")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [a + b + c for a in SYLLABLES[:5] for b in SYLLABLES[5:11] for c in SYLLABLES[11:14]]


def text_corpus() -> list[str]:
    """Invented text that covers the words and the prompt forms of these tests."""
    lines = [f"{w}病の治療に用いるのはどれか。2つ選べ。{w}薬、{v}薬である。" for w, v in zip(WORDS, reversed(WORDS), strict=True)]
    forms = "問題:\n答え:\na b c d e 以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。\n### 指示:\n### 入力:\n### 応答:\n"
    return [*lines, forms]


def make_tokenizer(bos: bool, pad: bool = True, vocab_size: int = 500, chatml: bool = False) -> Any:
    """A byte-level BPE tokenizer; with `bos` it has Llama's habit of a BOS before each text, else it has none.

    With `chatml` it has the special tokens and the form of chat of Qwen3, which knows no BOS at all.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    start, end, padding = special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"] if chatml else ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(text_corpus(), trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    names = {"eos_token": end} | ({"chat_template": CHATML} if chatml else {"bos_token": start}) | ({"pad_token": padding} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def make_family_tokenizer(family: str, pad: bool = True) -> Any:
    """The tokenizer that `make_checkpoint` gives a model of `family`."""
    return make_tokenizer(bos=family in ("llama", "gemma3_text"), pad=pad, chatml=family == "qwen3")


def make_checkpoint(
    folder: Path, family: str = "llama", seed: int = 0, hidden: int = 64, pad: bool = True, tie: bool = False, context: int = 512
) -> Path:
    """Saves a random model of a family and returns its folder; `llama` and `gemma3_text` have a tokenizer that adds a BOS.

    `qwen3` has what real ones have: heads wider than their share of the hidden size (the smaller ones), fewer of them for keys and
    values, and generation settings that sample and name two ends. `gemma3_text` has one table of embeddings, and a layer that sees
    only a sliding window.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = make_family_tokenizer(family, pad)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 2 * hidden}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": context, "tie_word_embeddings": tie}
    sizes |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")} | {"initializer_range": 0.1}
    if family == "gemma3_text":
        sizes |= {"num_key_value_heads": 1, "head_dim": hidden // 2, "tie_word_embeddings": True, "sliding_window": 64}
        sizes |= {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": hidden // 2}
    if family == "qwen3":
        sizes |= {"num_key_value_heads": 2, "head_dim": hidden // 2, "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>")}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    if family == "qwen3":
        ends = [tokenizer.eos_token_id, sizes["bos_token_id"]]
        model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, top_p=0.95, eos_token_id=ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int = 0, rank: int = 4) -> Path:
    """Saves a LoRA adapter with random weights for a checkpoint, strong enough to change its answers, and returns its folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from jmedlora_utils.models import loading

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    targets = loading.lora_targets(loading.find_base(str(base)), model)
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=targets, init_lora_weights=False))
    tuned.save_pretrained(folder)
    return folder


def make_workspace(root: Path, monkeypatch: Any, *families: str, records: int = 120, questions: int = 24, preset: str = "smoke") -> Any:
    """A workspace below `root` with bases, instruction records, articles, three exams and a pool of worked examples."""
    from jmedlora_utils.core import paths
    from jmedlora_utils.core.records import write_jsonl

    monkeypatch.setenv("JMEDLORA_RUNS", str(root))
    workspace = paths.Workspace(preset, 1)
    write_jsonl(workspace.data / "instructions" / "train.jsonl", make_records(records))
    write_jsonl(workspace.data / "articles.jsonl", [{"id": f"x{i}", "text": text} for i, text in enumerate(text_corpus()[:60])])
    for seed, exam in enumerate(("mini_trained", "mini_heldout", "mini_general", "mini_shots")):
        write_exam(workspace.data / "exams" / f"{exam}.jsonl", make_questions(questions, exam, seed))
    for family in families:
        make_checkpoint(workspace.bases / family, family)
    return workspace


def make_questions(n: int, exam: str = "mini_trained", seed: int = 0) -> list[Question]:
    """Invented five-choice questions; every fourth asks for two answers."""
    rng = random.Random(seed)
    questions = []
    for i in range(n):
        words = rng.sample(WORDS, 6)
        n_select = 2 if i % 4 == 3 else 1
        stem = f"{words[5]}病の治療に用いるのはどれか。" + "2つ選べ。" * (n_select - 1)
        gold = frozenset(rng.sample(LETTERS[:5], n_select))
        choices, section = tuple(f"{w}薬" for w in words[:5]), ("taught", "untaught")[i % 2]
        questions.append(Question(f"{exam}-{i}", exam, "ja", stem, choices, gold, section=section, n_select=n_select))
    return questions


def make_records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Invented instruction records, of uneven length."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        a, b = rng.sample(WORDS, 2)
        extra = "".join(rng.choices(WORDS, k=rng.randrange(4)))
        asked = {"instruction": f"{a}病の治療に用いるのはどれか。{extra}", "input": "", "output": f"{b}薬"}
        rows.append({"id": f"r{i}", **asked, "article": f"x{i}", "facts": []})
    return rows
