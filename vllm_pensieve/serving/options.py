"""What a server of this process is made with, and what of it is refused before vLLM is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from vllm_pensieve.config import default_max_new_tokens
from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.modes import MODES, Mode

MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class ServerOptions:
    """Options of a server in this process.

    mode: `pensieve`, `vllm` (prefix caching off), `vllm-apc`, or an ablation that `pensieve compare` knows.
    model: a name or folder; `demo` is the random model made on this machine.
    gpu_cache_gb: memory for KV blocks in 10^9 bytes, on a CPU in main memory; None: 0.5 GiB on a CPU, else vLLM
        decides.
    cpu_cache_gb: host memory for blocks that leave it, in 10^9 bytes; 0 for none.
    device: auto, cpu, cuda or cuda:N.
    max_new_tokens: length of a reply, at most; by default MAX_NEW_TOKENS of the environment, else 128.
    temperature: 0 takes the likeliest token.
    seed: of sampling; every answer begins with it, on a CPU as long as the conversations being answered fit into one
        engine step, where vLLM cannot compute a seeded prompt in parts.
    ignore_eos: go on to the full length whatever the model says, for measurements and checks.
    vllm_options: further options of `vllm serve`, as on its command line.

    Raises:
        UsageError: a value is out of range, or contradicts the mode.
    """

    mode: str = "pensieve"
    model: str = DEMO_MODEL_NAME
    gpu_cache_gb: float | None = None
    cpu_cache_gb: float = 0.0
    device: str = "auto"
    max_new_tokens: int = field(default_factory=lambda: default_max_new_tokens(MAX_NEW_TOKENS))
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False
    vllm_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"unknown mode {self.mode!r}; choose one of: {', '.join(MODES)}")
        if MODES[self.mode].optional:
            raise UsageError(f"mode {self.mode} is compared only: `pensieve compare --modes ...`")
        if self.gpu_cache_gb is not None:
            _check("gpu_cache_gb", self.gpu_cache_gb, above=0.0)
        _check("cpu_cache_gb", self.cpu_cache_gb, at_least=0.0)
        if self.cpu_cache_gb and (MODES[self.mode].pensieve is None or not MODES[self.mode].swaps):
            raise UsageError(
                f"cpu_cache_gb={self.cpu_cache_gb} is for mode pensieve; mode {self.mode} keeps nothing in host memory"
            )
        check_reply_length(self.max_new_tokens)
        _check("temperature", self.temperature, at_least=0.0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise UsageError(f"seed is {self.seed!r}; a whole number is expected")

    @property
    def served_as(self) -> Mode:
        """The mode, with its host memory."""
        mode = MODES[self.mode]
        return mode.with_host_cache(self.cpu_cache_gb * GB / GIB) if self.cpu_cache_gb else mode


def check_reply_length(max_new_tokens: int) -> None:
    """UsageError unless it is a whole number above 0."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int):
        raise UsageError(f"max_new_tokens is {max_new_tokens!r}; a whole number is expected")
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}; at least 1 is expected")


def _check(
    name: str, value: float, above: float | None = None, at_least: float | None = None
) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise UsageError(f"{name} is {value!r}; a number is expected")
    if above is not None and value <= above:
        raise UsageError(f"{name} is {value}; it must be above {above:g}")
    if at_least is not None and value < at_least:
        raise UsageError(f"{name} is {value}; it must be {at_least:g} or more")
