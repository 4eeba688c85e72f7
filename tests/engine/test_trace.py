"""Real vLLM records what it serves; the records agree with what the engine reports."""

import json

import pytest

pytestmark = pytest.mark.engine


def test_requests_and_blocks_are_recorded_and_add_up(serve, tmp_path):
    from tests.engine.served import tokens
    from vllm_pensieve.analysis.summaries import read_prefix_stats

    prefix = tmp_path / "prefix_chat_b32"
    served = serve(
        blocks=70,
        host_blocks=20,
        settings={
            "trace_prefix": str(prefix),
            "trace_workload": "chat",
            "trace_session_ids": "plain",
        },
    )
    histories = [tokens(400, seed=seed) for seed in range(5)]
    outputs = []
    for turn in range(4):
        for session, history in enumerate(histories):
            history += tokens(40, seed=100 * turn + session)
            name = served.add(history, 6, session_id=f"session-{session}")
            output = served.drain()[name]
            outputs.append(output)
            history += output.outputs[0].token_ids
    served.scheduler.end_trace()
    records = [json.loads(line) for line in (tmp_path / f"{prefix.name}_requests.jsonl").open()]
    assert len(records) == 20
    assert [r["prompt_tokens"] for r in records] == [len(o.prompt_token_ids) for o in outputs]
    assert [r["output_tokens"] for r in records] == [6] * 20
    assert [r["turn"] for r in records] == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5
    assert records[0]["session_id"] == "session-0" and records[0]["finish_reason"] == "length"
    for source, total in served.prompt_tokens.items():
        assert sum(r[f"prompt_tokens_{source}"] for r in records) == total
    assert served.prompt_tokens["swapped"] > 0
    for record, output in zip(records, outputs, strict=True):
        cached = record["prompt_tokens_resident"] + record["prompt_tokens_swapped"]
        assert cached == output.num_cached_tokens
        assert 0 <= record["queue_s"] <= record["ttft_s"] <= record["e2e_s"]
        assert len(record["hash_ids"]) == -(-record["prompt_tokens"] // 32)
    blocks = [json.loads(line) for line in (tmp_path / f"{prefix.name}_blocks.jsonl").open()]
    fates = {
        fate: sum(b["fate"] == fate for b in blocks) for fate in ("alive", "swapped", "dropped")
    }
    assert all(fates.values()), fates
    cached = served.pool.cached_block_hash_to_block
    assert fates["alive"] == len(cached)
    assert fates["swapped"] == served.scheduler.swapper.host.only_copies
    hits = sum(b["hits"] for b in blocks)
    used = sum(r["prompt_tokens_resident"] + r["prompt_tokens_swapped"] for r in records) // 32
    assert hits == used
    stats = read_prefix_stats(prefix)
    assert stats.reuse_source == stats.block_source == "measured"
