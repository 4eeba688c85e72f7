"""`pensieve compare` with replies that do not come back as they were generated: real servers, a tiny model."""

import json
from pathlib import Path

import pytest

from tests.cli.test_compare_engine import finish, records, start

pytestmark = pytest.mark.engine

OPTIONS = (
    *("--modes", "vllm-apc", "--sessions", "2", "--turns", "3", "--history-tokens", "150"),
    *("--output-tokens", "40", "--think-time-s", "0", "--kv-cache-gib", "0.05"),
)


def measured(model: Path, out: Path, *server_options: str) -> tuple[str, dict, list[dict]]:
    process = start(
        out, *OPTIONS, "--model", str(model), "--", "--dtype", "float32", *server_options
    )
    output = finish(process)
    assert process.returncode == 0, output
    summary = json.loads((out / "summary.json").read_text())
    return output, summary["modes"]["vllm-apc"], records(out)


def found_again(lines: list[dict]) -> None:
    """With memory for everything, what is not found of the turn before is what the prompt did not repeat of it."""
    by_turn = {(line["session"], line["turn"]): line for line in lines}
    for (session, turn), line in by_turn.items():
        if turn > 1:
            before = by_turn[session, turn - 1]
            computed = before["prompt_tokens"] + before["output_tokens"] - 1
            repeated = computed - line["unmatched_tokens"]
            assert repeated // 32 * 32 == line["cached_tokens"]
        else:
            assert line["unmatched_tokens"] == 0


def test_reply_tokens_that_became_others_are_counted_by_turn_and_told(bpe_model, tmp_path):
    output, numbers, lines = measured(bpe_model, tmp_path)
    found_again(lines)
    unmatched = numbers["unmatched_tokens"]
    assert unmatched["total"] == sum(line["unmatched_tokens"] for line in lines) > 0
    assert unmatched["by_turn"][0] == 0 and len(unmatched["by_turn"]) == 3
    assert numbers["reasoning_only"] == 0
    told = " ".join(output.split())
    assert f"did not repeat {unmatched['total']:,} tokens of the turn before" in told
    assert "2 conversations sent their first turn before any reply began" in told


def test_thoughts_are_tokens_and_a_reply_of_thoughts_only_is_told(bpe_model, tmp_path):
    """The random model never ends its thinking, and the template does not send thoughts back."""
    output, numbers, lines = measured(bpe_model, tmp_path, "--reasoning-parser", "deepseek_r1")
    assert numbers["reasoning_only"] == 6
    assert "6 of 6 replies were thoughts without an answer" in " ".join(output.split())
    for line in lines:
        assert line["reasoning_only"]
        assert 0 < line["ttft_s"] < line["e2e_s"]
        assert line["unmatched_tokens"] == (39 if line["turn"] > 1 else 0)
    assert len({line["output_sha256"] for line in lines}) > 1
    found_again(lines)
