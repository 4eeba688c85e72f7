"""How many tokens a text is, in the tokenizer of the model that is served."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.errors import UsageError, first_lines
from vllm_pensieve.workloads.text import write_text

SAMPLE_CHARACTERS = 20_000
MESSAGE_OVERHEAD_TOKENS = 16
"""Room left for what a chat template adds to a message, where nothing is known of it, or less."""


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens of texts and converts lengths of generated text.

    message_overhead_tokens: room for what the model's chat template adds to a message.
    """

    count: Callable[[str], int]
    characters_per_token: float
    message_overhead_tokens: int = MESSAGE_OVERHEAD_TOKENS

    def characters(self, tokens: int) -> int:
        """Return how many characters of generated text make up about `tokens` tokens (exactly, for
        the demo model).
        """
        return max(1, round(tokens * self.characters_per_token))


def token_counter(model: str) -> TokenCounter:
    """Return the counter for a model name or folder. Raises UsageError if there is no such model."""
    if model == DEMO_MODEL_NAME:
        return TokenCounter(lambda text: len(text.encode()), 1.0)
    tokenizer = _load_tokenizer(model)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    sample = write_text(random.Random(0), SAMPLE_CHARACTERS)
    return TokenCounter(
        count, SAMPLE_CHARACTERS / max(1, count(sample)), _message_overhead(tokenizer, count)
    )


def _message_overhead(tokenizer: Any, count: Callable[[str], int]) -> int:
    """Tokens that a chat template adds to a message, on average over a question and its answer."""
    chat = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # a template may raise anything; without one there is none to count
        return MESSAGE_OVERHEAD_TOKENS
    return max(MESSAGE_OVERHEAD_TOKENS, -(-count(text) // len(chat)))


def _load_tokenizer(model: str) -> Any:
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UsageError(f"{model} is not a model: the folder has no config.json")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"no model {model!r}: {first_lines(error)}") from error
