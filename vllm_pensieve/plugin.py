"""The entry point: vLLM calls `register` in each of its processes; it turns the plugin on where that is asked for."""

from __future__ import annotations

import dataclasses
import multiprocessing
from typing import TYPE_CHECKING

from vllm_pensieve.config import (
    ADDITIONAL_CONFIG_KEY,
    SETTINGS,
    SWITCH,
    ConfigError,
    PensieveConfig,
    switched_on,
)
from vllm_pensieve.vllm_hooks.names import CONNECTOR, CONNECTOR_MODULE, SCHEDULER, SIMULATOR

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs

TRACE_END_S = 20.0
"""What an engine process that is being stopped gets to end its trace, before vLLM kills it."""


def register() -> None:
    """Have every engine configuration that is made from now on ask whether the plugin is on. Idempotent."""
    from vllm_pensieve.vllm_hooks.patches import announce_environment, wrap_create_engine_config

    announce_environment((SWITCH, SETTINGS))
    wrap_create_engine_config(configure)


def configure(engine_args: EngineArgs) -> None:
    """Set what the plugin needs in the engine's arguments; nothing when it is off.

    Raises:
        ConfigError: a setting cannot be used, another scheduler is configured, there is not that much host memory, or
            the trace cannot be written.
        UnsupportedVllmError: the installed vLLM is not one this plugin works with.
    """
    if engine_args.distributed_executor_backend == SIMULATOR:
        engine_args.max_logprobs = 0  # the front end then refuses what the simulator cannot give
    config = switched_on(engine_args.additional_config)
    if config is None:
        return
    from vllm_pensieve.vllm_hooks.loggers import report_pensieve_stats
    from vllm_pensieve.vllm_hooks.versions import check_vllm

    check_vllm()
    if engine_args.scheduler_cls not in (None, SCHEDULER):
        raise ConfigError(
            f"pensieve: the plugin needs its own scheduler, but scheduler_cls is {engine_args.scheduler_cls!r}; "
            "remove that option, or switch the plugin off."
        )
    engine_args.scheduler_cls = SCHEDULER
    engine_args.additional_config = {
        **(engine_args.additional_config or {}),
        ADDITIONAL_CONFIG_KEY: dataclasses.asdict(config),
    }
    if config.host_cache_gib:
        _add_host_tier(engine_args, config)
    if config.trace_prefix:
        _make_way_for_the_trace(engine_args, config.trace_prefix)
    report_pensieve_stats()
    _tell_settings(engine_args, config)


def _tell_settings(engine_args: EngineArgs, config: PensieveConfig) -> None:
    from vllm.logger import init_logger

    from vllm_pensieve.version import __version__

    connector = engine_args.kv_transfer_config
    with_connector = connector is not None and connector.kv_connector == CONNECTOR
    init_logger("vllm.pensieve").info_once(
        "Pensieve %s is on with %s. vLLM warns of a custom scheduler class%s: that is the plugin, and intended.",
        __version__,
        ", ".join(f"{name}={value!r}" for name, value in config.changed().items())
        or "its defaults",
        " and of an experimental KV connector" if with_connector else "",
    )


def _make_way_for_the_trace(engine_args: EngineArgs, prefix: str) -> None:
    from vllm_pensieve.errors import TraceError
    from vllm_pensieve.trace.files import check_place, engine_prefix
    from vllm_pensieve.vllm_hooks.stopping import leave_time_for_traces

    if multiprocessing.parent_process() is None:  # else our own engine may be writing it already
        try:
            first_engine = (
                engine_args.data_parallel_rank or engine_args.data_parallel_start_rank or 0
            )
            check_place(engine_prefix(prefix, first_engine))
        except TraceError as error:
            raise ConfigError(f"pensieve: {error}.") from error
    leave_time_for_traces(TRACE_END_S)


def _add_host_tier(engine_args: EngineArgs, config: PensieveConfig) -> None:
    from vllm.config import KVTransferConfig
    from vllm.logger import init_logger

    from vllm_pensieve.swap.host_memory import available_bytes
    from vllm_pensieve.vllm_hooks.host import (
        kv_cache_bytes_of_host,
        reserve_no_core_for_our_connector,
    )

    theirs = engine_args.kv_transfer_config
    other = None
    if theirs is not None and theirs.kv_connector_module_path != CONNECTOR_MODULE:
        other = f"the KV connector {theirs.kv_connector}"
    elif engine_args.kv_offloading_size is not None:
        other = "vLLM's own offloading (--kv-offloading-size)"
    if other is not None:
        init_logger("vllm.pensieve").warning(
            "Pensieve: %s is kept; there is no host tier and no recovery of dropped blocks with it",
            other,
        )
        return
    kv_cache_bytes = kv_cache_bytes_of_host(engine_args)
    available_gib = max(available_bytes() - kv_cache_bytes, 0) / 2**30
    if (
        config.host_cache_gib > available_gib
    ):  # the workers will know what the model has taken besides
        also = (
            f" in addition to {kv_cache_bytes / 2**30:.2f} GiB for the KV cache"
            if kv_cache_bytes
            else ""
        )
        raise ConfigError(
            f"pensieve: host_cache_gib={config.host_cache_gib} asks for more host memory than there is: "
            f"{available_gib:.2f} GiB are available{also}. Ask for less, or free some."
        )
    # Not kv_both: with a consumer of KV vLLM lets clients of multimodal models send embeddings of their own making.
    engine_args.kv_transfer_config = KVTransferConfig(
        kv_connector=CONNECTOR,
        kv_connector_module_path=CONNECTOR_MODULE,
        kv_role="kv_producer",
        kv_load_failure_policy="recompute",
    )
    reserve_no_core_for_our_connector(engine_args)
