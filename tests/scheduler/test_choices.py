"""Which requests are choices of one: by vLLM's own names, which a client's ids may resemble."""

import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.request import Request

from vllm_pensieve.scheduler.choices import parent_id, parent_of
from vllm_pensieve.vllm_hooks.patches import keep_external_ids

IDS = ["cmpl-1", "3_x", "0_", "0_0_0", "", "a\nb", "1_x-beam-0", "x" * 300]


def as_sent(external_id, monkeypatch, suffix):
    """A request as vLLM's front end names it."""
    monkeypatch.setenv("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "0" if suffix else "1")
    request = EngineCoreRequest(
        request_id=external_id,
        prompt_token_ids=[1],
        mm_features=None,
        sampling_params=SamplingParams(n=12, max_tokens=1, output_kind=RequestOutputKind.DELTA),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    InputProcessor.assign_request_id(request)
    return request


@pytest.mark.parametrize("suffix", [True, False])
@pytest.mark.parametrize("external_id", IDS)
def test_every_choice_names_its_parent_and_nothing_else_has_one(external_id, suffix, monkeypatch):
    keep_external_ids()
    keep_external_ids()
    request = as_sent(external_id, monkeypatch, suffix)
    assert parent_of(Request.from_engine_core_request(request, None)) is None
    parent = ParentRequest(request)
    for index in range(12):
        request.request_id, request.sampling_params = parent.get_child_info(index)
        assert parent_of(Request.from_engine_core_request(request, None)) == parent.request_id


def test_the_beams_of_a_search_name_the_search():
    external = "cmpl-7-0-" + 16 * "a" + "-beam-3"
    assert parent_id(external + "-12345678", external) == "cmpl-7-0"
    assert parent_id("cmpl-beam-3-12345678", "cmpl-beam-3") is None


def test_a_request_made_without_a_front_end_stands_for_itself():
    assert parent_id("0_x", None) is None
