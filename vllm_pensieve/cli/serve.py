"""`pensieve serve`: vLLM's own server with the plugin on."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from vllm_pensieve.bench.server import check_port
from vllm_pensieve.config import (
    SETTINGS,
    SWITCH,
    ConfigError,
    PensieveConfig,
    read_settings,
)
from vllm_pensieve.demo_model import DEMO_MODEL_NAME, resolve_model
from vllm_pensieve.workloads.errors import UsageError

VLLM_PORT = 8000


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Model name or folder, or `demo` for the built-in random model.")
    ],
    pensieve_config: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|FILE",
            help="Settings of the plugin: a JSON object, or a file that holds one.",
        ),
    ] = None,
    host_cache: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            help="Host memory for blocks that leave GPU memory, in GiB (default: none).",
        ),
    ] = None,
) -> None:
    """Serve a model with vLLM and the plugin. Every other option goes to vLLM's server unchanged."""
    if model.startswith("-"):
        raise UsageError(f"name the model first: pensieve serve MODEL {model} ...")
    check_port(serve_port(context.args))
    environment = serve_environment(dict(os.environ), pensieve_config, host_cache)
    arguments = serve_arguments(model, context.args)
    os.execve(sys.executable, arguments, environment)


def serve_port(options: list[str]) -> int:
    """Return the port that vLLM's server will use: the last `--port` of `options`, or vLLM's own."""
    port = str(VLLM_PORT)
    for index, option in enumerate(options):
        if option == "--port":
            port = "".join(options[index + 1 : index + 2])
        elif option.startswith("--port="):
            port = option.removeprefix("--port=")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--port {port} is not a port number (1 to 65535)")
    return int(port)


def serve_arguments(model: str, options: list[str]) -> list[str]:
    """Return the server's command line; the demo model keeps its short name unless `options` name
    it otherwise.
    """
    arguments = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        resolve_model(model),
    ]
    named = any(option.split("=")[0] == "--served-model-name" for option in options)
    if model == DEMO_MODEL_NAME and not named:
        arguments += ["--served-model-name", DEMO_MODEL_NAME]
    return [*arguments, *options]


def serve_environment(
    base: dict[str, str], config: str | None, host_cache_gib: float | None = None
) -> dict[str, str]:
    """Return `base` with the plugin on and its settings, if given; `host_cache_gib` is one of them.

    Raises UsageError if they cannot be read, or the plugin would refuse them.
    """
    if config is None and host_cache_gib is None:
        return base | {SWITCH: "1"}
    try:
        if config is None:
            settings = read_settings(base.get(SETTINGS, ""), SETTINGS)
        else:
            settings = read_settings(config, "--pensieve-config")
        if host_cache_gib is not None:
            settings["host_cache_gib"] = host_cache_gib
        PensieveConfig.from_mapping(settings)
    except ConfigError as error:
        raise UsageError(str(error).removeprefix("pensieve: ")) from error
    return base | {SWITCH: "1", SETTINGS: json.dumps(settings)}
