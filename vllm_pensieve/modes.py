"""The modes that are compared: what each adds to the same server command."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GIB

BLOCK_TOKENS = 32
"""Of every server, unless its own options say otherwise."""
CPU_KV_CACHE_GIB = 0.5
"""KV memory on the CPU build when none is asked for: 65,536 tokens of the demo model.

On a GPU vLLM decides.
"""


@dataclass(frozen=True)
class Mode:
    """One way of serving.

    `pensieve` holds the plugin's settings; None means that the plugin is off. `swaps` says whether it is given the
    host memory of `--host-cache-gib`; `needs_host_cache` whether it means anything without. A mode that is `optional`
    may be missing from a platform.
    """

    name: str
    meaning: str
    server_options: tuple[str, ...] = ()
    pensieve: dict[str, object] | None = field(default=None)
    swaps: bool = True
    needs_host_cache: bool = False
    optional: bool = False

    def with_host_cache(self, gib: float) -> Mode:
        """Return this mode with so much host memory for blocks that leave GPU memory."""
        if not self.swaps:
            return self
        if self.pensieve is not None:
            return dataclasses.replace(self, pensieve=self.pensieve | {"host_cache_gib": gib})
        if not self.needs_host_cache:
            return self
        connector = {
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "cpu_bytes_to_use": round(gib * GIB),
                "offload_prompt_only": False,
            },
        }
        options = (*self.server_options, "--kv-transfer-config", json.dumps(connector))
        return dataclasses.replace(self, server_options=options)

    @property
    def uses_host_cache(self) -> bool:
        """Whether this mode makes use of host memory, or is compared with one that does."""
        return self.needs_host_cache or (self.swaps and self.pensieve is not None)

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
        Mode(
            "vllm-offload",
            "stock vLLM, prefix caching and its own offloading to host memory, replies included",
            ("--enable-prefix-caching",),
            needs_host_cache=True,
            optional=True,
        ),
        Mode("pensieve", "the plugin with its defaults", ("--enable-prefix-caching",), {}),
        Mode(
            "pensieve-no-swap",
            "the plugin without the host tier",
            ("--enable-prefix-caching",),
            {},
            swaps=False,
            needs_host_cache=True,
        ),
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


def parse_modes(names: str, host_cache_gib: float | None = None) -> list[Mode]:
    """Return the modes of a comma-separated list, in its order, with so much host memory where they use any.

    Raises UsageError for an unknown, repeated or missing name, or for a mode that means nothing without host memory.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in MODES]
    if unknown:
        raise UsageError(f"unknown mode {', '.join(unknown)}; choose one of: {', '.join(MODES)}")
    if not wanted:
        raise UsageError(f"no mode given; choose one of: {', '.join(MODES)}")
    if len(set(wanted)) < len(wanted):
        raise UsageError(
            f"a mode is named twice in {names!r}; use --repeat to measure modes several times"
        )
    if host_cache_gib is None:
        lacking = [name for name in wanted if MODES[name].needs_host_cache]
        if lacking:
            raise UsageError(f"{', '.join(lacking)}: give the host memory with --host-cache-gib")
        return [MODES[name] for name in wanted]
    return [MODES[name].with_host_cache(host_cache_gib) for name in wanted]
