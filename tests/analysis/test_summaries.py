"""Summaries, figures and the report of recorded traces; the documented tools."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.trace.recorded import BLOCK_TOKENS, chat, documents, record
from tests.trace.traces import MOONCAKE, write
from vllm_pensieve.analysis.mixed import infinite_hit_rates, worth_keeping
from vllm_pensieve.analysis.summaries import (
    MEASURED,
    REPLAYED,
    read_prefix_stats,
    replayed_blocks,
    replayed_reuse,
    summarize,
)
from vllm_pensieve.cli import app
from vllm_pensieve.errors import TraceError, UsageError
from vllm_pensieve.trace.combine import coarsen, interleave
from vllm_pensieve.trace.readers import read_trace

TOOLS = Path(__file__).parents[2] / "tools"


def pensieve(*arguments: object) -> str:
    """What the command prints; its refusal is raised."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(item) for item in arguments])
    if result.exception:
        raise result.exception
    return result.output


@pytest.fixture
def folder(tmp_path):
    """Chats of two sessions and three turns, and documents that share nothing."""
    record(tmp_path, "chat_multi", chat(sessions=2, turns=3))
    record(tmp_path, "summarization", documents(4))
    return tmp_path


@pytest.fixture
def chats(folder):
    return folder / "prefix_chat_multi_b32"


def test_a_summary_counts_what_can_be_counted_by_hand(chats):
    summary = summarize(read_prefix_stats(chats))
    # Per session: 3, 5, 7 blocks; 0, 3, 5 of them known; 32 tokens a block and 5 more.
    fractions = np.array([0, 3 * 32 / 165, 5 * 32 / 229] * 2)
    reuse = summary["reuse_fraction"]
    assert reuse["count"] == 6
    assert reuse["mean"] == pytest.approx(fractions.mean())
    assert reuse["median"] == pytest.approx(np.median(fractions))
    assert reuse["p90"] == pytest.approx(np.percentile(fractions, 90))
    assert reuse["share_above_0"] == pytest.approx(4 / 6)
    hits = summary["block_hits"]
    assert (hits["count"], hits["mean"], hits["median"]) == (14, 16 / 14, 1.0)
    assert hits["share_above_0"] == pytest.approx(10 / 14)
    assert (summary["reuse_gap_s"]["count"], summary["reuse_gap_s"]["median"]) == (16, 10.0)
    assert summary["infinite_hit_rate"] == 16 / 30
    assert {summary[key]["source"] for key in ("reuse_fraction", "block_hits")} == {MEASURED}


def test_what_was_measured_is_in_the_order_of_the_trace_whatever_order_requests_ended_in(chats):
    """A server writes a line when a request ends: here the first to arrive, which found nothing, ends last."""
    path = Path(f"{chats}_requests.jsonl")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    stats = read_prefix_stats(chats)
    trace = stats.trace
    assert trace.times_s.tolist() == [0, 1, 10, 11, 20, 21]
    known_blocks = np.array([0, 0, 3, 3, 5, 5])  # of one request after the other
    assert (
        stats.reuse_fraction.tolist() == (BLOCK_TOKENS * known_blocks / trace.input_tokens).tolist()
    )
    assert trace.served.tokens[:, 0].tolist() == (BLOCK_TOKENS * known_blocks).tolist()
    assert trace.served.tokens.sum(axis=1).tolist() == trace.input_tokens.tolist()


def test_what_was_not_recorded_is_replayed_with_the_same_result(chats):
    measured = read_prefix_stats(chats)
    Path(f"{chats}_blocks.jsonl").unlink()
    replayed = read_prefix_stats(chats)
    assert (measured.block_source, replayed.block_source) == (MEASURED, REPLAYED)
    assert sorted(replayed.block_hits) == sorted(measured.block_hits)
    assert sorted(replayed.reuse_gaps_s) == sorted(measured.reuse_gaps_s)


