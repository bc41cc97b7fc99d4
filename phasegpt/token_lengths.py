"""How long pairs are in a model's tokens, chat template included. Loads tokenizer.json alone, and no torch.

Counts what `encoding.encode_pair` would make of a pair. Where the tokenizer is not at hand the count is a guess from
words, and says so.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from phasegpt.base_model import BUNDLED
from phasegpt.bundled import bundled_folder

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer

TOKENS_PER_WORD = 1.35  # English prose in the tokens of SmolLM2 and Qwen2.5
TEMPLATE_TOKENS = 12


class TokenCounter(Protocol):
    """Counts tokens."""

    @property
    def name(self) -> str:
        """By what it counts."""

    def prompt(self, prompt: str) -> int:
        """Tokens of a user's turn, up to where the answer begins."""

    def completion(self, prompt: str, completion: str) -> int:
        """Tokens of an answer with its end of turn."""


@dataclass(frozen=True)
class WordCounter:
    """Guesses tokens from words."""

    name: str = f"words, {TOKENS_PER_WORD} tokens each"

    def prompt(self, prompt: str) -> int:
        """Words by the usual rate, and a short template."""
        return round(len(prompt.split()) * TOKENS_PER_WORD) + TEMPLATE_TOKENS

    def completion(self, prompt: str, completion: str) -> int:
        """Words by the usual rate, and an end of turn."""
        return round(len(completion.split()) * TOKENS_PER_WORD) + 1


@dataclass(frozen=True)
class TemplateCounter:
    """Counts by a model's own tokenizer and chat template."""

    name: str
    tokenizer: "Tokenizer"
    template: "Template"
    special_tokens: dict[str, str]

    def prompt(self, prompt: str) -> int:
        """Tokens of the rendered turn."""
        return self._count(self._head(prompt))

    def completion(self, prompt: str, completion: str) -> int:
        """Tokens of what the rendered dialogue has beyond its prompt."""
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        whole = self.template.render(messages=messages, add_generation_prompt=False, **self.special_tokens)
        return self._count(whole.removeprefix(self._head(prompt)))

    def _head(self, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return self.template.render(messages=messages, add_generation_prompt=True, **self.special_tokens)

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def token_counter(base_model: str, root: Path) -> TokenCounter:
    """The counter of a base model: its own where its folder is at hand (nothing is fetched), else one by words."""
    folder = bundled_folder() if base_model == BUNDLED else root / os.path.expanduser(base_model)
    template = _template(folder)
    if template is None or not os.path.isfile(folder / "tokenizer.json"):
        return WordCounter()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return TemplateCounter(f"the tokenizer of {base_model}", tokenizer, template, _special_tokens(folder))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if os.path.isfile(path) else {}
    return settings


def _special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and their like, which templates may name; older files write them as objects."""
    named = {key: value for key, value in _settings(folder).items() if key.endswith("_token")}
    texts = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in texts.items() if isinstance(value, str)}


def _template(folder: Path) -> "Template | None":
    """The chat template of a folder, set up as transformers does; None where there is none that renders a question."""
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if os.path.isfile(file) else _settings(folder).get("chat_template")
    if not isinstance(source, str):
        return None
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["strftime_now"] = time.strftime
    try:
        template = environment.from_string(source)
        template.render(messages=[{"role": "user", "content": "?"}], **_special_tokens(folder))
    except (TemplateError, ArithmeticError, TypeError, ValueError, RecursionError):
        return None
    return template
