"""Sessions of coding agents: folders, whole files, sub-agents and their clocks, and what ids are shared."""

import gzip
import json

import numpy as np
import pytest

from tests.trace.traces import MOONCAKE, kvct_session, write
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers import read_trace


def request(t, ids, **more):
    return {"t": t, "type": "n", "in": 64 * len(ids), "out": 3, "hash_ids": ids} | more


def subagent(t, *requests):
    return {"t": t, "type": "subagent", "agent_id": "a1", "requests": list(requests)}


def session(*requests, **more):
    return {"id": "trace_1", "block_size": 64, "requests": list(requests)} | more


PARENT = [request(0.0, [1, 2]), request(9.0, [1, 2, 3, 4])]


def blocks_by_request(trace):
    return [part.tolist() for part in np.split(trace.blocks, trace.offsets[1:-1])]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_whole_file_is_a_session(tmp_path, indent, packed):
    content = json.dumps(session(*PARENT), indent=indent).encode()
    path = tmp_path / ("trace_1.json.gz" if packed else "trace_1.json")
    path.write_bytes(gzip.compress(content) if packed else content)
    trace = read_trace(path)
    assert (trace.format, trace.requests, trace.infinite_hits) == ("kvct", 2, 2)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_records_in_one_document_is_read(tmp_path, indent):
    path = tmp_path / "all.json"
    path.write_text(json.dumps([session(*PARENT), {"bad": 1}, session(*PARENT)], indent=indent))
    trace = read_trace(path)
    assert (trace.requests, trace.sessions) == (4, 2)
    assert trace.skipped[0].startswith("record 2: Object missing required field")
    path.write_text("\ufeff" + json.dumps(MOONCAKE, indent=indent))
    assert read_trace(path).requests == 2


@pytest.mark.parametrize("content", ['{\n "id": "a",\n "requests": [', '[\n {"id": 1},\n'])
def test_a_truncated_document_is_refused_with_what_is_wrong(tmp_path, content):
    path = tmp_path / "trace_1.json"
    path.write_text(content)
    with pytest.raises(TraceError, match="is one JSON document, and a damaged one: Input data was"):
        read_trace(path)


def test_a_folder_is_one_trace_of_all_its_sessions(tmp_path):
    for number in range(3):
        (tmp_path / f"trace_{number}.json").write_text(json.dumps(session(*PARENT), indent=1))
    write(tmp_path / "more.jsonl.gz", [kvct_session("a", [[1, 2]]), kvct_session("b", [[1, 2]])])
    (tmp_path / "README.md").write_text("no trace")
    trace = read_trace(tmp_path)
    assert (trace.requests, trace.sessions, trace.records) == (8, 5, 5)
    assert trace.unique_blocks == 3 * 4 + 2 * 2
    assert trace.workloads == (tmp_path.name,)


def test_files_of_a_folder_that_are_no_trace_are_named(tmp_path):
    (tmp_path / "trace_1.json").write_text(json.dumps(session(*PARENT)))
    (tmp_path / "manifest.json").write_text('{"files": 1}')
    trace = read_trace(tmp_path)
    assert trace.skipped == ("manifest.json line 1: no record of a known format in this file",)
    with pytest.raises(TraceError, match=r"manifest\.json: line 1: no record of a known format"):
        read_trace(tmp_path, strict=True)


def test_a_damaged_file_of_a_folder_does_not_hide_the_others(tmp_path):
    for number in range(2):
        (tmp_path / f"trace_{number}.json").write_text(json.dumps(session(*PARENT), indent=1))
    (tmp_path / "cut.json").write_text('{\n "id": ')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-9])
    trace = read_trace(tmp_path)
    assert (trace.requests, trace.records) == (4, 4)
    assert trace.skipped[0].startswith("cut.json: is one JSON document, and a damaged one")
    assert trace.skipped[1].startswith("cut.jsonl.gz: the gzip stream ends too early")
    with pytest.raises(TraceError, match=r"cut\.json: is one JSON document"):
        read_trace(tmp_path, strict=True)


def test_a_folder_of_whole_traces_is_refused(tmp_path):
    write(tmp_path / "a.jsonl", MOONCAKE)
    with pytest.raises(TraceError, match="each mooncake file in this folder is a trace of its own"):
        read_trace(tmp_path)


