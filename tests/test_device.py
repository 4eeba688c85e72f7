"""Claims about the device that a user asks for."""

import pytest

from vllm_pensieve.device import device_environment
from vllm_pensieve.errors import UsageError


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_build_runs_on_the_cpu_whatever_gpus_are_visible(device):
    environment = {"CUDA_VISIBLE_DEVICES": "", "HOME": "/root"}
    assert device_environment(device, environment, cpu_build=True) == environment


@pytest.mark.parametrize(
    ("device", "environment", "visible"),
    [
        ("auto", {}, None),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "2,5"}, "2,5"),
        ("cuda:1", {}, "1"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "2, GPU-5"}, "GPU-5"),
    ],
)
def test_the_gpu_build_sees_only_the_gpu_asked_for(device, environment, visible):
    result = device_environment(device, environment, cpu_build=False)
    assert result.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(
    ("device", "environment", "cpu_build", "said"),
    [
        ("tpu", {}, True, "auto, cpu, cuda, cuda:N"),
        ("cuda:", {}, False, "auto, cpu, cuda, cuda:N"),
        ("cuda:0", {}, True, "CPU build"),
        ("cpu", {}, False, "build for GPUs"),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, False, "no GPU is visible"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": " "}, False, "no GPU is visible"),
        ("cuda:2", {"CUDA_VISIBLE_DEVICES": "0,1"}, False, "2 GPUs visible"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, environment, cpu_build, said):
    with pytest.raises(UsageError, match=said):
        device_environment(device, environment, cpu_build)
