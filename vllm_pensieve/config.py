"""Every knob of the plugin: one frozen dataclass, where its values come from, and what is refused.

Settings in the environment are read here and nowhere else. Other files hand the environment on to processes that they
start, or set in it what vLLM and CUDA read; `tests/test_environment.py` lists them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_pensieve.policies.registry import allowed_instead, served

SWITCH = "VLLM_PENSIEVE"
SETTINGS = "VLLM_PENSIEVE_CONFIG"
ADDITIONAL_CONFIG_KEY = "pensieve"
NO_PROFILE = "none"
HASHED, PLAIN = SESSION_ID_FORMS = ("hashed", "plain")
MAX_TRACE_MB = 1e9
MAX_NEW_TOKENS = "MAX_NEW_TOKENS"
VLLM_CACHE = "VLLM_CACHE_ROOT"


class ConfigError(ValueError):
    """A setting of the plugin that cannot be used; the message names the key, the value and what is allowed."""


@dataclasses.dataclass(frozen=True)
class PensieveConfig:
    """Settings of the plugin.

    eviction_policy: which cached block leaves first. `retention` is the paper's value, cost to recompute divided by
        idle time; `lru` is vLLM's own order; the others are in `policies/registry.py`.
    recovery: whether a prompt may reuse cached blocks that stand after dropped ones. Off, only the contiguous
        cached prefix counts, as in stock vLLM (useful for comparisons, costly with `retention`).
    step_cost_tokens: what one more engine step costs a request that is recovering, as the number of prompt tokens
        whose computation takes as long. A cached stretch between two dropped ones that is cheaper than this is
        computed again with them. None: what a cost profile says, or 128 without one.
    cost_bucket_ratio: blocks whose costs differ by less than this factor count as equally expensive; 1.0 separates all
        and makes evicting slower.
    max_sessions: sessions remembered; the longest inactive are forgotten first.
    host_cache_gib: host memory for blocks that leave GPU memory, in GiB for all workers of an engine together; 0 keeps
        none. It is taken when the server starts.
    ahead_of_time_threshold: while a smaller share of the GPU's blocks than this is empty or unused with a copy in host
        memory, unused blocks are copied ahead of time.
    admission_reserve: share of the GPU's blocks that must stay free when a waiting request is admitted while others
        run. Used with a host tier only; a larger --watermark of vLLM's own is kept.
    verify_swaps: whether every block in host memory has a checksum that must match when it is loaded (slow).
    trace_prefix: record requests and blocks in PREFIX_requests.jsonl and PREFIX_blocks.jsonl; empty records nothing.
        With several engines (data parallel) each but the first adds its number to the prefix.
    trace_session_ids: how clients' session ids stand in a trace: `hashed` with a secret of the process, so that they
        show which turns are of one session and nothing else, or `plain`.
    trace_workload: a name for what is being served, written into every record.
    trace_max_mb: when a trace file would outgrow this, it is put aside under a numbered name and begun anew.
    load_cost_flops_per_byte: FLOPs that the model computes while one byte is copied from host memory: what decides
        whether a swapped block is loaded or computed again. 0 takes what a cost profile says, or a rough value for the
        platform without one.
    load_ms_per_step: while other requests run, a step copies at most as much from host memory as takes that many
        milliseconds (measured at start), so that a long session's return does not hold up the others for longer. 0: no
        limit.
    cost_profile: the file of a cost profile, which must have been measured with this model and device; empty takes the
        newest of the cache folder that was, if there is one; `none` takes none: costs are the model's FLOPs.
    """

    eviction_policy: str = "retention"
    recovery: bool = True
    step_cost_tokens: int | None = None
    cost_bucket_ratio: float = 1.05
    max_sessions: int = 10_000
    host_cache_gib: float = 0.0
    ahead_of_time_threshold: float = 0.25
    admission_reserve: float = 0.1
    verify_swaps: bool = False
    load_cost_flops_per_byte: float = 0.0
    load_ms_per_step: float = 20.0
    trace_prefix: str = ""
    trace_session_ids: str = HASHED
    trace_workload: str = ""
    trace_max_mb: float = 1024.0
    cost_profile: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "step_cost_tokens":
                _check_type(field.name, getattr(self, field.name), type(field.default))
        if self.eviction_policy not in served():
            _refuse("eviction_policy", self.eviction_policy, allowed_instead(self.eviction_policy))
        if self.step_cost_tokens is not None:
            _check_type("step_cost_tokens", self.step_cost_tokens, int)
            if not 0 <= self.step_cost_tokens < 2**31:
                _refuse("step_cost_tokens", self.step_cost_tokens, "0 or more, below 2^31")
        if not 1.0 <= self.cost_bucket_ratio <= 2.0:
            _refuse("cost_bucket_ratio", self.cost_bucket_ratio, "from 1.0 to 2.0")
        if self.max_sessions < 1:
            _refuse("max_sessions", self.max_sessions, "1 or more")
        if not 0 <= self.host_cache_gib < math.inf:
            _refuse("host_cache_gib", self.host_cache_gib, "0 (no host tier) or a size in GiB")
        if not 0.0 <= self.ahead_of_time_threshold <= 1.0:
            _refuse("ahead_of_time_threshold", self.ahead_of_time_threshold, "from 0.0 to 1.0")
        if not 0.0 <= self.admission_reserve < 1.0:
            _refuse("admission_reserve", self.admission_reserve, "0.0 or more, below 1.0")
        _check_prefix(self.trace_prefix)
        if self.trace_session_ids not in SESSION_ID_FORMS:
            _refuse(
                "trace_session_ids", self.trace_session_ids, "one of " + ", ".join(SESSION_ID_FORMS)
            )
        if not 0.001 <= self.trace_max_mb <= MAX_TRACE_MB:
            _refuse("trace_max_mb", self.trace_max_mb, f"from 0.001 to {MAX_TRACE_MB:.0f}")
        if not 0 <= self.load_cost_flops_per_byte < math.inf:
            _refuse("load_cost_flops_per_byte", self.load_cost_flops_per_byte, "0 or more")
        if not 0 <= self.load_ms_per_step < math.inf:
            _refuse("load_ms_per_step", self.load_ms_per_step, "0 (no limit) or more")

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> PensieveConfig:
        """Build from a mapping of setting names to values.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"pensieve: unknown setting {key!r}{hint} Known settings: {', '.join(known)}."
                )
        return cls(**settings)