def test_sub_agents_are_sessions_that_share_their_parent_s_ids(tmp_path):
    nested = subagent(5.0, request(0.5, [1, 2, 90]), subagent(1.0, request(0.25, [1, 91])))
    trace = read_trace(write(tmp_path / "s.jsonl", [session(PARENT[0], nested, PARENT[1])]))
    start = trace.times_s[0]
    assert (trace.times_s - start).tolist() == pytest.approx([0.0, 5.5, 6.25, 9.0])
    assert trace.session_of.tolist() == [0, 1, 2, 0]
    assert (trace.unique_blocks, trace.infinite_hits) == (6, 2 + 1 + 2)
    assert "2 sub-agents with 2 requests counted" in trace.notes[0]
    assert "times read as since their agent's start" in trace.notes[0]


def test_sub_agents_may_count_time_from_the_session_s_start(tmp_path):
    """Nothing sent by a sub-agent comes before it began: so these times can be absolute, and are."""
    nested = subagent(5.0, request(5.0, [1, 90]), subagent(6.0, request(6.25, [1, 91])))
    trace = read_trace(write(tmp_path / "s.jsonl", [session(PARENT[0], nested, PARENT[1])]))
    assert (trace.times_s - trace.times_s[0]).tolist() == pytest.approx([0.0, 5.0, 6.25, 9.0])
    assert "times read as since the session's start" in trace.notes[0]


def test_one_clock_holds_for_all_sessions_of_a_trace(tmp_path):
    """The first sub-agent's times could be either; those of the second are before it began."""
    either = session(PARENT[0], subagent(1.0, request(2.0, [1])))
    relative = session(PARENT[0], subagent(100.0, request(2.0, [1])))
    trace = read_trace(write(tmp_path / "s.jsonl", [either, relative]))
    gaps = [np.ptp(trace.times_s[np.isin(trace.session_of, own)]) for own in ([0, 1], [2, 3])]
    assert sorted(gaps) == pytest.approx([3.0, 102.0])


@pytest.mark.parametrize(("scope", "unique"), [("local", 8), ("global", 4), (None, 8)])
def test_ids_are_shared_between_sessions_if_their_scope_is_global(tmp_path, scope, unique):
    more = {"hash_id_scope": scope} if scope else {}
    trace = read_trace(write(tmp_path / "s.jsonl", [session(*PARENT, **more)] * 2))
    assert (trace.unique_blocks, trace.sessions) == (unique, 2)


def test_local_and_global_sessions_share_nothing(tmp_path):
    records = [session(*PARENT, hash_id_scope=scope) for scope in ("global", "local", "global")]
    assert read_trace(write(tmp_path / "s.jsonl", records)).unique_blocks == 8


def test_runs_and_lists_of_ids_mean_the_same_and_may_be_missing(tmp_path):
    runs = {"t": 1.0, "type": "n", "in": 320, "out": 1, "hash_runs": [[1, 2], [7, 9]]}
    unknown = {"t": 2.0, "type": "s", "in": 130, "out": 1}
    own = session(request(0.0, [1, 2, 7]), runs, unknown, request(3.0, [1, 2, 7, 8, 9]))
    for size, expected in ((64, [3, 5, 3, 5]), (128, [1, 2, 2, 2])):
        trace = read_trace(write(tmp_path / "s.jsonl", [own]), block_tokens=size)
        found = blocks_by_request(trace)
        assert [len(blocks) for blocks in found] == expected
        assert found[1] == found[3]
        assert set(found[2]).isdisjoint(found[3])
    assert "1 of 4 requests have no hash_ids" in trace.notes[-1]


@pytest.mark.parametrize("runs", [[[5, 3]], [[1, 2**63]], [[1, 2**61]], [[1]], [[]]])
def test_a_run_that_is_none_makes_a_bad_line(tmp_path, runs):
    records = [kvct_session("a", [[1, 2]]), kvct_session("b", [[1, 2]])]
    records[1]["requests"][0]["hash_runs"] = runs
    trace = read_trace(write(tmp_path / "s.jsonl", records))
    assert (trace.requests, len(trace.skipped)) == (1, 1)
