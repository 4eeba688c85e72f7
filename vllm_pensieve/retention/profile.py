"""Profiles: what `pensieve profile` measured on one device, and the JSON files that keep it."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from vllm_pensieve.retention.cost_model import ModelShape
from vllm_pensieve.retention.measured import MeasuredCostModel, PiecewiseLinear

SCHEMA = 1


class ProfileError(ValueError):
    """A file that holds no profile this version can use; the message names the file and says why."""


@dataclass(frozen=True)
class ProfileKey:
    """What decides the costs. A profile is used where all of this is the same.

    quantization: empty if there is none.
    device: the GPU's name, or the processor's.
    logical_cpus, compute_threads: of the machine, and of each worker; both 0 on a GPU.
    eager: whether the model runs without compilation and CUDA graphs (vLLM's --enforce-eager).
    """

    shape: ModelShape
    architecture: str
    dtype: str
    quantization: str
    kv_cache_dtype: str
    tensor_parallel_size: int
    device: str
    logical_cpus: int
    compute_threads: int
    eager: bool

    def differences(self, here: ProfileKey) -> list[str]:
        """What differs, as `field: this one, here the other`."""
        ours, theirs = _flat(self), _flat(here)
        return [
            f"{name}: {value!r}, here {theirs[name]!r}"
            for name, value in ours.items()
            if value != theirs[name]
        ]


def _flat(key: ProfileKey) -> dict[str, object]:
    fields = dataclasses.asdict(key)
    return fields.pop("shape") | fields


@dataclass(frozen=True)
class Point:
    """Seconds to compute a token when `context_tokens` stand before it."""

    context_tokens: int
    token_s: float


@dataclass(frozen=True)
class Provenance:
    """Where a profile comes from; for information only.

    fit_error: largest difference between what was timed and what the profile says of it, relative.
    """

    model: str
    versions: dict[str, str]
    block_tokens: int
    chunks: tuple[int, ...]
    repeats: int
    fit_error: float


@dataclass(frozen=True)
class Profile:
    """Costs measured on one device.

    points: by context length, the first 0; straight lines between them.
    step_s, step_s_per_context_token: overhead of a step, without its tokens; see `MeasuredCostModel`.
    store_bytes_per_s, load_bytes_per_s: copies of blocks to host memory and back, by one worker.
    """

    schema: int
    date: datetime
    key: ProfileKey
    points: tuple[Point, ...]
    step_s: float
    step_s_per_context_token: float
    store_bytes_per_s: float
    load_bytes_per_s: float
    measured: Provenance

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema}, this version reads {SCHEMA}")
        if self.date.tzinfo is None:
            raise ValueError("the date has no time zone")
        if not 0 < self.store_bytes_per_s < math.inf or not 0 < self.load_bytes_per_s < math.inf:
            raise ValueError("a bandwidth must be positive")
        self.cost_model()

    def cost_model(self) -> MeasuredCostModel:
        """Costs in seconds."""
        curve = PiecewiseLinear(
            [point.context_tokens for point in self.points],
            [point.token_s for point in self.points],
        )
        return MeasuredCostModel(curve, self.step_s, self.step_s_per_context_token)


def read_profile(path: Path) -> Profile:
    """The profile in this file.

    Raises:
        ProfileError: it cannot be read, is not a profile of this schema, or its numbers cannot be costs.
    """
    try:
        content = path.read_bytes()
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema != SCHEMA:
            raise ProfileError(
                f"{path}: a profile of schema {schema}; this version reads {SCHEMA}, "
                "measure again with `pensieve profile`"
            )
        return msgspec.json.decode(content, type=Profile)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{path}: not a profile that can be used: {error}") from error


class _Schema(msgspec.Struct):
    schema: int


def write_profile(profile: Profile, path: Path) -> None:
    """Write it for the owner only; a reader finds the old file or the whole new one. OSError if it cannot be."""
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def default_path(profile: Profile, folder: Path) -> Path:
    """A file for it in this folder, which is made, for the owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    name = re.sub(r"[^\w.-]+", "-", Path(profile.measured.model).name).strip("-.") or "model"
    return folder / f"{name}-{profile.date:%Y%m%dT%H%M%S}.json"


def profiles_in(folder: Path) -> Iterator[tuple[Path, Profile | ProfileError]]:
    """Every profile of a folder, or why a file is none. Nothing if there is no such folder."""
    try:
        paths = sorted(folder.glob("*.json"))
    except OSError:
        return
    for path in paths:
        if path.name.startswith("."):  # half written
            continue
        try:
            yield path, read_profile(path)
        except ProfileError as error:
            yield path, error
