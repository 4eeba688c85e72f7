"""`pensieve chat`: a conversation at the terminal, or from a pipe."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

from typer import Argument, Option

from vllm_pensieve.bench.memory_options import CPU_GB, GPU_GB
from vllm_pensieve.cli.options import takes
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import require_vllm
from vllm_pensieve.quiet import quiet_start


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """The options of `pensieve chat`: those of `ServerOptions` that it takes, under the same names."""

    mode: Annotated[str, Option(help="pensieve, vllm (no prefix caching), or vllm-apc.")] = (
        "pensieve"
    )
    model: Annotated[
        str, Option(help="Model name or folder; `demo` is a random model made on this machine.")
    ] = "demo"
    gpu_cache_gb: Annotated[
        float | None,
        Option(
            "--gpu-cache",
            metavar="GB",
            help="Memory for KV blocks, in 10^9 bytes (main memory on a CPU).",
        ),
        *GPU_GB,
    ] = None
    cpu_cache_gb: Annotated[
        float,
        Option(
            "--cpu-cache", metavar="GB", help="Host memory for blocks that leave it, in 10^9 bytes."
        ),
        *CPU_GB,
    ] = 0.0
    max_new_tokens: Annotated[
        int | None, Option(help="Length of a reply at most (default: $MAX_NEW_TOKENS, else 128).")
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto"
    temperature: Annotated[float, Option(help="0 takes the likeliest token.")] = 0.0
    seed: Annotated[int, Option(min=0, help="Seed of sampling.")] = 0
    vllm_options: Annotated[
        tuple[str, ...],
        Argument(metavar="[-- VLLM_OPTIONS]", help="Options of vLLM.", show_default=False),
    ] = ()


@takes(ChatOptions)
def chat(options: ChatOptions) -> None:
    """Talk to a model. Lines `stats`, `reset`, `new`, `session NAME`, `help` and `exit` are commands.

    The conversation's KV stays in the cache between its turns. Ctrl-C stops an
    answer, Ctrl-D leaves.
    """
    run(options)


def run(options: ChatOptions) -> None:
    """Chat with a server of these options. Raises UsageError for what cannot be used."""
    from vllm_pensieve.config import ConfigError
    from vllm_pensieve.demo_model import named
    from vllm_pensieve.serving import ServerOptions
    from vllm_pensieve.serving.chat import Chat

    try:
        given = {name: value for name, value in asdict(options).items() if value is not None}
        wanted = ServerOptions(**given)
    except ConfigError as error:
        raise UsageError(str(error).removeprefix("pensieve: ")) from error
    terminal = sys.stdin.isatty()
    if terminal:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have ignored it
    for stream in (sys.stdin, sys.stdout):  # what the terminal's encoding lacks is shown as a mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history

    def write(text: str) -> None:
        print(text, end="", flush=True)

    def read(prompt: str) -> str:
        line = input(prompt)
        if not terminal:
            write(f"{line}\n")  # what a terminal would have shown
        return line

    require_vllm()
    print(f"starting vLLM with {named(wanted.model)} ...", file=sys.stderr, flush=True)
    with quiet_start():
        from vllm_pensieve.serving import Server

        server = Server(wanted)
    for note in server.notes:
        print(note, file=sys.stderr, flush=True)
    with server:
        write(
            f"{wanted.mode} on {wanted.model}, context of {server.context_tokens:,} tokens; `help` lists commands\n"
        )
        Chat(server, read, write).run()
