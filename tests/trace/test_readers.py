"""Traces: every format is read and recognised, and what is wrong is named with file and line."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trace.traces import BAILIAN, MOONCAKE, PENSIEVE, kvct_session, main_agents, write
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.formats import FORMATS
from vllm_pensieve.trace.numbering import renumber
from vllm_pensieve.trace.readers import read_trace
from vllm_pensieve.trace.readers.kvct import merge_blocks
from vllm_pensieve.trace.trace import TICK_S

SHARED = Path(__file__).parents[3] / "shared" / "data"
KVCT = [kvct_session("a", [[1, 16]], [[1, 24]]), kvct_session("b", [[1, 8]])]
EXAMPLES = {"mooncake": MOONCAKE, "bailian": BAILIAN, "pensieve": PENSIEVE, "kvct": KVCT}


def blocks_by_request(trace):
    return [part.tolist() for part in np.split(trace.blocks, trace.offsets[1:-1])]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_auto_recognises_every_format_plain_and_gzipped(tmp_path, name, packed):
    path = write(tmp_path / f"trace.jsonl{packed}", EXAMPLES[name])
    found = read_trace(path)
    assert found.format == name
    assert blocks_by_request(found) == blocks_by_request(read_trace(path, name))


def test_requests_come_in_order_of_time_and_blocks_are_renumbered(tmp_path):
    trace = read_trace(write(tmp_path / "chat.jsonl", MOONCAKE))
    assert blocks_by_request(trace) == [[0, 3], [0, 1, 2]]
    assert trace.times_s.tolist() == [0.0, 1.0]
    assert trace.input_tokens.tolist() == [600, 1030]
    assert trace.output_tokens.tolist() == [5, 7]
    assert (trace.unique_blocks, trace.block_tokens, trace.workloads) == (4, 512, ("chat",))
    assert trace.positions().tolist() == [0, 1, 0, 1, 2]
    assert trace.infinite_hits == 1


def test_bailian_chats_with_a_parent_belong_to_its_session_and_times_are_seconds(tmp_path):
    trace = read_trace(write(tmp_path / "qwen.jsonl", BAILIAN))
    assert trace.times_s.tolist() == [0.5, 2.5, 3.0]
    assert trace.session_of.tolist() == [0, 0, 1]
    assert [trace.workloads[i] for i in trace.workload_of] == ["text", "search", "text"]
    assert trace.block_tokens == 16


def test_runs_of_a_server_in_one_file_follow_one_another_and_share_no_session(tmp_path):
    """Lines of schema 1 do not name their run, and each run's timestamps begin at 0."""

    def run(begun_s, first_block):
        return [
            PENSIEVE[0]
            | {"time": 1.7e9 + begun_s + start_s, "timestamp": 1000 * start_s}
            | {"session_id": "inferred-1", "hash_ids": [first_block, first_block + 1]}
            for start_s in (0.0, 10.0, 20.0)
        ]

    trace = read_trace(write(tmp_path / "t_requests.jsonl", [*run(0.0, 10), *run(3600.25, 20)]))
    assert trace.times_s.tolist() == [0.0, 10.0, 20.0, 3600.25, 3610.25, 3620.25]
    assert trace.session_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert "the server was started 2 times" in " ".join(trace.notes)
    named = [record | {"run": "ab" if i < 3 else "cd"} for i, record in enumerate(run(0.0, 1) * 2)]
    assert read_trace(write(tmp_path / "n_requests.jsonl", named)).sessions == 2


def test_our_own_trace_is_found_by_its_prefix_and_keeps_workload_and_session(tmp_path):
    write(tmp_path / "prefix_mix_b32_requests.jsonl", PENSIEVE)
    trace = read_trace(tmp_path / "prefix_mix_b32")
    assert [trace.workloads[i] for i in trace.workload_of] == ["qa", "chat"]
    assert trace.sessions == 2
    assert trace.times_s.tolist() == [0.0, 0.01]
    assert trace.block_tokens == 32


def test_a_block_size_in_the_records_counts_more_than_the_name(tmp_path):
    records = [record | {"block_tokens": 16} for record in PENSIEVE]
    path = write(tmp_path / "prefix_mix_b32_requests.jsonl", records)
    assert read_trace(path).block_tokens == 16
    write(path, [*records, PENSIEVE[0]])
    with pytest.raises(TraceError, match="line 3 has blocks of None tokens"):
        read_trace(path)


def test_kvct_blocks_are_merged_and_sessions_share_nothing(tmp_path):
    sessions = [*KVCT, kvct_session("c", [[1, 8]], duplicate_of="a")]
    trace = read_trace(write(tmp_path / "sessions.jsonl", sessions), block_tokens=512)
    by_session: dict[int, list[list[int]]] = {}
    for session, blocks in zip(trace.session_of.tolist(), blocks_by_request(trace), strict=True):
        by_session.setdefault(session, []).append(blocks)
    assert sorted(by_session.values()) == [[[0, 1], [0, 1, 2]], [[3]]]
    starts = np.sort(np.random.default_rng(0).uniform(0, 86400, 2))
    assert trace.times_s[0] == starts[0]


