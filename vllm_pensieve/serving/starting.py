"""How a vLLM engine of this process is started: its environment, its arguments, and what vLLM says if it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from vllm_pensieve.config import ConfigError, read_switch, vllm_cache_settings
from vllm_pensieve.errors import UsageError, first_lines
from vllm_pensieve.version import SUPPORTED_VLLM

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"
KV_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
WITHOUT_EFFECT = {
    # Told by guides for earlier versions; vLLM finds its platform itself now and takes the backend as an option.
    "VLLM_PLATFORM": f"is not known to vLLM {SUPPORTED_VLLM}",
    "VLLM_ATTENTION_BACKEND": f"is not known to vLLM {SUPPORTED_VLLM}",
    KV_CACHE_SPACE: "would override the size of the KV cache asked for",
}
"""Environment variables that are taken out, and why."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Where the main process computes, which does more than that."""
SHOWN_LINES = 3


def prepare_environment(
    environment: MutableMapping[str, str], *, as_in_a_server: bool = False
) -> list[str]:
    """Set up the environment for an engine in this process, before vLLM is imported; return what one should know.

    as_in_a_server: workers are processes of their own, whose threads vLLM binds to cores, and the environment may say
        how large the KV cache is.
    """
    kept = {KV_CACHE_SPACE} if as_in_a_server else set()
    notes = [
        f"{name}={environment.pop(name)} is left out: it {why}"
        for name, why in WITHOUT_EFFECT.items()
        if name in environment and name not in kept
    ]
    environment[MULTIPROCESSING] = "0"
    for name, value in (QUIET if as_in_a_server else QUIET | UNBOUND).items():
        environment.setdefault(name, value)
    environment.update(vllm_cache_settings(environment))
    return notes


def is_switched_off(environment: Mapping[str, str]) -> bool:
    """Whether the environment keeps the plugin off. UsageError if its switch has a value that means nothing."""
    try:
        return read_switch(environment) is False
    except ConfigError as error:
        raise UsageError(str(error)) from error


def parse_engine_arguments(command_line: Sequence[str]) -> EngineArgs:
    """Options as they stand on the command line of `vllm serve`, as engine arguments.

    Raises:
        UsageError: vLLM knows no such option or value.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"vLLM: {message}")

    parser.error = refuse
    return EngineArgs.from_cli_args(parser.parse_args(list(command_line)))


def start_engine(
    what: str,
    make_arguments: Callable[[], EngineArgs],
    adjust: Callable[[EngineArgs, VllmConfig], None] = lambda arguments, config: None,
    hint: str = "",
) -> LLMEngine:
    """An engine of this process.

    what: the model, and what else vLLM may stumble over, for the message that says so. hint: how that message ends.
    adjust: changes what vLLM made of the arguments.

    Raises:
        UsageError: vLLM refuses the model or an option; the message has the first lines of what it says.
    """
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        arguments = make_arguments()
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        adjust(arguments, config)
        return LLMEngine.from_vllm_config(config, disable_log_stats=arguments.disable_log_stats)
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        said = first_lines(error, SHOWN_LINES)
        raise UsageError(f"vLLM cannot start with {what}: {said}{hint}") from error
