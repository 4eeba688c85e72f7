"""`pensieve simulate`: what it writes, and how it refuses what it cannot do."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.retention.profiles import a_profile
from tests.trace.recorded import chat as chat_prompts
from tests.trace.recorded import record
from tests.trace.traces import MOONCAKE, PENSIEVE, kvct_session, write
from vllm_pensieve.analysis.capacity import (
    curve_capacities,
    default_capacities,
    parse_capacities,
)
from vllm_pensieve.analysis.replay import Parameters
from vllm_pensieve.cli import app
from vllm_pensieve.config import PensieveConfig
from vllm_pensieve.errors import UsageError
from vllm_pensieve.policies.registry import POLICIES
from vllm_pensieve.retention.profile import Point, write_profile

RESULT_KEYS = [
    "policy",
    "capacity_blocks",
    "requests",
    "accesses",
    "hits_any",
    "hits_prefix",
    "cost_holes",
    "cost_prefix",
    "cost_vs_lru",
]

OF_NO_SIZE = [record | {"input_length": 1000 * 10**i} for i, record in enumerate(PENSIEVE)]
"""Prompts of 1,000 tokens and 2 blocks, and of 10,000 and 1: no block size explains both."""


def pensieve(*arguments: object):
    """Run the command; its error, if it refused."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(item) for item in arguments])
    if result.exception and not isinstance(result.exception, SystemExit | UsageError):
        raise result.exception
    return result


@pytest.fixture
def chat(tmp_path):
    return write(tmp_path / "chat.jsonl", MOONCAKE)


def test_the_numbers_of_a_trace_counted_by_hand(tmp_path):
    prompts = [[1, 2, 3], [4, 5], [1, 2, 3]]
    records = [
        MOONCAKE[0] | {"timestamp": 1000 * i, "hash_ids": ids} for i, ids in enumerate(prompts)
    ]
    path, out = write(tmp_path / "t.jsonl", records), tmp_path / "out.json"
    policies = "lru,lru-head-first,min"
    pensieve("simulate", path, "--capacity", 4, "--policy", policies, "--cost-slope", 0.5, "--json", out)  # fmt: skip
    written = json.loads(out.read_text())
    assert written["schema"] == 1
    assert written["trace"]["unique_blocks"] == 5
    first, second, best = written["results"]
    assert list(first) == RESULT_KEYS
    # LRU drops block 3, the deepest; then only it is missing: 4 + 1 lookups of 8 miss, at 0 1 2 0 1 and 2.
    assert (first["hits_any"], first["hits_prefix"]) == (2, 2)
    assert first["cost_holes"] == first["cost_prefix"] == 6 + 0.5 * (0 + 1 + 2 + 0 + 1 + 2)
    # Head first drops block 1: the other two are there, but behind a hole.
    assert (second["hits_any"], second["hits_prefix"]) == (2, 0)
    assert second["cost_holes"] == 6 + 0.5 * (0 + 1 + 2 + 0 + 1 + 0)
    assert second["cost_prefix"] == 8 + 0.5 * (0 + 1 + 2 + 0 + 1 + 0 + 1 + 2)
    assert second["cost_vs_lru"] == second["cost_holes"] / first["cost_prefix"]
    assert best["hits_any"] == 3


def test_costs_are_relative_to_lru_also_when_it_was_not_asked_for(chat, tmp_path):
    for policies in ("lru,fifo", "fifo"):
        pensieve("simulate", chat, "--policy", policies, "--capacity", "2", "--json", tmp_path / policies)  # fmt: skip
    with_lru, without = (
        json.loads((tmp_path / policies).read_text())["results"] for policies in ("lru,fifo", "fifo")
    )  # fmt: skip
    assert without == with_lru[1:]


def test_threads_count_the_same_as_one(chat, tmp_path):
    for jobs in (1, 3):
        out = tmp_path / f"{jobs}.json"
        pensieve("simulate", chat, "--capacity", "1,2,3", "--json", out, "--jobs", jobs)
    assert (tmp_path / "1.json").read_text() == (tmp_path / "3.json").read_text()


def test_chosen_workloads_are_all_that_workload_aware_lru_keeps(tmp_path):
    path = write(tmp_path / "mix_requests.jsonl", PENSIEVE * 2)
    for chosen, hits in (("qa", 4), ("chat", 1), ("qa,chat", 4)):
        out = tmp_path / "out.json"
        options = ("--policy", "workload-aware-lru", "--cache-workloads", chosen, "--capacity", 9)
        pensieve("simulate", path, *options, "--json", out)
        assert json.loads(out.read_text())["results"][0]["hits_any"] == hits, chosen


def test_skipped_lines_are_told(tmp_path):
    path = write(tmp_path / "chat.jsonl", [*MOONCAKE, "oops"])
    result = pensieve("simulate", path, "--capacity", "2", "--policy", "lru")
    assert "WARNING: 1 of 3 lines (33%) were left out" in result.output
    assert ": line 3: JSON is malformed" in result.output
    assert "line 3" in str(pensieve("simulate", path, "--strict").exception)


