"""Ways to sample that stock vLLM answers alike every time: what a request may ask for besides greedy tokens."""

from collections.abc import Callable
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

Maker = Callable[[int, int], SamplingParams]


def _params(number: int, output_tokens: int, **others: Any) -> SamplingParams:
    """Of one request; with n > 1 all of its choices come as one output."""
    return SamplingParams(
        max_tokens=output_tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **{"seed": number, "temperature": 0.9, "ignore_eos": True, "logprobs": 5} | others,
    )


def _greedy(number: int, output_tokens: int, **others: Any) -> SamplingParams:
    return _params(number, output_tokens, **{"seed": None, "temperature": 0} | others)


WAYS: dict[str, Maker] = {
    "greedy": _greedy,
    "a seed": _params,
    "a seed, hot": lambda s, n: _params(s, n, temperature=1.7),
    "top-p, top-k and min-p": lambda s, n: _params(s, n, top_p=0.8, top_k=40, min_p=0.02),
    "three choices": lambda s, n: _params(s, n, n=3),
    "penalties": lambda s, n: _params(
        s, n, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3
    ),
    "penalties, greedy": lambda s, n: _greedy(
        s, n, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3
    ),
    "biased, words forbidden": lambda s, n: _params(
        s, n, logit_bias={40: 4.0, 41: -9.0}, bad_words=["a", "qu"], min_tokens=3, ignore_eos=False
    ),
    "a choice": lambda s, n: _params(
        s,
        n,
        structured_outputs=StructuredOutputsParams(choice=["hot", "warm", "cold", "no idea"]),
        ignore_eos=False,
    ),
    "a pattern, greedy": lambda s, n: _greedy(
        s,
        n,
        structured_outputs=StructuredOutputsParams(regex=r"[a-f]{2}-[0-9]{3}"),
        ignore_eos=False,
    ),
    "log-probabilities of the prompt": lambda s, n: _params(s, n, prompt_logprobs=2),
    "no seed": lambda s, n: _params(s, n, seed=None),
}
"""Parameters by a seed and a number of tokens. What has no seed is answered, but not alike twice."""

UNREPEATABLE = "no seed"