def test_blocks_that_have_no_line_are_noticed_and_the_requests_replayed_instead(chats):
    """As after a kill, which leaves only the lines of blocks that had gone."""
    measured = read_prefix_stats(chats)
    path = Path(f"{chats}_blocks.jsonl")
    _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rest))
    partial = read_prefix_stats(chats)
    assert partial.block_source == f"{REPLAYED}, since 1 blocks have no line, as after a kill"
    assert sorted(partial.block_hits) == sorted(measured.block_hits)
    path.write_text("")
    assert "since 14 blocks have no line" in read_prefix_stats(chats).block_source


def test_further_choices_of_one_request_are_left_out(chats):
    alone = summarize(read_prefix_stats(chats))
    path = Path(f"{chats}_requests.jsonl")
    lines = path.read_text().splitlines()
    record = json.loads(lines[-1])
    for choice in (1, 2):
        again = {"choice": choice, "request_id": f"{choice}_x", "reuse_fraction": 1.0}
        lines.append(json.dumps(record | again))
    path.write_text("\n".join(lines))
    stats = read_prefix_stats(chats)
    assert "2 lines are further choices of a request" in " ".join(stats.trace.notes)
    with_choices = summarize(stats)
    for summary in (alone, with_choices):
        del summary["trace"]
    assert with_choices == alone and alone["reuse_fraction"]["count"] == 6


def test_any_format_can_be_summarised(tmp_path):
    trace = read_trace(write(tmp_path / "chat.jsonl", MOONCAKE))
    assert replayed_reuse(trace).tolist() == [0.0, 1 / 3]
    hits, gaps = replayed_blocks(trace)
    assert (hits.tolist(), gaps.tolist()) == ([1, 0, 0, 0], [1.0])
    assert "reuse_fraction" in summarize(read_prefix_stats(tmp_path / "chat.jsonl"))


def test_bad_lines_of_both_files_are_counted_and_strict_stops(chats):
    for kind in ("requests", "blocks"):
        with Path(f"{chats}_{kind}.jsonl").open("a") as file:
            file.write('{"cut')
    skipped = read_prefix_stats(chats).skipped
    assert [re.sub(": .*", "", text) for text in skipped] == [
        "line 7",
        "prefix_chat_multi_b32_blocks.jsonl line 15",
    ]
    assert summarize(read_prefix_stats(chats))["trace"]["skipped_lines"] == 2
    with pytest.raises(TraceError, match="line 7"):
        read_prefix_stats(chats, strict=True)


def test_a_summary_is_printed_and_written(chats, tmp_path):
    out = tmp_path / "summary.json"
    printed = pensieve("trace", "summarize", chats, "--json", out)
    assert "prompts: measured; blocks: measured" in printed
    assert "66.7%" in printed
    assert json.loads(out.read_text()) == summarize(read_prefix_stats(chats))


def test_a_trace_without_reuse_has_no_gaps(folder):
    summary = summarize(read_prefix_stats(folder / "prefix_summarization_b32"))
    assert summary["reuse_fraction"]["share_above_0"] == 0
    assert summary["reuse_gap_s"]["mean"] is None
    assert "–" in pensieve("trace", "summarize", folder / "prefix_summarization_b32")


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_every_figure_of_a_folder_is_drawn(folder, tmp_path):
    out = tmp_path / "figures"
    pensieve("trace", "analyze-all", folder, "--out", out)
    cdfs = {
        f"{name}_cdf_{label}.png"
        for name in ("reuse_fraction", "block_hits", "block_reuse_gaps")
        for label in ("chat_multi", "summarization", "all")
    }
    hits = {
        f"cache_hits_{label}_{policy}.png"
        for label in ("chat_multi", "summarization")
        for policy in ("LRU", "FIFO")
    }
    assert {path.name for path in out.iterdir()} == cdfs | hits
    assert all(map(is_png, out.iterdir()))


