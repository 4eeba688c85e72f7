"""Which costs an engine decides by: those of a profile that was measured with its model and device, or FLOPs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.logger import init_logger

from vllm_pensieve.config import NO_PROFILE, ConfigError, PensieveConfig, profile_folder
from vllm_pensieve.machine import processor_name
from vllm_pensieve.retention import AnalyticCostModel, CostModel
from vllm_pensieve.retention.profile import (
    Profile,
    ProfileError,
    ProfileKey,
    profiles_in,
    read_profile,
)
from vllm_pensieve.space.restore_plan import RestoreCosts
from vllm_pensieve.vllm_hooks.sizes import model_shape

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.pensieve")


@dataclass(frozen=True)
class Costs:
    """What computing and copying cost, in seconds of the profile if there is one, else in FLOPs."""

    analytic: AnalyticCostModel
    profile: Profile | None

    @classmethod
    def of(cls, config: PensieveConfig, vllm_config: VllmConfig) -> Costs:
        """For this engine. Raises ConfigError if a profile was named and cannot be used."""
        analytic = AnalyticCostModel.from_shape(model_shape(vllm_config.model_config))
        if config.cost_profile == NO_PROFILE:
            return cls(analytic, None)
        key = profile_key(vllm_config)
        if config.cost_profile:
            return cls(analytic, _named_profile(Path(config.cost_profile), key))
        return cls(analytic, _matching_profile(profile_folder(), key))

    @property
    def cost_model(self) -> CostModel:
        """Of recomputation."""
        return self.profile.cost_model() if self.profile else self.analytic

    def of_restoring(
        self, config: PensieveConfig, block_size: int, load_bytes: int
    ) -> RestoreCosts:
        """What a restore plan weighs; blocks of `load_bytes` are copied from host memory, 0 if there is none."""
        return RestoreCosts(
            self.cost_model,
            block_size,
            config.step_cost_tokens,
            load_bytes * self._per_loaded_byte(config.load_cost_flops_per_byte),
            config.recovery,
        )

    def _per_loaded_byte(self, flops_per_byte: float) -> float:
        if self.profile is None:
            return flops_per_byte or flops_per_copied_byte()
        if flops_per_byte:
            return flops_per_byte * self.cost_model.tokens_at_start(1) / self.analytic.linear
        return 1 / self.profile.load_bytes_per_s


def _named_profile(path: Path, key: ProfileKey) -> Profile:
    try:
        profile = read_profile(path)
    except ProfileError as error:
        raise ConfigError(f"pensieve: setting 'cost_profile': {error}") from error
    if differences := profile.key.differences(key):
        raise ConfigError(
            f"pensieve: setting 'cost_profile': {path} was measured with another model or device "
            f"({'; '.join(differences)}); measure here with `pensieve profile`, or leave the setting empty."
        )
    _tell_taken(path, profile)
    return profile


def _matching_profile(folder: Path, key: ProfileKey) -> Profile | None:
    """The newest of a folder with this key, or None; says which."""
    matching: list[tuple[Path, Profile]] = []
    others: list[list[str]] = []
    for path, profile in profiles_in(folder):
        if isinstance(profile, ProfileError):
            logger.warning("Pensieve: a cost profile is left out: %s", profile)
        elif differences := profile.key.differences(key):
            others.append(differences)
        else:
            matching.append((path, profile))
    if matching:
        path, newest = max(matching, key=lambda found: found[1].date)
        _tell_taken(path, newest)
        return newest
    others.sort(key=len)
    nearest = f" (nearest there: {'; '.join(others[0])})" if others else ""
    logger.info(
        "Pensieve: costs are the model's FLOPs; there is no profile of this model and device in %s%s; "
        "`pensieve profile` measures one",
        folder,
        nearest,
    )
    return None


def _tell_taken(path: Path, profile: Profile) -> None:
    logger.info(
        "Pensieve: costs as measured on %s with %s, %s",
        profile.date.date(),
        profile.key.device,
        path,
    )


def flops_per_copied_byte() -> float:
    """FLOPs that a model computes while one byte is copied from host memory, roughly.

    On a CPU 270 GFLOP/s and 10 GB/s (two cores with AVX-512), on a GPU 400 TFLOP/s and 50 GB/s over PCIe 5.
    """
    from vllm.platforms import current_platform

    return 27.0 if current_platform.is_cpu() else 8_000.0


def profile_key(vllm_config: VllmConfig) -> ProfileKey:
    """What decides the costs of this engine."""
    from vllm.platforms import current_platform

    model = vllm_config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    kv_cache_dtype = vllm_config.cache_config.cache_dtype
    on_cpu = current_platform.is_cpu()
    return ProfileKey(
        shape=model_shape(model),
        architecture=model.architecture,
        dtype=dtype,
        quantization=model.quantization or "",
        kv_cache_dtype=dtype if kv_cache_dtype == "auto" else str(kv_cache_dtype),
        tensor_parallel_size=vllm_config.parallel_config.tensor_parallel_size,
        device=processor_name() if on_cpu else current_platform.get_device_name(),
        logical_cpus=(os.cpu_count() or 0) if on_cpu else 0,
        compute_threads=_compute_threads(vllm_config) if on_cpu else 0,
        eager=model.enforce_eager,
    )


def _compute_threads(vllm_config: VllmConfig) -> int:
    """Threads of each worker on a CPU: vLLM binds one to each of the cores that it leaves to it."""
    import torch

    if vllm_config.parallel_config.distributed_executor_backend == "mp":
        from vllm.utils.ompmultiprocessing import OMPProcessManager

        cores = OMPProcessManager(vllm_config).cpu_lists
        if cores:
            return len(cores[0])
    return torch.get_num_threads()
