"""The entry point: vLLM calls `register` in each of its processes; it turns the plugin on where that is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vllm_pensieve.config import (
    ADDITIONAL_CONFIG_KEY,
    SETTINGS,
    SWITCH,
    ConfigError,
    switched_on,
)

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs

SCHEDULER = "vllm_pensieve.scheduler.make_scheduler"


def register() -> None:
    """Have every engine configuration that is made from now on ask whether the plugin is on. Idempotent."""
    from vllm_pensieve.compat import announce_environment, wrap_create_engine_config

    announce_environment((SWITCH, SETTINGS))
    wrap_create_engine_config(configure)


def configure(engine_args: EngineArgs) -> None:
    """Set what the plugin needs in the engine's arguments; nothing when it is off.

    Raises:
        ConfigError: a setting cannot be used, or another scheduler is configured.
        UnsupportedVllmError: the installed vLLM is not one this plugin works with.
    """
    config = switched_on(engine_args.additional_config)
    if config is None:
        return
    from vllm_pensieve.compat import check_vllm, report_pensieve_stats

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
    report_pensieve_stats()
