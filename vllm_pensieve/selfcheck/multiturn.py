"""Whether a conversation's next turn computes only what is new in it."""

from __future__ import annotations

from vllm_pensieve.selfcheck.checks import Checks
from vllm_pensieve.selfcheck.setting import Setting
from vllm_pensieve.serving import Server

TURNS = 5
BLOCKS = 40
BLOCK_TOKENS = 32
FIRST_TOKENS, LATER_TOKENS, REPLY_TOKENS = 300, 40, 20
CPU_CACHE_GB = 0.2


def check_multiturn(setting: Setting, checks: Checks) -> None:
    """Each turn computes its new tokens only, counted: from GPU and host memory, and next to stateless vLLM."""
    texts = setting.texts()
    messages = [texts.of(FIRST_TOKENS), *(texts.of(LATER_TOKENS) for _ in range(TURNS - 1))]
    with setting.server(BLOCKS) as server:
        computed = [_turn(server, checks, message) for message in messages]
    with (
        setting.server(BLOCKS, cpu_cache_gb=CPU_CACHE_GB) as server,
        checks.trying("a turn from host memory"),
    ):
        _from_host_memory(server, checks, messages, texts.of(900))
    with setting.server(BLOCKS, mode="vllm") as server:
        stateless = [_computed(server, message) for message in messages]
    checks.decide(
        f"{TURNS} turns compute less than in stateless vLLM",
        sum(computed) < sum(stateless),
        f"{sum(computed)} tokens instead of {sum(stateless)}, {sum(stateless) / sum(computed):.1f}x fewer",
    )


def _turn(server: Server, checks: Checks, message: str) -> int:
    """Tokens that the turn computed."""
    before = server.statistics().prompt_tokens
    # The last token of a reply was generated and never read, so it has no KV; of the rest, whole blocks are kept.
    known = len(server.token_ids("talk")) - 1 if server.statistics().requests else 0
    kept = known // BLOCK_TOKENS * BLOCK_TOKENS
    reply = server.process_request("talk", message, REPLY_TOKENS)
    after = server.statistics().prompt_tokens
    computed = after["new"] - before["new"]
    checks.decide(
        f"turn {reply.turn} computes only its new tokens",
        computed == reply.prompt_tokens - kept and after["recovered"] == before["recovered"],
        f"{reply.prompt_tokens} prompt tokens, {kept} in full blocks of the turns before, {computed} computed, "
        f"first token after {(reply.ttft_s or 0) * 1e3:.0f} ms",
    )
    return computed


def _from_host_memory(server: Server, checks: Checks, messages: list[str], other: str) -> None:
    server.process_request("talk", messages[0], REPLY_TOKENS)
    for name in ("other", "another"):
        server.process_request(name, f"{name} {other}", 1)
    states = server.inspection.block_states(server.token_ids("talk")[:-1])
    before = server.statistics().prompt_tokens
    reply = server.process_request("talk", messages[1], REPLY_TOKENS)
    after = server.statistics().prompt_tokens
    moved = {source: after[source] - before[source] for source in after}
    computed = moved["new"] + moved["recovered"]
    loaded = states.count("swapped") * BLOCK_TOKENS
    checks.decide(
        "turn 2 computes only its new tokens after its blocks left GPU memory",
        moved["swapped"] == loaded > 0
        and computed == reply.prompt_tokens - len(states) * BLOCK_TOKENS,
        f"{moved['swapped']} tokens loaded from host memory, {moved['resident']} were resident, "
        f"{computed} of {reply.prompt_tokens} computed",
    )


def _computed(server: Server, message: str) -> int:
    reply = server.process_request("talk", message, REPLY_TOKENS)
    return reply.prompt_tokens - reply.cached_tokens
