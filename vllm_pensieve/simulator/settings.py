"""Settings of the simulated executor; they travel in vLLM's additional_config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from vllm_pensieve.config import ConfigError

SIMULATOR_KEY = "pensieve_simulator"
OUTPUT_TOKENS_KEY = "simulated_output_tokens"
"""Of a request: SamplingParams.extra_args here, `vllm_xargs` over HTTP."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class SimulatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is generated, and how long a step takes.

    tokens: `echo` gives the prompt's tokens back one by one and ends; `recorded` gives as many as the request's
        `simulated_output_tokens` says, the end-of-sequence token among them, and without it as many as are allowed.
    step_s, token_s: a step takes the one and, for each token of its batch, the other.
    """

    tokens: Literal["echo", "recorded"] = "echo"
    step_s: Seconds = 0.0
    token_s: Seconds = 0.0

    @classmethod
    def from_additional_config(cls, additional_config: Mapping[str, Any]) -> SimulatorSettings:
        """Read them from under `pensieve_simulator`; defaults where there are none.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or range.
        """
        settings = additional_config.get(SIMULATOR_KEY) or {}
        try:
            return msgspec.convert(settings, cls)
        except msgspec.ValidationError as error:
            known = ", ".join(cls.__struct_fields__)
            raise ConfigError(f"{SIMULATOR_KEY}: {error}. Known settings: {known}.") from error
