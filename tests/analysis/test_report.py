"""The report: what it says of a trace, in words, tables and charts, on any screen."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.trace.recorded import chat, documents, record
from tests.trace.traces import MOONCAKE, write
from vllm_pensieve.analysis.advice import advice
from vllm_pensieve.analysis.report import build_report
from vllm_pensieve.analysis.simulate import Simulation, simulate
from vllm_pensieve.analysis.summaries import read_prefix_stats
from vllm_pensieve.cli import app
from vllm_pensieve.trace.readers import read_trace


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A recorded trace in which half of what was found came from host memory, and first tokens became slower."""
    prefix = record(tmp_path, "chat", chat(sessions=4, turns=5))
    path = Path(f"{prefix}_requests.jsonl")
    lines = []
    for number, line in enumerate(path.read_text().splitlines()):
        own = json.loads(line)
        found = own["prompt_tokens_resident"]
        own |= {"prompt_tokens_resident": found // 2, "prompt_tokens_swapped": found - found // 2}
        lines.append(json.dumps(own | {"ttft_s": 0.1 * (number + 1), "block_tokens": 32}))
    path.write_text("\n".join(lines) + "\n")
    return prefix


def text(page: str) -> str:
    """What a reader sees, without markup."""
    return unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table that has this heading."""
    (table,) = (part for part in re.findall(r"<table>.*?</table>", page, re.S) if heading in part)
    return [
        [text(cell).strip() for cell in re.split(r"<t[hd][^>]*>", row)[1:]]
        for row in re.split("<tr>", table)[1:]
    ]


def test_where_prompts_came_from_adds_up_and_stands_with_first_tokens(chats):
    page = build_report(read_prefix_stats(chats))
    head, tokens, shares = rows(page, "resident")
    assert head[1:] == ["resident", "swapped", "recovered", "new"]
    counts = [int(cell.replace(",", "")) for cell in tokens[1:]]
    prompts = [32 * (3 + 2 * turn) + 5 for turn in range(5) for _ in range(4)]
    assert sum(counts) == sum(prompts)
    assert counts[0] == counts[1] == 4 * 32 * sum(3 + 2 * turn for turn in range(4)) // 2
    assert [float(cell.strip("%")) for cell in shares[1:]] == pytest.approx(
        [100 * count / sum(prompts) for count in counts], abs=0.06
    )
    _, first_tokens = rows(page, "<th scope=col>requests")
    assert first_tokens == ["time to first token (s)", "20", "1.05", "1.05", "1.81", "1.98"]


def test_bars_stand_for_all_prompt_tokens_over_the_trace_s_time(chats):
    """Heights of each colour are in the ratio of its tokens; the axis runs from the first to the last request."""
    page = build_report(read_prefix_stats(chats))
    chart = page[page.index("prompt tokens</figcaption>") :].split("</svg>")[0]
    heights: dict[str, float] = {}
    for height, colour in re.findall(r'height="([\d.]+)" fill="(#\w+)"', chart):
        heights[colour] = heights.get(colour, 0.0) + float(height)
    served = read_prefix_stats(chats).trace.served
    expected = [total for total in served.tokens.sum(axis=0) if total]
    found = np.array(list(heights.values()))
    assert found / found.sum() == pytest.approx(np.array(expected) / sum(expected), rel=0.02)
    assert "time since the first request (s)" in chart
    assert ">40</text>" in chart and ">60</text>" not in chart


def test_a_trace_of_another_server_has_a_time_axis_too(tmp_path):
    page = build_report(read_prefix_stats(write(tmp_path / "chat.jsonl", MOONCAKE)))
    assert "block lookups</figcaption>" in page
    assert "does not say where prompts came from" in page
    assert "20% of all are of blocks that an earlier request had" in page


def test_policies_are_a_matrix_with_sizes_in_gib(chats):
    page = build_report(read_prefix_stats(chats), bytes_per_block=2**20)
    head, *body = rows(page, ">policy")
    assert [row[0] for row in body] == ["lru", "fifo", "gdsf", "retention", "min"]
    assert len(head) == len(body[0]) == 1 + 3  # 1, 5 and 10 % of 44 blocks
    assert head[-1].split() == ["4", "blocks", "9%", "of", "unique,", "0.00391", "GiB"]
    assert all(re.fullmatch(r"[\d.]+%\s+[\d.]+", cell) for row in body for cell in row[1:])


def test_the_page_suits_phones_and_the_dark_and_says_what_pictures_show(chats):
    page = build_report(read_prefix_stats(chats))
    assert '<meta name=viewport content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page
    told = re.findall(r'<img alt="([^"]*)"', page) + re.findall(r'aria-label="([^"]*)"', page)
    assert len(told) == 4 + 2
    assert all(len(words.split()) > 8 and re.search(r"\d", words) for words in told)
    assert page.count("<table>") == page.count("<div class=scroll>")


def test_bad_lines_and_notes_are_on_the_page(tmp_path):
    records = [{"hash_ids": [1, 2]}, {"hash_ids": [1, 3]}, "oops<b>"]
    page = build_report(read_prefix_stats(write(tmp_path / "t.jsonl", records)))
    assert "WARNING: 1 of 3 lines (33%) were left out" in page
    assert "Note: no line has a time" in page
    assert "<b>" not in page


def test_advice_names_the_memory_that_is_enough_and_what_retention_saves(tmp_path):
    trace = read_trace(record(tmp_path, "chat", chat(sessions=6, turns=6)))
    capacities = tuple(range(1, trace.unique_blocks + 1))
    results = simulate(trace, Simulation(("lru", "retention"), capacities))
    said = advice(trace, results, None)
    named = int(re.match(r"With (\d+) blocks?,", said)[1])
    hits = {(r.policy, r.capacity_blocks): r.hits_any for r in results}
    assert max(hits[policy, named] for policy in ("lru", "retention")) >= 0.9 * trace.infinite_hits
    assert (
        max(hits[policy, named - 1] for policy in ("lru", "retention")) < 0.9 * trace.infinite_hits
    )
    assert "(0.5 GiB)" in advice(trace, results, 2**29 / named)
    scarce = [
        r.cost_vs_lru for r in results if r.policy == "retention" and r.capacity_blocks < named
    ]
    saved = f"saves up to {1 - min(scarce):.0%} of" if min(scarce) < 0.98 else "saves little"
    assert saved in said


def test_advice_for_prompts_that_do_not_repeat(tmp_path):
    trace = read_trace(record(tmp_path, "documents", documents(4)))
    results = simulate(trace, Simulation(("lru", "retention"), (10,)))
    assert advice(trace, results, None).startswith("Prompts hardly repeat: even a cache without")


def test_the_command_takes_a_model_for_sizes(chats, tmp_path):
    (tmp_path / "config.json").write_text('{"n_layer": 2, "n_head": 2, "n_embd": 64}')
    out = tmp_path / "report.html"
    arguments = ["report", str(chats), "-o", str(out), "--model", str(tmp_path / "config.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.output
    assert "GiB" in out.read_text()
