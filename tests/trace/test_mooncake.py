"""Mooncake's form as other producers write it: sessions with delays, other names, ids of any kind, missing fields."""

import numpy as np
import pytest

from tests.trace.traces import BAILIAN, MOONCAKE, kvct_session, write
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers import read_trace


def read(tmp_path, records, **options):
    return read_trace(write(tmp_path / "t.jsonl", records), **options)


def blocks_by_request(trace):
    return [part.tolist() for part in np.split(trace.blocks, trace.offsets[1:-1])]


def turn(ids, session=None, **more):
    return {"input_length": 512 * len(ids), "output_length": 1, "hash_ids": ids} | more | (
        {"session_id": session} if session is not None else {}
    )  # fmt: skip


def test_a_turn_comes_its_delay_after_the_one_before_it(tmp_path):
    trace = read(
        tmp_path,
        [
            turn([1, 2, 3], "a", timestamp=500),
            turn([9], "b", timestamp=1000),
            turn([1, 2, 3, 4], "a", delay=2000),
            turn([9, 8], "b", delay_ms=250),
            turn([1, 2, 3, 4, 5], "a", delay=2000),
        ],
    )
    assert trace.times_s.tolist() == [0.5, 1.0, 1.25, 2.5, 4.5]
    assert trace.session_of.tolist() == [0, 1, 1, 0, 0]
    assert trace.infinite_hits == 3 + 1 + 4
    assert trace.notes == ()


def test_a_timestamp_counts_more_than_a_delay_and_a_turn_without_either_follows_at_once(tmp_path):
    records = [
        turn([1], "a", timestamp=500),
        turn([1], "a", timestamp=900, delay=9),
        turn([1], "a"),
    ]
    assert read(tmp_path, records).times_s.tolist() == [0.5, 0.9, 0.9]


def test_a_line_without_any_time_comes_with_the_line_before_it(tmp_path):
    records = [turn([1], timestamp=500), turn([1, 2]), turn([3], "new", delay=7), turn([4], timestamp=600)]  # fmt: skip
    assert read(tmp_path, records).times_s.tolist() == [0.5, 0.5, 0.5, 0.6]


def test_without_times_the_file_s_order_counts_and_that_is_said(tmp_path):
    trace = read(tmp_path, [turn([7]), turn([3]), turn([7, 1])])
    assert blocks_by_request(trace) == [[2], [1], [2, 0]]
    assert "no line has a time; requests come in the order of the file" in trace.notes[0]


def test_other_names_of_the_fields_mean_the_same(tmp_path):
    records = [
        {"created_time": 9, "input_tokens": 600, "output_tokens": 5, "hash_ids": [0, 1]},
        {"created_time": 0, "input_tokens": 900, "output_tokens": 6, "hash_ids": [0, 2]},
    ]
    trace = read(tmp_path, records)
    assert trace.times_s.tolist() == [0, 0.009]
    assert trace.input_tokens.tolist() == [900, 600]
    assert trace.output_tokens.tolist() == [6, 5]


def test_lengths_may_be_written_as_floats(tmp_path):
    trace = read(
        tmp_path, [turn([1, 2], timestamp=0) | {"input_length": 1024.0, "output_length": 3.0}]
    )
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ([1024], [3])


def test_a_request_of_unknown_blocks_has_new_ones(tmp_path):
    records = [{"timestamp": 0, "input_length": 655, "output_length": 5}]
    records += [turn([0, 1, 2], timestamp=i) for i in (1, 2)]
    trace = read(tmp_path, records)
    assert blocks_by_request(trace) == [[3, 4], [0, 1, 2], [0, 1, 2]]
    assert (trace.unique_blocks, trace.infinite_hits) == (5, 3)
    assert "1 of 3 requests have no hash_ids: all their blocks count as new" in trace.notes[0]
    with pytest.raises(TraceError, match="no mooncake record has hash_ids"):
        read(tmp_path, records[:1])


def test_a_request_id_alone_does_not_make_a_trace_our_own(tmp_path):
    records = [turn([1], timestamp=0, request_id="a"), turn([1], timestamp=1, request_id="b")]
    assert read(tmp_path, records).format == "mooncake"


def test_turns_that_hold_only_what_is_new_are_noticed(tmp_path):
    records = [turn([1, 2], "a", timestamp=0), turn([3], "a", delay=1), turn([4], "a", delay=1)]
    assert (
        "2 of 2 later turns do not begin as the turn before them"
        in read(tmp_path, records).notes[0]
    )


IDS = {
    "beyond 63 bits": (2**63 + 11, 2**64 - 3, 7),
    "beyond 64 bits": (2**64, 2**64 + 2**80, 2**80),
    "below zero": (-5, -(2**63), -(2**70)),
    "alike above bit 32": tuple(k * 2**32 + 5 for k in range(10)),
    "strings": ("a1", "b2", "7"),
    "strings and integers": ("7", 7, "-9223372036854775808", -(2**63), 2**63),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("form", ["mooncake", "bailian", "kvct", "kvct, global"])
def test_any_integer_and_any_string_is_an_identity(tmp_path, ids, form):
    """Each stands for itself, in requests that have nothing but such ids and beside small ones."""
    prompts = [[1], list(ids), [1, *ids], list(ids)]
    if form.startswith("kvct"):
        requests = [
            {"t": i, "type": "n", "out": 1, "hash_ids": own} for i, own in enumerate(prompts)
        ]
        scope = "global" if "global" in form else "local"
        records = [kvct_session("a") | {"requests": requests, "hash_id_scope": scope}]
    elif form == "bailian":
        records = [BAILIAN[0] | {"timestamp": i, "hash_ids": own} for i, own in enumerate(prompts)]
    else:
        records = [MOONCAKE[0] | {"timestamp": i, "hash_ids": own} for i, own in enumerate(prompts)]
    trace = read(tmp_path, records)
    assert trace.skipped == ()
    found = blocks_by_request(trace)
    assert [len(own) for own in found] == [len(own) for own in prompts]
    assert found[1] == found[3]
    assert len(set(found[1])) == len(ids)
    # Behind block 1 the same ids are other blocks to a prefix cache.
    assert trace.unique_blocks == 1 + 2 * len(ids)


def test_an_id_that_returns_within_a_request_is_another_block_there(tmp_path):
    trace = read(tmp_path, [turn([0, 0, 1], timestamp=i) for i in (0, 1)])
    assert (trace.unique_blocks, trace.infinite_hits, trace.accesses) == (3, 3, 6)
    assert "ids name content alone" in trace.notes[0]


def test_ids_of_content_hit_only_behind_the_same_blocks(tmp_path):
    prompts = [[0, 1, 2], [0, 3, 4], [1, 4]]
    trace = read(tmp_path, [turn(ids, timestamp=i) for i, ids in enumerate(prompts)])
    assert blocks_by_request(trace)[0][0] == blocks_by_request(trace)[1][0]
    assert trace.infinite_hits == 1
