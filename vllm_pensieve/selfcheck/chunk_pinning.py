"""Whether the blocks of running requests stay, and what happens to requests that cannot get memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_pensieve.selfcheck.checks import Checks
from vllm_pensieve.selfcheck.setting import Setting, Texts
from vllm_pensieve.serving import Server
from vllm_pensieve.serving.server import Answer

BLOCKS = 32
"""KV memory of 1,024 tokens."""
LONG_REPLY_TOKENS = 60
STEPS_AT_MOST = 2000


@dataclass
class Pins:
    """Watches the blocks of running requests from step to step.

    broken: what was seen of a block in use that lost its content or its user.
    """

    server: Server
    steps: int = 0
    most_blocks: int = 0
    most_requests: int = 0
    broken: list[str] = field(default_factory=list)
    _seen: dict[str, list[tuple[int, object]]] = field(default_factory=dict)

    def step(self, answer: Answer) -> None:
        """Move the engine on by one step, and look."""
        answer.unread = ""
        self.server.advance(answer)
        self.steps += 1
        inspection = self.server.inspection
        in_use = {name: blocks for name, blocks in inspection.blocks_in_use().items() if blocks}
        self.most_requests = max(self.most_requests, len(in_use))
        self.most_blocks = max(self.most_blocks, sum(map(len, in_use.values())))
        for name, blocks in in_use.items():
            now = inspection.users_and_keys(blocks)
            earlier = self._seen.get(name, [])
            for place, (block, (users, key)) in enumerate(zip(blocks, now, strict=True)):
                if users < 1:
                    self.broken.append(f"block {block} of {name} has no user")
                if place < len(earlier) and earlier[place] != (block, key):
                    before_block, before_key = earlier[place]
                    if before_key is not None or before_block != block:
                        self.broken.append(f"block {block} of {name} was {before_block} before")
            self._seen[name] = [(b, key) for b, (_, key) in zip(blocks, now, strict=True)]


def check_chunk_pinning(setting: Setting, checks: Checks) -> None:
    """Blocks of running requests are never evicted, of finished ones they can be; requests without memory wait."""
    texts = setting.texts()
    with setting.server(BLOCKS) as server:
        with checks.trying("blocks of a running request are never evicted"):
            _one(server, texts, checks)
        with checks.trying("blocks of several running requests are never evicted"):
            _several(server, texts, checks)
        with checks.trying("blocks of finished requests can be evicted again"):
            _afterwards(server, texts, checks)
        with checks.trying("a request that cannot get memory"):
            _deferred(server, texts, checks)


def _evicted(server: Server) -> int:
    return sum((server.statistics().evictions or {}).values())


def _one(server: Server, texts: Texts, checks: Checks) -> None:
    before = _evicted(server)
    pins = Pins(server)
    running = server.begin("pinned", texts.of(300), LONG_REPLY_TOKENS)
    pins.step(running)
    others = 0
    while running.reply is None and pins.steps < STEPS_AT_MOST:
        other = server.begin(f"other {others}", texts.of(400), 1)
        others += 1
        while other.reply is None and pins.steps < STEPS_AT_MOST:
            pins.step(running)
    evicted = _evicted(server) - before
    checks.decide(
        "blocks of a running request are never evicted",
        not pins.broken
        and evicted > 0
        and running.reply is not None
        and running.reply.output_tokens == LONG_REPLY_TOKENS,
        f"{others} other requests evicted {evicted} blocks in {pins.steps} steps, {len(pins.broken)} of them in use"
        + _first(pins),
    )


def _several(server: Server, texts: Texts, checks: Checks) -> None:
    before = _evicted(server)
    pins = Pins(server)
    running = [server.begin(f"several {i}", texts.of(150), LONG_REPLY_TOKENS) for i in range(3)]
    other = server.begin("beside them", texts.of(250), 1)
    while any(answer.reply is None for answer in (*running, other)) and pins.steps < STEPS_AT_MOST:
        pins.step(next(a for a in (*running, other) if a.reply is None))
    evicted = _evicted(server) - before
    checks.decide(
        "blocks of several running requests are never evicted",
        not pins.broken and evicted > 0 and pins.most_requests >= 3,
        f"{pins.most_requests} requests at once held {pins.most_blocks} of {BLOCKS} blocks, {evicted} others were "
        f"evicted in {pins.steps} steps, {len(pins.broken)} of them in use" + _first(pins),
    )


def _afterwards(server: Server, texts: Texts, checks: Checks) -> None:
    def resident() -> int:
        return sum(
            server.inspection.block_states(server.token_ids(f"several {i}")[:-1]).count("resident")
            for i in range(3)
        )

    held, free = resident(), server.inspection.free_blocks
    for i in range(3):
        server.process_request(f"after {i}", texts.of(900), 1)
    left = resident()
    checks.decide(
        "blocks of finished requests can be evicted again",
        free == BLOCKS and left < held,
        f"{free} of {BLOCKS} blocks free of users; of the finished requests' {held} resident blocks {left} are left "
        "after three other requests",
    )


def _deferred(server: Server, texts: Texts, checks: Checks) -> None:
    running = [server.begin(f"runs {i}", texts.of(360), LONG_REPLY_TOKENS) for i in range(2)]
    large = server.begin("large", texts.of(700), 5)
    waited = stalled = steps = 0
    while any(answer.reply is None for answer in (*running, large)) and steps < STEPS_AT_MOST:
        going = [answer for answer in running if answer.reply is None]
        begun = [answer for answer in going if answer.token_ids]
        had = {answer.request_id: len(answer.token_ids) for answer in begun}
        waits = not large.token_ids and bool(going)
        server.advance(next(a for a in (*running, large) if a.reply is None and not _drain(a)))
        steps += 1
        waited += waits
        stalled += sum(waits and len(a.token_ids) == had[a.request_id] for a in begun)
    replies = [answer.reply for answer in (*running, large) if answer.reply is not None]
    served = [reply.finish_reason for reply in replies].count("length")
    checks.decide(
        "a request that cannot get memory is deferred and served later",
        waited > 0 and large.reply is not None and large.reply.output_tokens == 5,
        f"it waited {waited} of {steps} steps, then got its {len(large.token_ids)} tokens",
    )
    checks.decide("none fails", served == 3, f"{served} of 3 requests got all their tokens")
    checks.decide(
        "it does not stall the others",
        waited > 0 and stalled == 0,
        f"in the {waited} steps that it waited the running ones missed {stalled} tokens",
    )


def _drain(answer: Answer) -> bool:
    """Have the next `advance` make a step rather than hand out text."""
    answer.unread = ""
    return False


def _first(pins: Pins) -> str:
    return f" ({pins.broken[0]})" if pins.broken else ""
