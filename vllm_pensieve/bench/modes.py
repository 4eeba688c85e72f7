"""The modes that are compared: what each adds to the same server command."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from vllm_pensieve.workloads.errors import UsageError


@dataclass(frozen=True)
class Mode:
    """One way of serving.

    `pensieve` holds the plugin's settings; None means that the plugin is off.
    """

    name: str
    meaning: str
    server_options: tuple[str, ...] = ()
    pensieve: dict[str, object] | None = field(default=None)

    def options(self) -> list[str]:
        """Return the server options that this mode adds."""
        if self.pensieve is None:
            return list(self.server_options)
        return [
            *self.server_options,
            "--additional-config",
            json.dumps({"pensieve": self.pensieve}),
        ]

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """Return `base` with the plugin switched on or off as this mode needs it; settings in it
        are never inherited.
        """
        clean = {
            name: value for name, value in base.items() if not name.startswith("VLLM_PENSIEVE")
        }
        return clean if self.pensieve is None else clean | {"VLLM_PENSIEVE": "1"}


MODES = {
    mode.name: mode
    for mode in (
        Mode("vllm", "stock vLLM, prefix caching off", ("--no-enable-prefix-caching",)),
        Mode("vllm-apc", "stock vLLM, its prefix caching on", ("--enable-prefix-caching",)),
        Mode("pensieve", "the plugin with its defaults", ("--enable-prefix-caching",), {}),
        Mode(
            "pensieve-lru",
            "the plugin, blocks leave in LRU order",
            ("--enable-prefix-caching",),
            {"eviction_policy": "lru"},
        ),
        Mode(
            "pensieve-no-recovery",
            "the plugin, holes are not recovered",
            ("--enable-prefix-caching",),
            {"recovery": False},
        ),
    )
}


def parse_modes(names: str) -> list[Mode]:
    """Return the modes of a comma-separated list, in its order.

    Raises UsageError for an unknown, repeated or missing name.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in MODES]
    if unknown:
        raise UsageError(f"unknown mode {', '.join(unknown)}; there are: {', '.join(MODES)}")
    if not wanted:
        raise UsageError(f"no mode given; there are: {', '.join(MODES)}")
    if len(set(wanted)) < len(wanted):
        raise UsageError(
            f"a mode is named twice in {names!r}; use --repeat to measure modes several times"
        )
    return [MODES[name] for name in wanted]