def test_one_line_in_a_hundred_is_told_and_no_more(tmp_path):
    records = [MOONCAKE[0] | {"timestamp": i} for i in range(99)]
    path = write(tmp_path / "chat.jsonl", [*records, "oops"])
    result = pensieve("simulate", path, "--capacity", "2", "--policy", "lru")
    assert "1 bad line skipped: line 100: " in result.output
    assert "WARNING" not in result.output
    write(path, [*records[1:], "oops", "oops"])
    result = pensieve("simulate", path, "--capacity", "2", "--policy", "lru")
    assert "WARNING: 2 of 100 lines (2%) were left out" in result.output


def test_counts_of_one_are_singular(tmp_path):
    path = write(tmp_path / "one.jsonl", [MOONCAKE[0] | {"input_length": 9, "hash_ids": [1]}])
    output = pensieve("simulate", path, "--capacity", "1", "--policy", "lru").output
    assert "1 request, 1 session, 1 block lookup, 1 unique block of 512 tokens" in output


def test_a_curve_is_drawn_with_an_axis_in_gib(tmp_path):
    path = write(tmp_path / "s.jsonl", [kvct_session("a", *([[1, 64 * i]] for i in range(1, 9)))])
    curve = tmp_path / "curve.png"
    result = pensieve("simulate", path, "--curve", curve, "--bytes-per-token", 131072)
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert "curve.png: drawn" in result.output


def test_a_curve_is_drawn_for_a_recorded_trace_and_the_configuration_of_gpt2(tmp_path):
    record(tmp_path, "chat", chat_prompts(sessions=2, turns=3))
    config = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out.json"
    result = pensieve(
        "simulate", tmp_path / "prefix_chat_b32", "--json", out, "--curve", tmp_path / "curve.png",
        "--model", tmp_path / "config.json", "--policy", "lru", "--capacity", "4MiB,100%",
    )  # fmt: skip
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert result.exception is None, result.output
    # A token has 12 layers of keys and values of 768 numbers of 2 bytes.
    fitting = 4 * 2**20 // (32 * 12 * 2 * 768 * 2)
    assert json.loads(out.read_text())["results"][0]["capacity_blocks"] == fitting


def test_capacities_in_gib_are_what_fits_into_them(tmp_path):
    path = write(tmp_path / "chat.jsonl", MOONCAKE)
    out = tmp_path / "out.json"
    per_token = 2**30 // 1024  # so that a block of 512 tokens has half a GiB
    pensieve(
        "simulate", path, "--capacity", "1GiB,1.7gib", "--bytes-per-token", per_token,
        "--policy", "lru", "--json", out,
    )  # fmt: skip
    results = json.loads(out.read_text())["results"]
    assert [result["capacity_blocks"] for result in results] == [2, 3]


def test_costs_follow_a_token_s_depth_whatever_the_block_size(tmp_path):
    """The same prompts in blocks of 512 and of 128 tokens: what is missed costs about the same share of everything."""
    shares = []
    for tokens in (512, 128):
        count = 64 * 512 // tokens
        record_ = {"timestamp": 0, "input_length": 64 * 512, "block_size": tokens}
        path = write(tmp_path / f"{tokens}.jsonl", [record_ | {"hash_ids": list(range(count))}] * 2)
        out = tmp_path / "out.json"
        pensieve("simulate", path, "--capacity", "50%", "--policy", "lru", "--json", out)
        result = json.loads(out.read_text())["results"][0]
        shares.append(result["cost_holes"] * tokens / 512)
    assert shares[1] == pytest.approx(shares[0], rel=0.01)


