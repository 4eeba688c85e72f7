"""Whether a model is served at all, and with the plugin."""

from __future__ import annotations

from vllm_pensieve.selfcheck.checks import Checks
from vllm_pensieve.selfcheck.setting import Setting, Texts
from vllm_pensieve.serving import Server

BLOCKS = 128
REPLY_TOKENS = 24


def check_basic_inference(setting: Setting, checks: Checks) -> None:
    """Five checks of a model served with the plugin: it starts, answers, answers the same again, streams, counts."""
    texts = setting.texts()
    with setting.server(BLOCKS) as server:
        _starts(server, checks)
        with checks.trying("a prompt is answered at the length asked for"):
            text = _answers(server, texts, checks)
        with checks.trying("the same prompt is answered the same from the cache"):
            _answers_the_same(server, text, checks)
        with checks.trying("a streamed answer is the whole one in pieces"):
            _streams(server, texts, checks)
        with checks.trying("every prompt token is counted once"):
            _counts(server, checks)


def _starts(server: Server, checks: Checks) -> None:
    inspection = server.inspection
    scheduler = type(inspection.scheduler).__name__
    checks.decide(
        "the model is served with the plugin",
        inspection.adopted,
        f"{scheduler}, {inspection.gpu_blocks} blocks of 32 tokens, context of {server.context_tokens} tokens",
    )


def _answers(server: Server, texts: Texts, checks: Checks) -> str:
    text = texts.of(200)
    reply = server.process_request("first", text, REPLY_TOKENS)
    checks.decide(
        "a prompt is answered at the length asked for",
        reply.output_tokens == REPLY_TOKENS,
        f"{reply.prompt_tokens} prompt tokens, {reply.output_tokens} of {REPLY_TOKENS} tokens out "
        f"({reply.finish_reason}), first one after {(reply.ttft_s or 0) * 1e3:.0f} ms",
    )
    return text


def _answers_the_same(server: Server, text: str, checks: Checks) -> None:
    first = server.token_ids("first")
    again = server.process_request("again", text, REPLY_TOKENS)
    # At least the last token of a prompt is computed.
    whole_blocks = (again.prompt_tokens - 1) // 32 * 32
    same = server.token_ids("again") == first
    checks.decide(
        "the same prompt is answered the same from the cache",
        same and again.cached_tokens == whole_blocks > 0,
        f"{again.cached_tokens} of {again.prompt_tokens} prompt tokens from the cache, "
        f"{'all' if same else 'not all'} {again.output_tokens} tokens as before",
    )


def _streams(server: Server, texts: Texts, checks: Checks) -> None:
    text = texts.of(150)
    whole = server.process_request("whole", text, REPLY_TOKENS)
    pieces = list(server.stream("streamed", text, REPLY_TOKENS))
    checks.decide(
        "a streamed answer is the whole one in pieces",
        "".join(pieces) == whole.text and len(pieces) > 1,
        f"{len(pieces)} pieces, {len(''.join(pieces))} of {len(whole.text)} characters",
    )


def _counts(server: Server, checks: Checks) -> None:
    told = server.statistics()
    sent = sum(
        reply.prompt_tokens
        for reply in (server.process_request(f"counted {i}", "count this", 1) for i in range(3))
    )
    counted = server.statistics().prompt_tokens
    grown = sum(counted.values()) - sum(told.prompt_tokens.values())
    checks.decide(
        "every prompt token is counted once",
        grown == sent and min(counted.values()) >= 0,
        f"{sent} sent, {grown} counted; in all "
        + ", ".join(f"{count} {source}" for source, count in counted.items()),
    )
