"""What the checks run on: a small server, and texts of a known length."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from vllm_pensieve.quiet import quiet_start
from vllm_pensieve.serving import Server, ServerOptions
from vllm_pensieve.workloads.text import write_text
from vllm_pensieve.workloads.tokens import TokenCounter, token_counter

CONTEXT_TOKENS = 1024


@dataclass(frozen=True)
class Setting:
    """A model and where it runs. Reproducible answers need float32; a large model may want its own number format."""

    model: Annotated[str, Option(help="Model name or folder.")] = "demo"
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    dtype: Annotated[
        str, Option(help="Number format; in 16 bits equal answers are not certain.")
    ] = "float32"
    vllm_options: Annotated[
        tuple[str, ...], Argument(metavar="[-- VLLM_OPTIONS]", show_default=False)
    ] = ()

    def server(self, gpu_blocks: int, mode: str = "pensieve", cpu_cache_gb: float = 0.0) -> Server:
        """A server with memory for that many blocks of 32 tokens, and a context of 1,024 tokens at most."""
        # One of vLLM's blocks is the null block.
        own = ("--dtype", self.dtype, "--num-gpu-blocks-override", str(gpu_blocks + 1))
        context = ("--max-model-len", str(min(CONTEXT_TOKENS, gpu_blocks * 32)))
        options = ServerOptions(
            mode=mode,
            model=self.model,
            device=self.device,
            cpu_cache_gb=cpu_cache_gb,
            ignore_eos=True,
            vllm_options=(*own, *context, *self.vllm_options),
        )
        with quiet_start():
            return Server(options)

    def texts(self) -> Texts:
        """Texts in tokens of the model."""
        with quiet_start():
            return Texts(token_counter(self.model))


class Texts:
    """Different texts of about that many tokens; exactly, for the demo model."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._rng = random.Random(0)

    def of(self, tokens: int) -> str:
        """A text that no earlier one begins like."""
        return write_text(self._rng, self._counter.characters(tokens))
