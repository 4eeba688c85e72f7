"""`pensieve bench transfers`: what it writes and shows, and what it refuses."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner, Result

from vllm_pensieve.bench import transfers
from vllm_pensieve.bench.timing import alternating_medians
from vllm_pensieve.bench.transfer_options import PATTERNS, TransferOptions
from vllm_pensieve.cli import app
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import KvShape
from vllm_pensieve.swap.host_memory import available_bytes

SMALL = ("--blocks", "1,3", "--block-tokens", "1,4", "--repeats", "1", "--device", "cpu")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "transfers", *arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    path = tmp_path_factory.mktemp("bench") / "transfers.json"
    answer = bench(*SMALL, "--json", str(path))
    assert answer.exit_code == 0, answer.output
    return json.loads(path.read_text()), answer.output


def test_every_copy_that_was_asked_for_is_measured(small_run):
    result, _ = small_run
    assert result["schema"] == 1
    assert result["device"] == "cpu"
    assert result["options"]["patterns"] == ["sequence", "scattered"]
    assert result["machine"]["cores"] > 0
    assert [
        (row["block_tokens"], row["pattern"], row["blocks"], row["block_bytes"], row["bytes"])
        for row in result["transfers"]
    ] == [
        (tokens, pattern, blocks, 8192 * tokens, 8192 * tokens * blocks)
        for tokens in (1, 4)
        for pattern in ("sequence", "scattered")
        for blocks in (1, 3)
    ]


def test_speeds_and_shares_agree(small_run):
    result, _ = small_run
    for row in result["transfers"]:
        for way in ("store", "load"):
            share = row[f"{way}_gb_s"] / row[f"plain_{way}_gb_s"]
            assert row[f"{way}_share_of_plain"] == pytest.approx(share)
            assert 0 < row[f"rows_{way}_gb_s"] < 1000
            assert 0 < row[f"{way}_gb_s"] < 1000


def test_swap_ins_are_measured_once_for_each_block_size(small_run):
    result, _ = small_run
    assert [(row["block_tokens"], row["blocks"]) for row in result["swap_in"]] == [(1, 3), (4, 3)]
    for row in result["swap_in"]:
        assert row["speedup"] == pytest.approx(row["sequential_ms"] / row["pipelined_ms"])
        hidden = row["sequential_ms"] - row["pipelined_ms"]
        shorter = min(row["copy_ms"], row["compute_ms"])
        assert row["overlap_percent"] == pytest.approx(100 * hidden / shorter)


def test_the_tables_show_both_directions_and_the_swap_ins(small_run):
    _, output = small_run
    assert "demo: 8192 bytes a token in 8 layers, KV cache on cpu" in output
    for heading in ("store", "load", "rows", "sequential", "pipelined", "speed-up", "hidden"):
        assert heading in output


def test_at_80_columns_nothing_is_cut():
    command = ["bench", "transfers", "--blocks", "1,1000", "--block-tokens", "64", "--repeats", "1"]
    answer = CliRunner().invoke(app, [*command, "--device", "cpu"], env={"COLUMNS": "80"})
    assert answer.exit_code == 0, answer.output
    assert "…" not in answer.output
    assert max(map(len, answer.output.splitlines())) <= 80
    assert re.search(r"scattered +64 +1000 +500\.0( +[\d.]+ +\d+% +[\d.]+){2}", answer.output)


def test_the_bytes_that_are_timed_arrive(monkeypatch):
    """Every pair that is timed is also copied: stores, loads, and what they are compared with."""
    options = TransferOptions(
        blocks=(3,), block_tokens=(1,), repeats=1, pattern="scattered", device="cpu"
    )
    memory = transfers.Memory(KvShape(2, 16), options, torch.device("cpu"))
    memory.flat_rows.copy_(torch.arange(len(memory.flat_rows)))
    pairs = [(0, 4), (5, 1)]
    transfers._copy_by_rows(memory.rows(16), memory.host(16), pairs)()
    for rows, host in zip(memory.rows(16), memory.host(16), strict=True):
        assert torch.equal(host[4], rows[0]) and torch.equal(host[1], rows[5])
    transfers._copy(memory.flat_rows, memory.flat_host)
    assert torch.equal(memory.flat_rows, memory.flat_host)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pairs_are_within_the_memory_and_each_row_is_written_once(pattern):
    lists = transfers._pair_lists(pattern, 6, 20)
    assert len(lists) == 3
    for pairs in lists:
        assert len({source for source, _ in pairs}) == len({to for _, to in pairs}) == 6
        assert all(0 <= source < 20 and 0 <= to < 20 for source, to in pairs)


def test_ways_take_turns_and_the_first_turn_does_not_count():
    turns: list[str] = []
    values = {"a": iter([100.0, 3.0, 1.0, 2.0]), "b": iter([200.0, 5.0, 6.0, 4.0])}

    def way(name: str) -> float:
        turns.append(name)
        return next(values[name])

    medians = alternating_medians({name: lambda name=name: way(name) for name in "ab"}, repeats=3)
    assert medians == {"a": 2.0, "b": 5.0}
    assert turns == ["a", "b"] * 4


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--blocks", "1,x"), "--blocks '1,x': give numbers above 0, separated by commas"),
        (("--blocks", "0"), "--blocks '0': give numbers above 0"),
        (("--block-tokens", ""), "--block-tokens '': give numbers above 0"),
        (
            ("--pattern", "sequence,random"),
            "--pattern 'random' is unknown; choose one of: sequence, ",
        ),
        (("--device", "tpu"), "--device 'tpu' is unknown; choose one of: auto, cpu, cuda"),
        (("--model", "no/config.json"), "--model no/config.json: cannot be read"),
        (
            ("--json", "/no/such/folder/out.json"),
            "there is no folder /no/such/folder; make it first",
        ),
        (("--blocks", "1000000000"), "is needed to copy 1000000000 blocks of 4 tokens"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    answer = bench(*SMALL, *arguments)
    assert isinstance(answer.exception, UsageError)
    assert message in str(answer.exception)


def test_what_does_not_fit_into_memory_is_refused_with_both_numbers():
    blocks = available_bytes() // (8192 * 4)
    answer = bench(*SMALL, "--blocks", str(blocks))
    assert isinstance(answer.exception, UsageError)
    assert "GiB more" in str(answer.exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    answer = bench(*SMALL, "--device", "cuda")
    assert isinstance(answer.exception, UsageError)
    assert "--device cuda: torch finds no CUDA device here" in str(answer.exception)