def test_a_report_is_one_page_that_loads_nothing(chats, tmp_path):
    out = tmp_path / "report.html"
    pensieve("report", chats, "-o", out)
    page = out.read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in ("chat_multi_b32", "retention", "53.3%", "66.7%"):
        assert text in page


def test_names_in_a_report_are_escaped(tmp_path):
    prefix = record(tmp_path, "<b>&amp", chat(1, 2))
    pensieve("report", prefix, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;amp" in page


def test_blocks_of_twice_the_size_are_half_as_many(chats):
    trace = read_trace(chats)
    double = coarsen(trace, 2 * BLOCK_TOKENS)
    assert np.diff(double.offsets).tolist() == [1, 1, 2, 2, 3, 3]
    assert double.unique_blocks == 2 * 3
    assert replayed_reuse(double).tolist() == pytest.approx([0, 0, 1 / 2, 1 / 2, 2 / 3, 2 / 3])
    assert coarsen(trace, BLOCK_TOKENS) == trace


def test_merged_blocks_have_ends_of_their_own_where_recorded_ones_have(tmp_path):
    """Prompts of 1 to 9 blocks of 16 and 3 tokens more; each begins as the one before it."""
    requests = [
        {
            "request_id": f"{n}",
            "timestamp": n,
            "input_length": 16 * n + 3,
            "output_length": 1,
            "hash_ids": [*range(n), 100 + n],
            "block_tokens": 16,
        }
        for n in range(1, 10)
    ]
    merged = coarsen(read_trace(write(tmp_path / "a_requests.jsonl", requests)), 64)
    assert np.diff(merged.offsets).tolist() == [(16 * n + 3 + 63) // 64 for n in range(1, 10)]
    assert merged.accesses - merged.unique_blocks == sum(n // 4 for n in range(1, 10)) - 2


def test_all_prompts_end_in_full_blocks_and_only_merged_ones_are_left_over(tmp_path):
    """Three blocks of 16, no end: the third is no full block of 32, so the same prompt again hits one block of two."""
    requests = [
        {
            "request_id": f"{n}",
            "timestamp": n,
            "input_length": 48,
            "output_length": 1,
            "hash_ids": [1, 2, 3],
            "block_tokens": 16,
        }
        for n in range(2)
    ]
    merged = coarsen(read_trace(write(tmp_path / "a_requests.jsonl", requests)), 32)
    assert (merged.accesses, merged.infinite_hits) == (4, 1)


def test_block_sizes_that_cannot_be_merged_are_refused(chats):
    trace = read_trace(chats)
    with pytest.raises(TraceError, match="blocks of 16 cannot be made of them, only multiples"):
        coarsen(trace, 16)
    with pytest.raises(TraceError, match="no prompt fills a block of 320 tokens"):
        coarsen(trace, 320)


def test_traces_are_interleaved_by_time_and_share_no_block(folder):
    traces = [read_trace(folder / f"prefix_{name}_b32") for name in ("chat_multi", "summarization")]
    mixed = interleave(traces)
    assert mixed.requests == 6 + 4
    assert mixed.unique_blocks == 14 + 80
    assert mixed.times_s.tolist() == sorted([0, 1, 10, 11, 20, 21, 0, 3, 6, 9])
    chat_requests = np.flatnonzero(mixed.workload_of == 0)
    lengths = np.diff(mixed.offsets)
    assert lengths[chat_requests].tolist() == [3, 3, 5, 5, 7, 7]
    assert infinite_hit_rates(mixed) == pytest.approx(
        {"overall": 16 / 110, "chat_multi": 16 / 30, "summarization": 0}
    )
    assert worth_keeping(mixed) == ("chat_multi",)
    assert mixed.sessions == 2 + 4


def test_in_a_mix_keeping_what_repeats_beats_lru_and_every_block_is_counted_once(folder, tmp_path):
    out = tmp_path / "mixed.json"
    printed = pensieve("trace", "mix", folder, "--capacity", 25, "--json", out, "--out", tmp_path)
    assert "workload-aware LRU, which keeps chat_multi alone" in printed
    written = json.loads(out.read_text())
    rates = {(row["policy"], row["workload"]): row for row in written["results"]}
    for policy in ("lru", "fifo", "workload-aware-lru"):
        parts = [rates[policy, name] for name in ("chat_multi", "summarization")]
        for column in ("accesses", "hits_any", "hits_prefix"):
            assert sum(part[column] for part in parts) == rates[policy, "overall"][column]
            assert rates[policy, "overall"]["accesses"] == 110
    assert rates["workload-aware-lru", "chat_multi"]["hit_rate"] == pytest.approx(16 / 30)
    assert rates["lru", "overall"]["hit_rate"] < rates["workload-aware-lru", "overall"]["hit_rate"]
    assert is_png(tmp_path / "cache_hits_mixed.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace", "summarize", "absent"), "no such file, and no absent_requests.jsonl next to it"),
        (("trace", "analyze-all", "absent"), "absent: is not a folder"),
        (("trace", "analyze-all", "EMPTY"), r"has no \*_requests.jsonl; record traces"),
        (("trace", "policies", "CHATS", "32", "mru"), "unknown policy 'mru'"),
        (("trace", "policies", "CHATS", "48", "lru"), "blocks of 32 tokens; only multiples can be made of them"),
        (("trace", "mix", "FOLDER", "--block", "64"), "no trace has blocks of 64 tokens, only of 32"),
        (("trace", "mix", "FOLDER", "--cache-workloads", "qa"), "has no workload 'qa'"),
        (("report", "CHATS", "-o", "absent/r.html"), "there is no folder absent"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(folder, chats, arguments, message):
    (folder / "empty").mkdir()
    known = {"FOLDER": folder, "CHATS": chats, "EMPTY": folder / "empty"}
    with pytest.raises(UsageError, match=message):
        pensieve(*(known.get(item, item) for item in arguments))


def test_the_smallest_blocks_are_mixed_unless_others_are_asked_for(folder):
    for kind in ("requests", "blocks"):
        path = folder / f"prefix_chat_multi_b32_{kind}.jsonl"
        path.with_name(path.name.replace("b32", "b64")).write_text(path.read_text())
    assert "unique blocks of 32 tokens" in pensieve("trace", "mix", folder)
    asked = pensieve("trace", "mix", folder, "--block", 64)
    assert "6 requests, 2 sessions, 30 block lookups, 14 unique blocks of 64 tokens" in asked


@pytest.mark.parametrize(
    ("tool", "arguments", "drawn"),
    [
        ("summarize_prefix_stats", ("CHATS",), None),
        ("analyze_prefix_stats", ("CHATS",), "block_hits_cdf_chat_multi_b32.png"),
        ("simulate_cache_policies", ("FOLDER/prefix_chat_multi", "32", "LRU"), "cache_hits_chat_multi_b32_LRU.png"),
        ("analyze_all_prefix_cache", ("FOLDER", "--policy", "lru"), "cache_hits_summarization_LRU.png"),
        ("simulate_mixed_workloads", ("FOLDER",), "cache_hits_mixed.png"),
    ],
)  # fmt: skip
def test_the_documented_tools_work(folder, chats, tool, arguments, drawn):
    given = [item.replace("FOLDER", str(folder)).replace("CHATS", str(chats)) for item in arguments]
    command = [sys.executable, str(TOOLS / f"{tool}.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert drawn is None or is_png(folder / drawn)


def test_nothing_heavy_is_imported_to_summarise(chats):
    program = f"""
import sys
sys.argv = ["pensieve", "trace", "summarize", {str(chats)!r}]
from vllm_pensieve.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in ("torch", "vllm", "transformers", "matplotlib", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
