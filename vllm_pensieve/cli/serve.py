"""`pensieve serve`: vLLM's own server with the plugin on."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer import Argument, Option

from vllm_pensieve.bench.memory_options import HOST_GIB
from vllm_pensieve.bench.server import check_port
from vllm_pensieve.bench.server_options import value_of
from vllm_pensieve.cli.options import takes
from vllm_pensieve.config import (
    ADDITIONAL_CONFIG_KEY,
    SETTINGS,
    SWITCH,
    ConfigError,
    PensieveConfig,
    read_settings,
    read_switch,
    vllm_cache_settings,
)
from vllm_pensieve.demo_model import DEMO_MODEL_NAME, resolve_model
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GIB, is_cpu_build, require_vllm
from vllm_pensieve.modes import BLOCK_TOKENS, CPU_KV_CACHE_GIB

VLLM_PORT = 8000
OWN_OPTIONS = {
    "--host-cache-gib": "--host-cache-gib",
    "--host-cache": "--host-cache-gib",
    "--pensieve-config": "--pensieve-config",
}
"""What the command itself takes, and what it calls that."""
HOST_CACHE = "host_cache_gib"
ADDITIONAL_CONFIG = "--additional-config"
KV_SIZE = "VLLM_CPU_KVCACHE_SPACE"
KV_SIZE_OPTIONS = ("--kv-cache-memory-bytes", "--gpu-memory-utilization")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `pensieve serve` that are its own."""

    model: Annotated[
        str, Argument(help="Model name or folder, or `demo` for the built-in random model.")
    ]
    pensieve_config: Annotated[
        str | None,
        Option(
            metavar="JSON|FILE",
            help="Settings of the plugin: a JSON object, or a file that holds one.",
        ),
    ] = None
    host_cache_gib: Annotated[
        float | None,
        Option(
            metavar="GIB",
            help="Host memory for blocks that leave GPU memory, in GiB (default: none).",
        ),
        *HOST_GIB,
    ] = None


@takes(ServeOptions)
def serve(own: ServeOptions, context: typer.Context) -> None:
    """Serve a model with vLLM and the plugin. Every other option goes to vLLM's server unchanged."""
    if own.model.startswith("-"):
        raise UsageError(f"name the model first: pensieve serve MODEL {own.model} ...")
    options = context.args
    check_own_names(options)
    check_port(serve_port(options))
    environment = serve_environment(
        dict(os.environ), own.pensieve_config, own.host_cache_gib, options
    )
    require_vllm()
    os.execve(sys.executable, serve_arguments(own.model, options, environment), environment)


def check_own_names(options: Sequence[str]) -> None:
    """Raise UsageError for an option that is nearly one of the command's own; vLLM would not know it either."""
    for option in options:
        name = option.partition("=")[0]
        close = difflib.get_close_matches(name.replace("_", "-"), OWN_OPTIONS, n=1, cutoff=0.85)
        if name.startswith("--") and close:
            raise UsageError(f"unknown option {name}; did you mean {OWN_OPTIONS[close[0]]}?")


def serve_port(options: Sequence[str]) -> int:
    """Return the port that vLLM's server will use: the last `--port` of `options`, or vLLM's own."""
    port = value_of(options, "--port") or str(VLLM_PORT)
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--port {port} is not a port number (1 to 65535)")
    return int(port)


def serve_arguments(
    model: str, options: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the server's command line.

    The demo model keeps its short name and, on a CPU, gets a KV cache of half a GiB in blocks that short chats fill,
    unless `options` or the environment say otherwise.
    """
    arguments = [sys.executable, "-m", "vllm_pensieve.server_process"]
    arguments += ["--model", resolve_model(model)]
    if model == DEMO_MODEL_NAME:
        given = {option.partition("=")[0].replace("_", "-") for option in options}
        if "--served-model-name" not in given:
            arguments += ["--served-model-name", DEMO_MODEL_NAME]
        if is_cpu_build():
            if KV_SIZE not in environment and not given & set(KV_SIZE_OPTIONS):
                # vLLM's own choice is nearly all memory, which it refuses if something else uses some.
                arguments += [KV_SIZE_OPTIONS[0], str(round(CPU_KV_CACHE_GIB * GIB))]
            if "--block-size" not in given:
                arguments += ["--block-size", str(BLOCK_TOKENS)]
    return [*arguments, *options]


def serve_environment(
    base: dict[str, str],
    config: str | None,
    host_cache_gib: float | None = None,
    options: Sequence[str] = (),
) -> dict[str, str]:
    """Return `base` with the plugin on and its settings, if given; `host_cache_gib` is one of them.

    options: vLLM's, which may hold settings as well. Where `base` keeps the plugin off (VLLM_PENSIEVE=0), it stays off.

    Raises UsageError if settings cannot be read, contradict each other, or the plugin would refuse them.
    """
    source = SETTINGS if config is None else "--pensieve-config"
    try:
        if read_switch(base) is False:
            if config is not None or host_cache_gib is not None:
                raise UsageError(
                    f"{SWITCH}=0 keeps the plugin off, and --pensieve-config and --host-cache-gib are settings of it; "
                    "leave one or the other out"
                )
            return base | vllm_cache_settings(base)
        settings = read_settings(base.get(SETTINGS, "") if config is None else config, source)
        of_vllm = _settings_for_vllm(options)
        if host_cache_gib is not None:
            for where, other in ((source, settings), (ADDITIONAL_CONFIG, of_vllm)):
                if other.get(HOST_CACHE, host_cache_gib) != host_cache_gib:
                    raise UsageError(
                        f"--host-cache-gib {host_cache_gib:g} and {HOST_CACHE}={other[HOST_CACHE]} of {where} differ; "
                        "leave one of them out"
                    )
            settings[HOST_CACHE] = host_cache_gib
        PensieveConfig.from_mapping(settings)
        in_force = PensieveConfig.from_mapping(settings | of_vllm)
    except ConfigError as error:
        raise UsageError(str(error).removeprefix("pensieve: ")) from error
    check_host_memory(in_force.host_cache_gib)
    own = {SETTINGS: json.dumps(settings)} if config is not None or settings else {}
    return base | {SWITCH: "1"} | own | vllm_cache_settings(base)


def check_host_memory(host_cache_gib: float) -> None:
    """Raise UsageError if there is not that much host memory; vLLM would need half a minute to come to it."""
    from vllm_pensieve.swap.host_memory import available_bytes

    available_gib = available_bytes() / GIB
    if host_cache_gib > available_gib:
        raise UsageError(
            f"a host cache of {host_cache_gib:g} GiB is more host memory than there is: {available_gib:.2f} GiB are "
            "available; ask for less, free some, or raise the container's limit"
        )


def _settings_for_vllm(options: Sequence[str]) -> dict[str, Any]:
    """Settings of the plugin in vLLM's --additional-config, which win; none if vLLM will refuse it anyway."""
    with contextlib.suppress(json.JSONDecodeError):
        given = json.loads(value_of(options, ADDITIONAL_CONFIG) or "{}")
        settings = given.get(ADDITIONAL_CONFIG_KEY) if isinstance(given, dict) else None
        return settings if isinstance(settings, dict) else {}
    return {}
