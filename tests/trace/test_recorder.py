"""From what happens in the scheduler to records."""

import json

import pytest

from vllm_pensieve.space.block_watcher import Evicted
from vllm_pensieve.space.sessions import Session, Turn
from vllm_pensieve.trace.names import Names
from vllm_pensieve.trace.readers import read_trace
from vllm_pensieve.trace.recorder import KEPT_TIMES, TraceRecorder
from vllm_pensieve.trace.writer import TraceWriter

BLOCK = 32


class World:
    """A recorder with a clock that is set by hand, and what it wrote."""

    def __init__(self, folder, workload="chat", plain_session_ids=True):
        self.now_s = 100.0
        self.in_host_memory = set()
        self.prefix = folder / "prefix_chat_b32"
        self.recorder = TraceRecorder(
            TraceWriter(str(self.prefix), 10**9),
            workload,
            BLOCK,
            Names(plain_session_ids),
            self.in_host_memory.__contains__,
            clock=lambda: self.now_s,
        )

    def written(self, kind, **close):
        self.recorder.close(**close)
        path = self.prefix.with_name(f"{self.prefix.name}_{kind}.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def turn(session_id, number=1, **of):
    return Turn(Session(session_id, **of), number)


def keys(*names):
    return [name.encode() for name in names]


def serve(world, request_id, prompt_keys, prompt_tokens, sources=(0, 0, 0)):
    world.recorder.arrived(request_id, turn("alice", 2))
    world.now_s += 0.5
    world.recorder.admitted(request_id, *sources)
    world.now_s += 1.0
    world.recorder.first_token(request_id)
    world.now_s += 2.0
    world.recorder.finished(request_id, prompt_keys, prompt_tokens, 11, 1, "stop")


def test_a_request_is_recorded_with_its_times_sources_and_names(world):
    serve(world, "r", keys("a", "b", "c", "d"), 4 * BLOCK + 5, sources=(32, 64, 32))
    (record,) = world.written("requests")
    assert record["schema"] == 2
    assert (record["session_id"], record["turn"], record["workload"]) == ("alice", 2, "chat")
    assert (record["queue_s"], record["ttft_s"], record["e2e_s"]) == (0.5, 1.5, 3.5)
    assert record["monotonic_s"] == 100.0 and record["timestamp"] == 0.0
    sources = [record[f"prompt_tokens_{s}"] for s in ("resident", "swapped", "recovered", "new")]
    assert sources == [32, 64, 32, 5] and sum(sources) == record["prompt_tokens"]
    assert record["reuse_fraction"] == pytest.approx(96 / 133)
    assert (record["preemptions"], record["finish_reason"]) == (1, "stop")
    assert (record["input_length"], record["output_length"]) == (133, 11)
    assert len(set(record["hash_ids"])) == 5, "four full blocks and the end that is not full"


def test_prompts_share_numbers_exactly_where_they_share_blocks(world):
    serve(world, "r1", keys("a", "b"), 2 * BLOCK + 1)
    serve(world, "r2", keys("a", "b", "c"), 3 * BLOCK + 1)
    first, second = (record["hash_ids"] for record in world.written("requests"))
    assert first[:2] == second[:2] and first[2] not in second
    trace = read_trace(world.prefix.with_name(f"{world.prefix.name}_requests.jsonl"))
    assert trace.format == "pensieve"


def test_numbers_of_two_processes_have_nothing_in_common_and_tell_nothing_of_the_key():
    assert Names().block(b"a") != Names().block(b"a")
    names = Names()
    assert names.block(b"a") == names.block(b"a")


def test_a_request_that_ends_with_its_first_token_has_a_time_to_it(world):
    world.recorder.arrived("r", turn("alice"))
    world.recorder.admitted("r", 0, 0, 0)
    world.now_s += 1.0
    world.recorder.finished("r", [], 5, 1, 0, "length")
    (record,) = world.written("requests")
    assert record["ttft_s"] == record["e2e_s"] == 1.0


def test_a_request_that_is_never_admitted_is_recorded_too(world):
    world.recorder.arrived("r", turn("alice"))
    world.recorder.finished("r", [], 5, 0, 0, "abort")
    (record,) = world.written("requests")
    assert record["queue_s"] is None and record["ttft_s"] is None
    assert record["prompt_tokens_new"] == 5


def test_a_block_is_recorded_when_its_last_copy_goes(world):
    recorder = world.recorder
    recorder.arrived("r", turn("alice"))
    recorder.hashed("r", [1], [b"a"], 2)
    world.now_s += 10
    recorder.used([b"a", b"unknown"])
    world.now_s += 5
    recorder.used([b"a"])
    world.in_host_memory.add(b"a")
    recorder.evicted([1], Evicted([1], [b"a"], [2], [0.0]))
    recorder.hashed("r", [2], [b"a"], 2)  # loaded again: the same life
    recorder.evicted([2], Evicted([2], [b"a"], [2], [0.0]))
    world.now_s += 1
    recorder.dropped(b"a")
    (record,) = world.written("blocks")
    assert (record["position"], record["session_id"], record["hits"]) == (64, "alice", 2)
    assert record["reuse_gaps"] == [10.0, 5.0]
    assert record["fate"] == "dropped"
    assert record["fate_time"] - record["use_times"][0] == pytest.approx(16.0)


def test_records_that_are_lost_are_told(world):
    assert world.recorder.lost is None
    for _ in range(3):
        world.recorder.hashed("r", [1], ["no key that a record can be made of"], 0)
        world.recorder.clear()
    world.recorder.close()
    assert world.recorder.records_lost == 3
    assert "3 records are missing (AssertionError" in world.recorder.lost


def test_clients_session_ids_are_hashed_inferred_ones_are_not(tmp_path):
    world = World(tmp_path, plain_session_ids=False)
    for number, given in enumerate(("alice@example.org", "bob", "alice@example.org")):
        world.recorder.arrived(f"r{number}", turn(given))
        world.recorder.hashed(f"r{number}", [number], [b"%d" % number], 0)
        world.recorder.finished(f"r{number}", [], 5, 1, 0, "stop")
    world.recorder.arrived("r", turn("inferred-7", inferred=True))
    world.recorder.finished("r", [], 5, 1, 0, "stop")
    alice, bob, again, inferred = (r["session_id"] for r in world.written("requests"))
    assert alice == again != bob and len(alice) == len(bob) == 16
    assert inferred == "inferred-7"
    assert [block["session_id"] for block in world.written("blocks")] == [alice, bob, alice]
    assert b"example" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    other = Names().session("alice@example.org", inferred=False)
    assert other != alice, "another run names her otherwise"


def test_names_that_are_no_good_text_or_very_long_are_written_all_the_same(tmp_path):
    for plain in (True, False):
        world = World(tmp_path, workload="chat\udce9", plain_session_ids=plain)
        for text in ("bad\udce9", "x" * 10**6, "\x00\n"):
            world.recorder.arrived(text, turn(text))
            world.recorder.finished(text, [], 5, 1, 0, "stop")
        world.recorder.close()
        assert world.recorder.lost is None
    records = world.written("requests")
    assert len(records) == 6 and {r["workload"] for r in records} == {"chat?"}
    assert [r["session_id"] for r in records[:3]][::2] == ["bad?", "\x00\n"]
    assert world.prefix.with_name("prefix_chat_b32_requests.jsonl").stat().st_size < 10_000


def test_every_number_in_a_record_is_exact_where_numbers_are_doubles():
    names = Names()
    numbers = [names.block(b"%d" % i) for i in range(1000)] + [names.end_of("r\udce9")]
    assert all(int(float(number)) == number < 2**53 for number in numbers)
    assert len(set(numbers)) == 1001


def test_a_trace_that_is_continued_is_read_as_one_run_after_the_other(tmp_path):
    first, second = World(tmp_path), None
    for start in (0.0, 10.0):
        first.now_s = 100.0 + start
        serve(first, f"a{start}", keys("a"), BLOCK)
    first.recorder.close()
    second = World(tmp_path)
    behind_s = first.recorder._wall_offset_s + 60 - second.recorder._wall_offset_s
    second.recorder._wall_offset_s += behind_s  # as a run that began a minute later
    second.recorder._first_arrival_s -= behind_s
    for start in (0.0, 10.0):
        second.now_s = 100.0 + start
        serve(second, f"b{start}", keys("a"), BLOCK)
    records = second.written("requests")
    assert [round(r["timestamp"]) for r in records] == [0, 10_000, 60_000, 70_000]
    assert [r["run"] for r in records] == [records[0]["run"]] * 2 + [records[2]["run"]] * 2
    assert records[0]["run"] != records[2]["run"]
    trace = read_trace(second.prefix)
    assert trace.times_s.round(3).tolist() == [0, 10, 60, 70]
    assert trace.session_of.tolist() == [0, 0, 1, 1]
    assert trace.unique_blocks == 2


def test_blocks_left_at_the_end_are_alive_or_swapped(world):
    world.recorder.hashed("r", [1], [b"a"], 0)
    world.recorder.hashed("r", [2], [b"b"], 1)
    fates = {r["position"]: r["fate"] for r in world.written("blocks", is_resident=b"a".__eq__)}
    assert fates == {0: "alive", 32: "swapped"}


def test_of_a_block_that_is_used_very_often_the_first_and_the_latest_times_are_kept(world):
    world.recorder.hashed("r", [1], [b"a"], 0)
    for _ in range(1000):
        world.now_s += 1
        world.recorder.used([b"a"])
    (record,) = world.written("blocks")
    assert record["hits"] == 1000 and len(record["use_times"]) == KEPT_TIMES
    assert record["use_times"][-1] - record["use_times"][0] == pytest.approx(1000.0)