def test_merged_blocks_are_named_by_their_last_part_and_a_remainder_is_dropped():
    requests = [np.array([[1, 3], [7, 11]]), np.array([[5, 5]]), np.array([[20, 27]])]
    assert [ids.tolist() for ids in merge_blocks(requests, 4)] == [[7, 11], [], [23, 27]]


@pytest.mark.parametrize("spread", [1, 10**15])
def test_ids_are_renumbered_densely_in_their_own_order(spread):
    ids = np.array([5, -2, 5, 9]) * spread
    numbers, unique = renumber(ids)
    assert (numbers.tolist(), unique) == ([1, 0, 1, 2], 3)


def test_a_flat_stream_has_every_access_at_its_position_and_time(tmp_path):
    stream = read_trace(write(tmp_path / "chat.jsonl", MOONCAKE)).stream(flat=True)
    assert stream.offsets.tolist() == [0, 1, 2, 3, 4, 5]
    assert stream.first_positions.tolist() == [0, 1, 0, 1, 2]
    assert stream.clock_s.tolist() == [0.0, 0.0] + [1.0 + TICK_S] * 3


BAD_LINES = [
    ("{", "line 2: Input data was truncated"),
    ("[]", "line 2: Expected `object`, got `array`"),
    (json.dumps(MOONCAKE[0] | {"hash_ids": [1.5]}), "line 2: Expected `int | str`, got `float`"),
    ("[" * 5000, "line 2: "),
    (json.dumps(MOONCAKE[0] | {"timestamp": -1}), "line 2: Expected `float` >= 0.0"),
    (json.dumps({"timestamp": 1}), "line 2: a request has neither hash_ids nor input_length"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_counted_and_named_and_strict_stops_there(tmp_path, line, message):
    path = write(tmp_path / "chat.jsonl", [MOONCAKE[0], line, MOONCAKE[1]])
    trace = read_trace(path)
    assert trace.requests == 2
    assert len(trace.skipped) == 1
    assert trace.skipped[0].startswith(message)
    with pytest.raises(TraceError, match=r"chat\.jsonl: line 2: "):
        read_trace(path, strict=True)


def test_a_file_cut_in_its_last_line_loses_only_that_line(tmp_path):
    path = write(tmp_path / "chat.jsonl", MOONCAKE)
    path.write_bytes(path.read_bytes()[:-20])
    trace = read_trace(path)
    assert (trace.requests, len(trace.skipped)) == (1, 1)


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_formats_do_not_mix_in_one_file(tmp_path, first, second):
    path = write(tmp_path / "mixed.jsonl", [EXAMPLES[first][0], EXAMPLES[second][0]])
    if first == second:
        assert read_trace(path).format == first
    else:
        with pytest.raises(TraceError, match=f"line 2 has a different format from {first}"):
            read_trace(path)


def test_a_truncated_gzip_is_refused(tmp_path):
    path = write(tmp_path / "chat.jsonl.gz", MOONCAKE * 200)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TraceError, match=r"gzip stream ends too early, after .* lines"):
        read_trace(path)


def test_a_damaged_gzip_is_refused(tmp_path):
    path = write(tmp_path / "chat.jsonl.gz", [MOONCAKE[0] | {"timestamp": i} for i in range(500)])
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(TraceError, match="gzip stream is damaged"):
        read_trace(path)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "is empty, or has no line with"),
        (["", "  "], "is empty, or has no line with"),
        (['{"x": 1}'], "fields of a known format .*; the formats are: pensieve, bailian, kvct, mooncake"),
        ([MOONCAKE[0] | {"hash_ids": []}], "no request has a block"),
        ([MOONCAKE[0] | {"timestamp": "now"}], "no usable mooncake record in it, 1 bad line; line 1"),
    ],
)  # fmt: skip
def test_a_file_without_a_usable_record_is_refused(tmp_path, records, message):
    with pytest.raises(TraceError, match=message):
        read_trace(write(tmp_path / "chat.jsonl", records))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"no such file, and no absent_requests\.jsonl next to it"):
        read_trace(tmp_path / "absent")
    with pytest.raises(TraceError, match=r"no file in this folder ends in \.json"):
        read_trace(tmp_path)
    path = write(tmp_path / "chat.jsonl", MOONCAKE)
    with pytest.raises(
        TraceError, match="unknown trace format 'csv'; choose one of: auto, pensieve"
    ):
        read_trace(path, "csv")


def test_the_claude_code_sessions_become_the_published_trace(tmp_path):
    path = SHARED / "claude_code_kvct" / "sessions_rle.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}: the public data of ../shared is not part of the repository")
    trace = read_trace(main_agents(path, tmp_path), block_tokens=512)
    assert (trace.requests, trace.accesses, trace.unique_blocks) == (45_542, 10_596_032, 391_424)
    assert (trace.longest_request_blocks, trace.sessions, trace.skipped) == (1_746, 692, ())
    whole = read_trace(path, block_tokens=512)
    assert (whole.requests, whole.sessions) == (45_542 + 676, 692 + 63)
    assert len(whole.notes) == 1
    assert "63 sub-agents with 676 requests" in whole.notes[0]