REFUSED = [
    (("--capacity", "0"), "capacity 0 is less than one block (the trace has 4 unique ones)"),
    (("--capacity", "0%"), "capacity 0% is less than one block"),
    (("--capacity", "-5"), "capacity -5 is less than one block"),
    (("--capacity", "2.5"), "capacity 2.5 is not a whole number of blocks"),
    (
        ("--capacity", "5,,6"),
        "capacity '' is neither a number of blocks, nor a percentage, nor a size",
    ),
    (
        ("--capacity", "nan"),
        "capacity 'nan' is neither a number of blocks, nor a percentage, nor a size",
    ),
    (
        ("--capacity", "10GiB"),
        "capacity 10GiB: how large a block is depends on the model; give --model",
    ),
    (("--capacity", "1e30"), "capacity 1e30 is more than 1,099,511,627,776 blocks"),
    (
        ("--policy", "lru,mru"),
        "unknown policy 'mru'; choose one of: retention, lru, lru-head-first, fifo",
    ),
    (("--policy", "workload-aware-lru"), "needs --cache-workloads with some of: chat"),
    (("--cache-workloads", "qa"), "the trace has no workload 'qa'; choose one of: chat"),
    (("--json", "absent/out.json"), "there is no folder absent; make it first"),
    (("--format", "csv"), "unknown trace format 'csv'; choose one of: auto, pensieve"),
    (("--format", "bailian"), "line 1 has a different format from bailian"),
    (("--model", "absent.json"), "--model absent.json: cannot be read"),
    (("--model", "absent.json"), "or give --bytes-per-token instead"),
    (
        ("--block-tokens", "100"),
        "--block-tokens 100: lengths of prompts show blocks of 512 tokens; only multiples",
    ),
    (("--model", "a", "--bytes-per-token", "5"), "are alternatives; give one of them"),
    (("--cost-profile", "absent.json"), "--cost-profile: absent.json: cannot be read"),
    (("--cost-profile", "a", "--cost-slope", "1"), "are alternatives; give one of them"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_refused(chat, arguments, message):
    result = pensieve("simulate", chat, "--capacity", "2", *arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert message in str(result.exception)


def test_a_profile_that_is_a_line_is_as_good_as_a_slope(chat, tmp_path):
    """Its tokens cost 0.1 ms and 1/1,024 of that more with each token before them; blocks have 512 tokens."""
    write_profile(a_profile(), tmp_path / "profile.json")
    slope = 512 / (1024 + 511 / 2)
    outs = [tmp_path / name for name in ("given.json", "profile_out.json")]
    common = ("simulate", chat, "--capacity", 2)
    pensieve(*common, "--cost-slope", slope, "--json", outs[0])
    result = pensieve(*common, "--cost-profile", tmp_path / "profile.json", "--json", outs[1])
    deepest = max(len(record["hash_ids"]) for record in MOONCAKE)
    price = 1 + slope * (deepest - 1)
    assert f"block {deepest} of a prompt costs {price:.4f} times the first" in result.output
    given, profiled = (json.loads(out.read_text())["results"] for out in outs)
    for ours, theirs in zip(given, profiled, strict=True):
        assert theirs == pytest.approx(ours)


def test_a_profile_prices_every_block_as_it_was_measured(tmp_path):
    """Tokens cost the same up to 512, and three times that from 1,024 on: which no slope can say."""
    points = (Point(0, 1.0), Point(512, 1.0), Point(1024, 3.0), Point(2048, 3.0))
    write_profile(replace(a_profile(), points=points), tmp_path / "profile.json")
    prompts = [list(range(4)), list(range(4, 6)), list(range(4))]
    records = [
        MOONCAKE[0] | {"timestamp": 1000 * i, "hash_ids": ids, "input_length": 512 * len(ids)}
        for i, ids in enumerate(prompts)
    ]
    path, out = write(tmp_path / "t.jsonl", records), tmp_path / "out.json"
    profile = ("--cost-profile", tmp_path / "profile.json")
    pensieve("simulate", path, "--capacity", 5, "--policy", "lru", *profile, "--json", out)
    (lru,) = json.loads(out.read_text())["results"]
    rising = sum(1 + 2 * i / 512 for i in range(512)) / 512
    costs = [1, rising, 3, 3]
    # LRU drops the deepest of the first prompt; then only that is missing.
    assert lru["cost_holes"] == pytest.approx(sum(costs) + sum(costs[:2]) + costs[3])


def test_a_profile_cannot_price_blocks_of_unknown_size(tmp_path):
    write_profile(a_profile(), tmp_path / "profile.json")
    path = write(tmp_path / "mix_requests.jsonl", OF_NO_SIZE)
    result = pensieve("simulate", path, "--cost-profile", tmp_path / "profile.json")
    assert "a profile cannot price them" in str(result.exception)


def test_a_gib_axis_needs_the_tokens_of_a_block(tmp_path):
    path = write(tmp_path / "mix_requests.jsonl", OF_NO_SIZE)
    result = pensieve("simulate", path, "--bytes-per-token", "5")
    assert "does not say how many tokens a block has" in str(result.exception)
    result = pensieve("simulate", path, "--bytes-per-token", "5", "--block-tokens", "32")
    assert "blocks of 32 tokens fit only 0% of requests" in result.output


def test_the_exit_status_of_bad_input_is_2(chat):
    command = [sys.executable, "-m", "vllm_pensieve", "simulate", str(chat), "--policy", "mru"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("pensieve: unknown policy 'mru'")
    assert "Traceback" not in done.stderr


def test_the_help_lists_every_policy():
    output = pensieve("simulate", "--help").output
    words = set(output.replace(",", " ").replace(".", " ").split())
    assert set(POLICIES) <= words


def test_neither_torch_nor_vllm_is_imported_to_simulate(chat):
    program = f"""
import sys
sys.argv = ["pensieve", "simulate", {str(chat)!r}, "--capacity", "2", "--policy", "lru,min"]
from vllm_pensieve.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in ("torch", "vllm", "transformers", "matplotlib", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_retention_is_simulated_with_the_servers_buckets():
    assert Parameters().cost_bucket_ratio == PensieveConfig().cost_bucket_ratio


def test_capacities_are_sorted_whole_and_rounded_down():
    assert parse_capacities("10%, 4096 ,5%,5%", 182_790) == [4096, 9139, 18279]
    curve = curve_capacities(182_790)
    assert curve[0] == 913
    assert curve[-1] == 182_790
    assert curve == sorted(curve)
    assert curve_capacities(3) == [1, 2, 3]
    assert default_capacities(182_790) == [1827, 9139, 18279]
    assert default_capacities(30) == [1, 3]
