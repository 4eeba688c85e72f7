"""Tokens of a block: as declared, as usual, as prompt lengths show, or as the user says; never guessed in silence."""

import numpy as np
import pytest

from tests.trace.traces import BAILIAN, MOONCAKE, kvct_session, write
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers import read_trace


def prompt(tokens: int, blocks: int, **more):
    """A prompt that shares nothing; its ids are made from its length."""
    ids = list(range(1000 * tokens, 1000 * tokens + blocks))
    return {"timestamp": tokens, "input_length": tokens, "output_length": 1, "hash_ids": ids} | more


def prompts_of(size: int, lengths=(100, 700, 1300, 2222), form="mooncake", **more):
    """Prompts in blocks of `size` tokens, the last one of each partial."""
    more |= {"chat_id": 1} if form == "bailian" else {}
    return [prompt(tokens, -(-tokens // size), **more) for tokens in lengths]


@pytest.mark.parametrize("name", ["block_size", "block_tokens", "trace_block_size"])
@pytest.mark.parametrize("form", ["mooncake", "bailian"])
def test_a_size_that_records_declare_counts(tmp_path, name, form):
    path = write(tmp_path / "t.jsonl", prompts_of(64, form=form, **{name: 64}))
    trace = read_trace(path)
    assert (trace.block_tokens, trace.notes) == (64, ())


def test_records_that_declare_different_sizes_are_refused(tmp_path):
    path = write(
        tmp_path / "t.jsonl", [*prompts_of(64, block_size=64), prompt(9, 1, block_size=32)]
    )
    with pytest.raises(TraceError, match="record 5 has blocks of 32 tokens, earlier ones of 64"):
        read_trace(path)


@pytest.mark.parametrize(("form", "usual"), [("mooncake", 512), ("bailian", 16)])
def test_the_usual_size_is_taken_where_lengths_do_not_contradict(tmp_path, form, usual):
    path = write(tmp_path / "t.jsonl", prompts_of(usual, form=form))
    trace = read_trace(path)
    assert (trace.block_tokens, trace.notes) == (usual, ())


@pytest.mark.parametrize("form", ["mooncake", "bailian"])
@pytest.mark.parametrize("size", [16, 64, 128, 512, 1024, 48, 528])
def test_lengths_of_prompts_show_another_size_and_it_is_said(tmp_path, form, size):
    lengths = [*range(300, 30_000, 777)]
    trace = read_trace(write(tmp_path / "t.jsonl", prompts_of(size, lengths, form)))
    assert trace.block_tokens == size
    usual = {"mooncake": 512, "bailian": 16}[form]
    assert (
        trace.notes == ()
        if size == usual
        else f"blocks of {size} tokens, not the" in trace.notes[0]
    )


def test_short_prompts_do_not_hide_that_blocks_are_not_the_usual_ones(tmp_path):
    """Two of three prompts would also fit into one block of 512 tokens."""
    records = [prompt(10, 1), prompt(20, 2), prompt(15, 1)]
    assert read_trace(write(tmp_path / "t.jsonl", records)).block_tokens == 16


def test_partial_blocks_may_be_left_out(tmp_path):
    records = [prompt(tokens, tokens // 64) for tokens in (100, 700, 1300, 2222)]
    assert read_trace(write(tmp_path / "t.jsonl", records)).block_tokens == 64


def test_a_declared_size_that_lengths_contradict_is_used_with_a_warning(tmp_path):
    trace = read_trace(write(tmp_path / "t.jsonl", prompts_of(64, block_size=512)))
    assert trace.block_tokens == 512
    assert (
        "declares blocks of 512 tokens, but that fits 0% of its requests (64 would"
        in trace.notes[0]
    )


def test_lengths_that_agree_on_no_size_leave_it_open(tmp_path):
    records = [prompt(tokens, blocks) for tokens, blocks in ((1000, 2), (1000, 50), (10, 7))]
    path = write(tmp_path / "t.jsonl", records)
    trace = read_trace(path)
    assert trace.block_tokens is None
    assert "give --block-tokens" in trace.notes[0]
    asked = read_trace(path, block_tokens=32)
    assert asked.block_tokens == 32
    assert "blocks of 32 tokens fit only" in asked.notes[0]


def test_without_lengths_the_usual_size_is_taken_and_said(tmp_path):
    records = [{"timestamp": 0, "hash_ids": [1, 2]}, {"timestamp": 1, "hash_ids": [1, 2, 3]}]
    path = write(tmp_path / "t.jsonl", records)
    trace = read_trace(path)
    assert (trace.block_tokens, trace.input_tokens.tolist()) == (512, [1024, 1536])
    assert "taken to have 512 tokens" in trace.notes[0]
    assert read_trace(path, block_tokens=64).block_tokens == 64


def test_blocks_are_merged_to_the_size_asked_for(tmp_path):
    path = write(tmp_path / "t.jsonl", prompts_of(64, block_size=64))
    trace = read_trace(path, block_tokens=256)
    assert trace.block_tokens == 256
    assert np.diff(trace.offsets).tolist() == [1, 3, 6, 9]
    with pytest.raises(
        TraceError, match="--block-tokens 100: the file has blocks of 64 tokens; only"
    ):
        read_trace(path, block_tokens=100)
    with pytest.raises(TraceError, match="lengths of prompts show blocks of 512 tokens; only"):
        read_trace(write(path, MOONCAKE), block_tokens=100)


def test_sessions_keep_their_declared_size_unless_another_is_asked_for(tmp_path):
    session = kvct_session("a", [[1, 16]], [[1, 24]])
    path = write(tmp_path / "s.jsonl", [session])
    assert (read_trace(path).block_tokens, read_trace(path).unique_blocks) == (64, 24)
    assert (read_trace(path, block_tokens=256).unique_blocks) == 6
    write(path, [session, session | {"block_size": 96}])
    with pytest.raises(TraceError, match=r"blocks of 64, 96 tokens; --block-tokens 192 makes them"):
        read_trace(path)
    assert read_trace(path, block_tokens=192).requests == 4


def test_examples_of_all_formats_fit_their_sizes(tmp_path):
    for records in (MOONCAKE, BAILIAN, [kvct_session("a", [[1, 16]])]):
        assert read_trace(write(tmp_path / "t.jsonl", records)).notes == ()
