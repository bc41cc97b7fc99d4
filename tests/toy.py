"""A toy Qwen2 (4 layers, hidden 64, its own 1k BPE) and toy pairs, made in under a second, offline."""

import json
from pathlib import Path

DOMAINS = ("philosophy", "science", "social", "artistic")
COMPLEXITIES = ("simple", "medium", "complex")
SUBTLETIES = ("explicit", "moderate", "implicit")
THINGS = (
    "the river", "a clock", "the harvest", "an old song", "the bridge", "a letter", "the market", "a garden",
    "the theatre", "a lamp", "the harbour", "a number",
)  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_pairs(count: int = 36) -> list[dict[str, str]]:
    """`count` pairs that walk through all 36 strata, with distinct prompts and answers of different lengths."""
    strata = [(d, c, s) for d in DOMAINS for c in COMPLEXITIES for s in SUBTLETIES]
    return [_toy_pair(index, *strata[index % len(strata)]) for index in range(count)]


def _toy_pair(index: int, domain: str, complexity: str, subtlety: str) -> dict[str, str]:
    thing, other = THINGS[index % len(THINGS)], THINGS[(index * 5 + 3) % len(THINGS)]
    opening = f"People say {thing} stays."
    more = " ".join(f"It was seen {n} times." for n in range(index % 4))
    return {
        "id": f"toy-{index:03d}",
        "prompt": f"What can {thing} teach about {other} in case {index}?",
        "chosen": f"{opening} The facts of {other} push back, for it moves. So {thing} keeps {other}. {more}",
        "rejected": f"{opening} It always stays, and {thing} is there in case {index}. {more}",
        "domain": domain,
        "complexity": complexity,
        "subtlety": subtlety,
    }


def toy_prompts(count: int = 8) -> list[dict[str, str]]:
    """`count` evaluation prompts, alternately of the search half and of the final half."""
    return [
        {
            "id": f"toy-prompt-{index:02d}",
            "prompt": f"Tell of {THINGS[index % len(THINGS)]} once more.",
            "domain": DOMAINS[index // 2 % len(DOMAINS)],
            "half": ("search", "final")[index % 2],
        }
        for index in range(count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write `rows` one JSON object a line and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build_toy_model(folder: Path, seed: int = 0) -> Path:
    """Write a toy Qwen2 and its tokenizer to `folder` in the layout of `save_pretrained`; returns `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    texts = [row[key] for row in toy_pairs() for key in ("prompt", "chosen", "rejected")]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
