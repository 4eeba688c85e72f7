"""Real vLLM records what it serves; the records agree with what the engine reports."""

import json

import pytest

pytestmark = pytest.mark.engine


def test_requests_and_blocks_are_recorded_and_add_up(serve, tmp_path):
    from vllm_pensieve.analysis.summaries import read_prefix_stats
    from vllm_pensieve.testing.served import tokens

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


@pytest.fixture(scope="module")
def measured(serve, tmp_path_factory):
    """An engine with vLLM's own residency metrics of every block, and no host tier; its trace's prefix."""
    prefix = tmp_path_factory.mktemp("measured") / "t"
    served = serve(
        blocks=40,
        settings={"trace_prefix": str(prefix)},
        max_model_tokens=1024,
        kv_cache_metrics=True,
        kv_cache_metrics_sample=1.0,
    )
    return served, prefix


def lines(prefix, kind):
    return [json.loads(line) for line in open(f"{prefix}_{kind}.jsonl")]


def counts(served, *names):
    """Observations in vLLM's histograms."""
    found = {metric.name: metric for metric in served.llm.get_metrics()}
    return [found[f"vllm:kv_block_{name}_seconds"].count for name in names]


def test_choices_of_one_prompt_are_one_turn_of_a_session_and_add_up(measured):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from vllm_pensieve.testing.served import tokens

    served, _ = measured
    prompt = tokens(150, seed=7)
    sampling = SamplingParams(
        n=3,
        temperature=1.0,
        max_tokens=20,
        ignore_eos=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    served.engine.add_request("several", {"prompt_token_ids": prompt}, sampling, session_id="n")
    output = served.drain()["several"]
    served.add([*prompt, *output.outputs[2].token_ids], 4, name="then", session_id="n")
    served.drain()
    table = served.scheduler.sessions
    assert [s.turns for s in table._sessions.values() if s.session_id == "n"] == [2]


def test_blocks_are_recorded_as_often_as_vllm_s_own_metrics_see_them_go(measured):
    """vLLM also counts blocks that were handed out again before they were full, which no trace names."""
    from vllm_pensieve.testing.served import token_ids, tokens

    served, prefix = measured
    histories = [tokens(150, seed=seed) for seed in range(6)]
    for turn in range(4):
        for chat, history in enumerate(histories):
            history += tokens(60, seed=100 * turn + chat)
            name = served.add(history, 8, session_id=f"chat-{chat}")
            history += token_ids(served.drain()[name])
    lifetimes, idle_times, gaps = counts(served, "lifetime", "idle_before_evict", "reuse_gap")
    collector = served.scheduler.kv_metrics_collector
    assert not collector._eviction_events, "all are told"
    never_full_and_left = sum(
        served.pool.blocks[block_id].block_hash is None for block_id in collector.block_metrics
    )
    served.scheduler.end_trace()
    requests, blocks = lines(prefix, "requests"), lines(prefix, "blocks")
    assert [r["choice"] for r in requests[:4]] == [0, 1, 2, 0]
    assert [r["turn"] for r in requests[:4]] == [1, 1, 1, 2]
    assert [r["prompt_tokens_resident"] for r in requests[:4]] == [0, 128, 128, 160]
    never_full = sum((r["prompt_tokens"] + r["output_tokens"] - 1) % 32 > 0 for r in requests)
    gone = [block for block in blocks if block["fate"] == "dropped"]
    assert len(gone) > 20 and sum(r["prompt_tokens_recovered"] for r in requests) > 0
    assert lifetimes == idle_times == len(gone) + never_full - never_full_and_left
    assert {b["fate"] for b in blocks} == {"alive", "dropped"}
    # vLLM keeps the last four uses of a block, not counting the one that computed it.
    assert gaps == sum(max(0, min(block["hits"], 4) - 1) for block in gone) > 0
    assert len(blocks) - len(gone) == len(collector.block_metrics) - never_full_and_left