def read_switch(environment: Mapping[str, str]) -> bool | None:
    """Whether VLLM_PENSIEVE switches the plugin on or off; None if it says nothing.

    Raises:
        ConfigError: it has another value.
    """
    switch = environment.get(SWITCH, "").strip()
    if switch not in ("", "0", "1"):
        raise ConfigError(
            f"pensieve: {SWITCH}={switch!r} is not understood; allowed: 1 (on), 0 (off), or unset."
        )
    return None if switch == "" else switch == "1"


def switched_on(
    additional_config: Mapping[str, Any] | None, environment: Mapping[str, str] | None = None
) -> PensieveConfig | None:
    """The settings to run with, or None when the plugin is off.

    The plugin is on when the environment variable VLLM_PENSIEVE is 1 or when vLLM's additional_config
    has a `pensieve` mapping; VLLM_PENSIEVE=0 keeps it off whatever else is said. Settings of
    VLLM_PENSIEVE_CONFIG (a JSON object or the path of a file that holds one) are overridden key by
    key by those of additional_config.

    Raises:
        ConfigError: the switch, the file, the JSON, a key or a value cannot be used.
    """
    environment = os.environ if environment is None else environment
    switch = read_switch(environment)
    own = (additional_config or {}).get(ADDITIONAL_CONFIG_KEY)
    if own is not None and not isinstance(own, Mapping):
        raise ConfigError(
            f"pensieve: additional_config[{ADDITIONAL_CONFIG_KEY!r}] is {own!r}; a JSON object of settings is "
            "expected, {} for the defaults."
        )
    if switch is False or (switch is None and own is None):
        return None
    return PensieveConfig.from_mapping(
        read_settings(environment.get(SETTINGS, ""), SETTINGS) | dict(own or {})
    )


def default_max_new_tokens(otherwise: int, environment: Mapping[str, str] | None = None) -> int:
    """Length of a reply that nobody asked otherwise for: MAX_NEW_TOKENS of the environment, else `otherwise`.

    Raises:
        ConfigError: it is not a whole number above 0.
    """
    said = (os.environ if environment is None else environment).get(MAX_NEW_TOKENS, "").strip()
    if not said:
        return otherwise
    if not said.isdecimal() or int(said) < 1:
        raise ConfigError(f"pensieve: {MAX_NEW_TOKENS}={said!r}; allowed: a whole number above 0.")
    return int(said)


def cache_folder() -> Path:
    """This package's folder under XDG_CACHE_HOME (default ~/.cache); it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "vllm-pensieve"


def temporary_folder() -> Path:
    """This user's folder for temporary files, for what would be in `cache_folder()` if that could be written.

    Raises:
        OSError: it can be neither made nor trusted: somebody else may write there.
    """
    folder = Path(tempfile.gettempdir()) / f"vllm-pensieve-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder


def vllm_cache_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment so that vLLM keeps its files where that is possible; nothing if it chose so.

    It would end its attempts with a traceback each where the user's cache folder cannot be written.
    """
    base = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if VLLM_CACHE in environment or _can_be_written(Path(base) / "vllm"):
        return {}
    try:
        return {VLLM_CACHE: str(temporary_folder() / "vllm")}
    except OSError:
        return {}


def _can_be_written(folder: Path) -> bool:
    """Whether a folder can be, or could be made."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def profile_folder() -> Path:
    """Where `pensieve profile` keeps cost profiles and the server looks for them; it may not exist yet."""
    return cache_folder() / "profiles"


def read_settings(text: str, option: str) -> dict[str, Any]:
    """Settings by name from a JSON object or the path of a file that holds one; none from an empty text.

    option: where the text comes from, for the message.

    Raises:
        ConfigError: the file or the JSON cannot be read.
    """
    text = text.strip()
    if not text:
        return {}
    source = option
    if not text.startswith("{"):
        source = text
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"pensieve: {option} is neither a JSON object nor a file that can be read: {error}"
            ) from error
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"pensieve: {source} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"pensieve: {source} holds {settings!r}; a JSON object of settings is expected."
        )
    return settings


def _check_prefix(prefix: str) -> None:
    """Of a trace: a path whose last part is the beginning of a file's name."""
    if prefix and ("\0" in prefix or prefix.rsplit("/", 1)[-1] in ("", ".", "..")):
        _refuse(
            "trace_prefix",
            prefix,
            "the beginning of a file's name, after a folder or not (dir/chat)",
        )


def _check_type(key: str, value: Any, wanted: type) -> None:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**1023:
            _refuse(key, value, "a number that a double can hold")
        return
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        _refuse(
            key,
            value,
            {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[
                wanted
            ],
        )


def _refuse(key: str, value: Any, allowed: str) -> None:
    raise ConfigError(f"pensieve: setting {key!r} is {value!r}; allowed: {allowed}.")
