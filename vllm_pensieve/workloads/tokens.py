"""How many tokens a text is, in the tokenizer of the model that is served."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.workloads.errors import UsageError
from vllm_pensieve.workloads.text import write_text

SAMPLE_CHARACTERS = 20_000


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens of texts and converts lengths of generated text."""

    count: Callable[[str], int]
    characters_per_token: float

    def characters(self, tokens: int) -> int:
        """Return how many characters of generated text make up about `tokens` tokens (exactly, for
        the demo model).
        """
        return max(1, round(tokens * self.characters_per_token))


def token_counter(model: str) -> TokenCounter:
    """Return the counter for a model name or folder. Raises UsageError if there is no such model."""
    if model == DEMO_MODEL_NAME:
        return TokenCounter(lambda text: len(text.encode()), 1.0)
    count = _load_tokenizer(model)
    sample = write_text(random.Random(0), SAMPLE_CHARACTERS)
    return TokenCounter(count, SAMPLE_CHARACTERS / max(1, count(sample)))


def _load_tokenizer(model: str) -> Callable[[str], int]:
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise UsageError(f"{model} is not a model: the folder has no config.json")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"no model {model!r}: {lines[0]}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
