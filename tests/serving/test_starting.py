"""What engines of this process have in common: their environment, and what is said when vLLM refuses."""

import pytest

from vllm_pensieve.bench.timed_engine import prepare_timing_environment
from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving.starting import prepare_environment, start_engine

GIVEN = {"HOME": "/nowhere", "VLLM_CPU_KVCACHE_SPACE": "3", "VLLM_PLATFORM": "cpu"}


def test_an_engine_that_computes_here_is_asked_for_its_memory_and_binds_no_thread():
    environment = dict(GIVEN)
    notes = prepare_environment(environment)
    assert [note.split("=")[0] for note in notes] == ["VLLM_PLATFORM", "VLLM_CPU_KVCACHE_SPACE"]
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_an_engine_that_is_timed_binds_threads_and_takes_memory_as_a_server_does():
    environment = dict(GIVEN)
    prepare_timing_environment(environment)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment and "VLLM_PLATFORM" not in environment
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    with pytest.raises(UsageError, match="VLLM_PENSIEVE=0 keeps the plugin off"):
        prepare_timing_environment(GIVEN | {"VLLM_PENSIEVE": "0"})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n first \n\nsecond\nthird\nfourth"), "first second third (see there)"),
        (RuntimeError(""), "RuntimeError (see there)"),
        (OSError("gone"), "gone (see there)"),
    ],
)
def test_the_first_lines_of_what_vllm_says_are_the_message(error, said):
    def refuse():
        raise error

    with pytest.raises(UsageError) as refusal:
        start_engine("model 'x'", refuse, hint=" (see there)")
    assert str(refusal.value) == f"vLLM cannot start with model 'x': {said}"
