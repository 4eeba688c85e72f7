"""Real vLLM on a tiny model in this process, stepped by hand: prompts in, outputs out, blocks dropped in between."""

import contextlib
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vllm import LLM, RequestOutput, SamplingParams
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.v1.core.kv_cache_utils import KVCacheBlock, make_block_hash_with_group_id
from vllm.v1.request import Request

from vllm_pensieve.testing.clock import OwnClock

BLOCK_TOKENS = 32
POISON = 7.5
PENSIEVE = "vllm_pensieve.scheduler.make_scheduler"
TINY_BLOCK_BYTES = 64 * 1024  # of the tiny model: 4 layers of 16 KiB


def greedy(output_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True, logprobs=5)


class Served:
    """One engine in float32. `settings` are the plugin's; the default jumps over every kept block.

    host_blocks: blocks of `block_bytes`, the tiny model's, that the host tier holds; 0 is no host tier.
    """

    def __init__(
        self,
        model: Path,
        *,
        scheduler: str | type | None = PENSIEVE,
        settings: dict[str, Any] | None = None,
        blocks: int = 400,
        step_tokens: int = 256,
        max_requests: int = 16,
        max_model_tokens: int = 2048,
        host_blocks: int = 0,
        block_bytes: int = TINY_BLOCK_BYTES,
        **engine_options: Any,
    ) -> None:
        if scheduler is not None:
            ours = {"step_cost_tokens": 0} | (settings or {})
            if host_blocks:
                ours = {"host_cache_gib": host_blocks * block_bytes / 2**30} | ours
            engine_options["additional_config"] = {"pensieve": ours}
        kv_transfer_state._KV_CONNECTOR_AGENT = None  # vLLM has one a process; engines take turns
        self.llm = LLM(
            model=str(model),
            dtype="float32",
            enforce_eager=True,
            seed=0,
            block_size=BLOCK_TOKENS,
            max_model_len=max_model_tokens,
            max_num_batched_tokens=step_tokens,
            max_num_seqs=max_requests,
            num_gpu_blocks_override=blocks,
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            disable_log_stats=False,
            scheduler_cls=scheduler,
            **engine_options,
        )
        self.engine = self.llm.llm_engine
        self.core = self.engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.clock = OwnClock.of(self.scheduler)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self._names = (f"request-{i}" for i in itertools.count())
        self.connector = kv_transfer_state._KV_CONNECTOR_AGENT
        if host_blocks:
            assert self.scheduler.connector.num_slots == host_blocks

    @property
    def model_runner(self) -> Any:
        """The worker's."""
        return self.core.model_executor.driver_worker.worker.model_runner

    # -- requests ----------------------------------------------------------
    def add(
        self,
        prompt: Sequence[int],
        output_tokens: int = 8,
        name: str | None = None,
        params: SamplingParams | None = None,
        **kwargs: Any,
    ) -> str:
        """params: in place of greedy tokens."""
        name = name or next(self._names)
        self.engine.add_request(
            name, {"prompt_token_ids": list(prompt)}, params or greedy(output_tokens), **kwargs
        )
        return name

    def step(self) -> dict[str, RequestOutput]:
        """One engine step; the requests that it finished."""
        kv_transfer_state._KV_CONNECTOR_AGENT = self.connector
        return {output.request_id: output for output in self.engine.step() if output.finished}

    def drain(self) -> dict[str, RequestOutput]:
        outputs: dict[str, RequestOutput] = {}
        while self.engine.has_unfinished_requests():
            outputs |= self.step()
        return outputs

    def serve(
        self, prompts: Iterable[Sequence[int]], output_tokens: int = 8
    ) -> list[RequestOutput]:
        """All prompts at once."""
        names = [self.add(prompt, output_tokens) for prompt in prompts]
        outputs = self.drain()
        return [outputs[name] for name in names]

    def scheduled(self, name: str) -> Request | None:
        """The scheduler's view of a request, whose id there has a suffix."""
        return next(
            (r for i, r in self.scheduler.requests.items() if i.rsplit("-", 1)[0] == name), None
        )

    # -- blocks ------------------------------------------------------------
    def keys(self, tokens: Sequence[int]) -> list[bytes]:
        """The key of every full block of `tokens`."""
        probe = Request(
            request_id="probe",
            prompt_token_ids=list(tokens),
            sampling_params=greedy(1),
            pooling_params=None,
            block_hasher=self.core.request_block_hasher,
        )
        return [make_block_hash_with_group_id(block_hash, 0) for block_hash in probe.block_hashes]

    def cached_blocks(self, tokens: Sequence[int]) -> list[int | None]:
        """Block id per full block of `tokens`, None where it is not cached."""
        cached = self.pool.cached_block_hash_to_block
        hits = [cached.get_one_block(key) for key in self.keys(tokens)]
        return [hit.block_id if hit else None for hit in hits]

    def drop(self, tokens: Sequence[int], indexes: Iterable[int]) -> None:
        """Evict these blocks of a sequence, every copy of them; free blocks without content are poisoned."""
        wanted = set(indexes)
        while ids := {
            b for i, b in enumerate(self.cached_blocks(tokens)) if i in wanted and b is not None
        }:
            assert all(self.pool.blocks[block].ref_cnt == 0 for block in ids), "in use"
            self.pool.evict_blocks(ids)
        self.poison_empty_blocks()

    def poison_empty_blocks(self) -> None:
        """Overwrite the KV of every free block that caches nothing."""
        empty = [
            b.block_id
            for b in self.pool.blocks
            if b.ref_cnt == 0 and b.block_hash is None and not b.is_null
        ]
        self._poison(empty)

    def poison_blocks_given_out(self) -> None:
        """From now on, overwrite the KV of a block when it is given out anew, before anything is computed into it."""
        get_new_blocks = self.pool.get_new_blocks

        given_out: list[int] = []

        def poisoned(count: int) -> list[KVCacheBlock]:
            blocks = get_new_blocks(count)
            given_out.extend(block.block_id for block in blocks)
            if self.connector is None:
                self._poison(given_out)
                given_out.clear()
            return blocks

        self.pool.get_new_blocks = poisoned
        if self.connector is not None:  # what they held is copied to host memory first
            begin_step = self.connector.worker.begin_step

            def begin_step_and_poison(plan: Any) -> None:
                begin_step(plan)
                being_loaded = {block_id for _, block_id in plan.prefetches}
                being_stored = {block_id for block_id, _ in plan.ahead}
                kept, rest = [], []
                for block_id in given_out:
                    if block_id in being_stored or self.scheduler.swapper.is_deferred(block_id):
                        kept.append(block_id)
                    elif block_id not in being_loaded:
                        rest.append(block_id)
                self._poison(rest)
                given_out[:] = kept

            self.connector.worker.begin_step = begin_step_and_poison

    def _poison(self, blocks: list[int]) -> None:
        for layer in self.model_runner.kv_caches:
            assert layer.shape[0] == self.pool.num_gpu_blocks
            layer[blocks] = POISON

    def count_preemptions(self) -> Callable[[], int]:
        """Preemptions from now on, when called."""
        preempted: list[str] = []
        preempt = self.scheduler._preempt_request

        def counted(request: Request, *args: Any, **kwargs: Any) -> None:
            preempted.append(request.request_id)
            preempt(request, *args, **kwargs)

        self.scheduler._preempt_request = counted
        return lambda: len(preempted)

    # -- claims ------------------------------------------------------------
    @property
    def prompt_tokens(self) -> dict[str, int]:
        return dict(self.scheduler.pensieve_stats.prompt_tokens)

    def assert_nothing_left(self) -> None:
        assert (
            not self.scheduler.requests
            and not self.scheduler.running
            and not self.scheduler.restoring
        )
        assert self.pool.get_num_free_blocks() == self.pool.num_gpu_blocks - 1
        self.pool.free_block_queue.check_integrity()
        self.scheduler.check_host_tier(idle=True)


@contextlib.contextmanager
def pensieve_messages() -> Iterator[list[str]]:
    """What the plugin logs meanwhile, at the level that a user sees."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("vllm.pensieve"), Keep(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def largest_logprob_difference(a: RequestOutput, b: RequestOutput) -> float:
    """Over the tokens that both outputs list among their five likeliest at the same place, whatever the choice."""
    return max(
        abs(p[token].logprob - q[token].logprob)
        for mine, theirs in zip(a.outputs, b.outputs, strict=True)
        for p, q in zip(mine.logprobs, theirs.logprobs, strict=True)
        for token in p.keys() & q.keys()
        if math.isfinite(p[token].logprob) or math.isfinite(q[token].logprob)
    )


def token_ids(output: RequestOutput) -> list[int]:
    return list(output.outputs[0].token_ids)


def tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(1, 256), k=count)
