"""Which token a simulated request generates next: a pure function of its prompt and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_pensieve.simulator.settings import OUTPUT_TOKENS_KEY


@dataclass(frozen=True)
class Script:
    """What one request will say.

    reply: the tokens, one after the other, and again from the front.
    tokens_before_end: this many of them, then `end`; without an end it goes on.
    filler: tokens that end nothing, in place of those that would where nothing may end yet.
    ends: all tokens that would.
    logprobs: whether the tokens' own log-probabilities are asked for.
    """

    prompt_tokens: int
    reply: Sequence[int]
    tokens_before_end: float
    end: int | None
    filler: Sequence[int]
    ends: frozenset[int]
    min_tokens: int
    logprobs: bool

    def token(self, index: int) -> int:
        """The output's token number `index`, from 0."""
        ended = self.end is not None and index >= self.tokens_before_end
        token = self.end if ended else self.reply[index % len(self.reply)]
        assert token is not None
        if index < self.min_tokens and token in self.ends:
            return self.filler[index % len(self.filler)]
        return token


def echo(prompt: Sequence[int], params: Any) -> Script:
    """The prompt's own tokens, then the end."""
    return _script(prompt, params, prompt, len(prompt))


def recorded(prompt: Sequence[int], params: Any) -> Script:
    """So many tokens as the request's `simulated_output_tokens` says, the end among them.

    Raises:
        ValueError: that is not a whole number above 0.
    """
    wanted = (params.extra_args or {}).get(OUTPUT_TOKENS_KEY)
    if wanted is None:
        return endless(prompt, params)
    if type(wanted) is not int or wanted < 1:
        raise ValueError(
            f"{OUTPUT_TOKENS_KEY} is {wanted!r}; a whole number of 1 or more is expected"
        )
    return _script(prompt, params, _filler(prompt, params), wanted - 1)


def endless(prompt: Sequence[int], params: Any) -> Script:
    """As many tokens as are allowed."""
    return _script(prompt, params, _filler(prompt, params), math.inf)


def _script(
    prompt: Sequence[int], params: Any, reply: Sequence[int], tokens_before_end: float
) -> Script:
    return Script(
        len(prompt),
        reply,
        tokens_before_end,
        params.eos_token_id,
        _filler(prompt, params),
        frozenset(params.all_stop_token_ids),
        params.min_tokens,
        params.logprobs is not None,
    )


def _filler(prompt: Sequence[int], params: Any) -> list[int]:
    return [token for token in prompt if token not in params.all_stop_token_ids] or [0]


SCRIPTS: dict[str, Callable[[Sequence[int], Any], Script]] = {"echo": echo, "recorded": recorded}
"""By the name in the settings."""
