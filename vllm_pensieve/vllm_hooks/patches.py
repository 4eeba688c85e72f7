"""What is changed in vLLM's classes; each function is idempotent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


def wrap_create_engine_config(before: Callable[[Any], None]) -> None:
    """Have `before(engine_args)` run at the start of every EngineArgs.create_engine_config. Idempotent.

    vLLM loads plugins in workers too, which make no engine arguments and must not be slowed down: where the module is
    not imported there is nothing to wrap. (EngineArgs itself loads the plugins when one is made.)
    """
    module = sys.modules.get("vllm.engine.arg_utils")
    if module is None:
        return
    engine_args_class = module.EngineArgs
    stock = engine_args_class.create_engine_config
    if getattr(stock, "wrapped_by_pensieve", False):
        return

    @wraps(stock)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(self)
        return stock(self, *args, **kwargs)

    create_engine_config.wrapped_by_pensieve = True  # type: ignore[attr-defined]
    engine_args_class.create_engine_config = create_engine_config


def announce_environment(names: Iterable[str]) -> None:
    """Register environment variables with vLLM, which warns of, or refuses, unknown ones that begin with VLLM_."""
    from vllm import envs

    for name in names:
        envs.environment_variables.setdefault(name, lambda: None)


def keep_external_ids() -> None:
    """Have the requests of this process's engines keep the id that they were given, as `external_req_id`. Idempotent.

    vLLM sends it to the engine and drops it there; without it `0_x` may be an id or the first choice of `x`.
    """
    from vllm.v1.request import Request

    stock = Request.from_engine_core_request.__func__
    if getattr(stock, "keeps_external_ids", False):
        return

    @wraps(stock)
    def from_engine_core_request(cls: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        made = stock(cls, request, *args, **kwargs)
        made.external_req_id = request.external_req_id
        return made

    from_engine_core_request.keeps_external_ids = True  # type: ignore[attr-defined]
    Request.from_engine_core_request = classmethod(from_engine_core_request)


def tell_of_loaded_adapters() -> None:
    """Have vLLM's engine notify our scheduler when a client has it load an adapter. Idempotent."""
    from vllm.v1.engine.core import EngineCore

    stock = EngineCore.add_lora
    if getattr(stock, "tells_pensieve", False):
        return

    @wraps(stock)
    def add_lora(self: Any, lora_request: LoRARequest) -> bool:
        loaded: bool = stock(self, lora_request)
        adapter_loaded = getattr(self.scheduler, "adapter_loaded", None)
        if adapter_loaded is not None:  # another scheduler has none
            adapter_loaded(lora_request)
        return loaded

    add_lora.tells_pensieve = True  # type: ignore[attr-defined]
    EngineCore.add_lora = add_lora
