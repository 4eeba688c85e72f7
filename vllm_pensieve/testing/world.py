"""A scheduler, a fake device and a queue of steps in flight: vLLM's engine loop without a model."""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vllm.config import (
    CacheConfig,
    KVEventsConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import (
    generate_scheduler_kv_cache_config,
    get_request_block_hasher,
    init_none_hash,
    make_block_hash_with_group_id,
)
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from vllm_pensieve.scheduler import make_scheduler
from vllm_pensieve.space.free_queue import RetentionFreeQueue
from vllm_pensieve.swap.connector import PensieveConnector, SwapReport
from vllm_pensieve.testing.clock import OwnClock
from vllm_pensieve.testing.device import FakeDevice, Row, V1Bookkeeping, V2Bookkeeping
from vllm_pensieve.testing.host_memory import FakeHostMemory
from vllm_pensieve.testing.kv_cache import BLOCK_TOKENS, attention_spec, worker_kv_cache_config
from vllm_pensieve.vllm_hooks.names import CONNECTOR, CONNECTOR_MODULE
from vllm_pensieve.vllm_hooks.sizes import block_bytes


def tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(1, 50_000), k=count)


def stock_scheduler(vllm_config: VllmConfig, **kwargs: Any) -> Scheduler:
    cls = AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler
    return cls(vllm_config=vllm_config, **kwargs)


class World:
    """Every step is computed when it is scheduled; its output comes back `steps_in_flight - 1` steps later.

    The scheduler gets its copy of a worker's KV cache configuration as vLLM makes it, and with a host tier the
    connector of that worker must hold as many blocks as the scheduler's.
    """

    def __init__(
        self,
        model: Path,
        *,
        blocks: int = 200,
        block_tokens: int = BLOCK_TOKENS,
        max_model_tokens: int = 1024,
        step_tokens: int = 8192,
        max_requests: int = 8,
        steps_in_flight: int = 1,
        runner: str = "v1",
        policy: str = "fcfs",
        long_prefill_tokens: int = 0,
        whole_sequence_must_fit: bool = True,
        settings: dict[str, Any] | None = None,
        scheduler: Callable[..., Scheduler] = make_scheduler,
        cache_group: KVCacheSpec | None = None,
        connector: KVTransferConfig | None = None,
        host_blocks: int = 0,
        loads_per_step: int | None = None,
        kv_events: bool = False,
    ) -> None:
        init_none_hash(sha256)
        self.block_tokens = block_tokens
        self.max_model_tokens = max_model_tokens
        of_worker = worker_kv_cache_config(blocks, cache_group or attention_spec(block_tokens))
        if host_blocks:
            connector = KVTransferConfig(
                kv_connector=CONNECTOR,
                kv_connector_module_path=CONNECTOR_MODULE,
                kv_role="kv_producer",
                kv_load_failure_policy="recompute",
            )
            host_bytes = host_blocks * block_bytes(of_worker)
            settings = {"host_cache_gib": host_bytes / 2**30} | (settings or {})
            if loads_per_step is None:
                settings = {"load_ms_per_step": 0.0} | settings
        config = VllmConfig(
            model_config=ModelConfig(
                model=str(model), dtype="float32", max_model_len=max_model_tokens, seed=0
            ),
            cache_config=CacheConfig(block_size=block_tokens, enable_prefix_caching=True),
            scheduler_config=SchedulerConfig(
                max_num_seqs=max_requests,
                max_num_batched_tokens=step_tokens,
                max_model_len=max_model_tokens,
                is_encoder_decoder=False,
                enable_chunked_prefill=True,
                long_prefill_token_threshold=long_prefill_tokens,
                policy=policy,
                scheduler_reserve_full_isl=whole_sequence_must_fit,
            ),
            kv_transfer_config=connector,
            kv_events_config=KVEventsConfig(enable_kv_cache_events=kv_events, publisher="null"),
            additional_config={"pensieve": {"step_cost_tokens": 0} | (settings or {})},
        )
        config.scheduler_config.async_scheduling = (
            steps_in_flight > 1
        )  # the CPU platform turns it off
        config.cache_config.num_gpu_blocks = blocks
        self.scheduler = scheduler(
            config,
            kv_cache_config=generate_scheduler_kv_cache_config([of_worker]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=block_tokens,
            log_stats=True,
        )
        self.scheduler.use_v2_model_runner = runner == "v2"
        self.clock = OwnClock.of(self.scheduler)
        bookkeeping = V2Bookkeeping if runner == "v2" else V1Bookkeeping
        self.device = FakeDevice(
            bookkeeping(block_tokens, max_requests, max_model_tokens), blocks, block_tokens
        )
        self.host: FakeHostMemory | None = None
        if host_blocks:
            worker = PensieveConnector(config, KVConnectorRole.WORKER, of_worker)
            told = worker.get_handshake_metadata()
            if loads_per_step is not None:  # in the default of 20 ms
                told.load_bytes_per_s = loads_per_step * block_bytes(of_worker) / 0.02 * 1.001
            self.scheduler.connector.set_xfer_handshake_metadata_pp_aware({(0, 0): told})
            self.host = FakeHostMemory(self.device, worker.num_slots)
        self.steps_in_flight = steps_in_flight
        self.in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        self.hasher = get_request_block_hasher(block_tokens, sha256)
        self.requests: list[Request] = []  # all that were ever made
        self._names = (f"request-{i}" for i in itertools.count())

    # -- requests ----------------------------------------------------------
    def request(
        self, prompt: list[int], output_tokens: int = 4, name: str | None = None, **kwargs: Any
    ) -> Request:
        params = SamplingParams(ignore_eos=True, max_tokens=output_tokens)
        request = Request(
            request_id=name or next(self._names),
            prompt_token_ids=list(prompt),
            sampling_params=params,
            pooling_params=None,
            block_hasher=self.hasher,
            **kwargs,
        )
        self.requests.append(request)
        return request

    def add(
        self, prompt: list[int], output_tokens: int = 4, name: str | None = None, **kwargs: Any
    ) -> Request:
        request = self.request(prompt, output_tokens, name, **kwargs)
        self.scheduler.add_request(request)
        return request

    def abort(self, request: Request) -> None:
        self.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)

    def preempt(self, request: Request, drop_stale_output: bool = False) -> None:
        """Between two steps, as a cache reset with running requests does."""
        self.scheduler.running.remove(request)
        self.scheduler._preempt_request(request, 0.0, drop_stale_output=drop_stale_output)
        self.scheduler.prev_step_scheduled_req_ids.discard(request.request_id)

    # -- time --------------------------------------------------------------
    def step(self, received: Iterable[str] = ()) -> dict[str, Row]:
        """Schedule and compute one step; take back the oldest output when no more may be in flight.

        `received`: requests whose asynchronous load ends in this step.
        """
        output = self.scheduler.schedule()
        if self.host is None:
            rows, result = self.device.run(output)
        else:
            plan = output.kv_connector_metadata.plan
            assert output.has_sync_kv_loads or not plan.loads
            bad_blocks, bad_slots = self.host.begin_step(plan)
            rows, result = self.device.run(output)
            bad_slots |= self.host.end_step(plan)
            result.kv_connector_output = KVConnectorOutput(
                invalid_block_ids=bad_blocks,
                kv_connector_worker_meta=SwapReport(bad_slots) if bad_slots else None,
            )
        if received:
            result.kv_connector_output = KVConnectorOutput(finished_recving=set(received))
        self.in_flight.append((output, result))
        may_stay = self.steps_in_flight - 1 if output.num_scheduled_tokens else 0
        while len(self.in_flight) > may_stay:
            self.scheduler.update_from_output(*self.in_flight.popleft())
        return {row.request_id: row for row in rows}

    @property
    def busy(self) -> bool:
        return self.scheduler.has_requests() or bool(self.in_flight)

    def drain(self, max_steps: int = 5000) -> list[dict[str, Row]]:
        """Steps until nothing is left to do."""
        steps: list[dict[str, Row]] = []
        while self.busy:
            assert len(steps) < max_steps, (
                f"still busy: {list(self.scheduler.requests.values())[:4]}"
            )
            steps.append(self.step())
        return steps

    def serve(self, prompt: list[int], output_tokens: int = 4, **kwargs: Any) -> Request:
        request = self.add(prompt, output_tokens, **kwargs)
        self.drain()
        return request

    # -- blocks ------------------------------------------------------------
    @property
    def manager(self) -> Any:
        return self.scheduler.kv_cache_manager

    @property
    def pool(self) -> Any:
        return self.manager.block_pool

    @property
    def walks(self) -> dict[str, Any]:
        return getattr(self.scheduler, "restoring", {})  # stock vLLM's has none

    @property
    def free_blocks(self) -> int:
        return self.pool.get_num_free_blocks()

    def cached_block(self, prompt: list[int], index: int) -> int | None:
        hit = self.pool.get_cached_block(self.request(prompt).block_hashes[index], [0])
        return hit[0].block_id if hit else None

    def cached(self, prompt: list[int]) -> list[int]:
        """Indexes of the full blocks of `prompt` that are in the cache."""
        hashes = self.request(prompt).block_hashes
        return [i for i, h in enumerate(hashes) if self.pool.get_cached_block(h, [0])]

    def drop(self, prompt: list[int], indexes: Iterable[int]) -> None:
        """Drop cached blocks of `prompt`, every copy, and lose their contents."""
        for index in indexes:
            while (block := self.cached_block(prompt, index)) is not None:
                assert self.pool.blocks[block].ref_cnt == 0, f"block {index} is in use"
                self.pool.evict_blocks({block})
                self.device.poison([block])

    @property
    def swapper(self) -> Any:
        return self.scheduler.swapper

    def swapped(self, prompt: list[int]) -> list[int]:
        """Indexes of the full blocks of `prompt` that are only in host memory."""
        hashes = self.request(prompt).block_hashes
        return [
            i
            for i, h in enumerate(hashes)
            if not self.pool.get_cached_block(h, [0])
            and self.swapper.host.find(make_block_hash_with_group_id(h, 0)) is not None
        ]

    def swap_out(self) -> None:
        """Evict everything from the GPU's memory that nobody uses; a step carries the copies out."""
        self.pool.free_blocks(self.pool.get_new_blocks(self.free_blocks))
        self.step()

    def unhash_idle_blocks(self, prompt: list[int], indexes: Iterable[int]) -> None:
        """Evict those cached blocks of `prompt` that nobody uses. A step in flight may still read them."""
        found = {
            self.cached_block(prompt, i) for i in indexes if i < len(prompt) // self.block_tokens
        }
        self.pool.evict_blocks(
            {b for b in found if b is not None and not self.pool.blocks[b].ref_cnt}
        )

    def occupy_unhashed_blocks(self, leave: int) -> None:
        """Take all free blocks that cache nothing but `leave` of them."""
        empty = [
            b for b in self.pool.blocks if b.ref_cnt == 0 and b.block_hash is None and not b.is_null
        ]
        self.pool.touch(empty[: len(empty) - leave])

    # -- claims ------------------------------------------------------------
    def assert_answered(self, *requests: Request) -> None:
        for request in requests:
            want = self.device.answer(request.prompt_token_ids, request.max_tokens)
            assert list(request.output_token_ids) == want, (
                f"{request.request_id}; {self.device.faults[:3]}"
            )

    def assert_sound(self) -> None:
        """No read of another prefix, no slot with two writers, and every cached block holds what its hash says."""
        assert not self.device.faults, self.device.faults[:3]
        assert not self.falsely_cached_blocks()

    def falsely_cached_blocks(self) -> set[int]:
        """Blocks that a lookup would find and that do not hold the tokens that their hash stands for."""
        false = set()
        for request in self.requests:
            prefix_hashes = self.device.hashes(request.all_token_ids[:])
            for i, block_hash in enumerate(request.block_hashes):
                if hit := self.pool.get_cached_block(block_hash, [0]):
                    want = self._of_block(prefix_hashes, i)
                    if (self.device.contents(hit[0].block_id) != want).any():
                        false.add(hit[0].block_id)
        return false

    def falsely_stored_slots(self) -> set[int]:
        """Slots that a lookup would find and that do not hold what their key stands for; copies under way aside."""
        assert self.host is not None
        false = set()
        for request in self.requests:
            prefix_hashes = self.device.hashes(request.all_token_ids[:])
            for i, block_hash in enumerate(request.block_hashes):
                slot = self.swapper.host.find(make_block_hash_with_group_id(block_hash, 0))
                want = self._of_block(prefix_hashes, i)
                if slot is not None and (self.host.slots[slot] != want).any():
                    false.add(slot)
        return false

    def _of_block(self, prefix_hashes: list[int], index: int) -> list[int]:
        return prefix_hashes[index * self.block_tokens : (index + 1) * self.block_tokens]

    def assert_nothing_left(self) -> None:
        """No request, no walk, every block free, the free queue intact."""
        assert not self.scheduler.requests and not self.scheduler.running
        assert not self.walks
        assert self.free_blocks == self.pool.num_gpu_blocks - 1
        assert all(block.ref_cnt == 0 for block in self.pool.blocks if not block.is_null)
        self.assert_free_queue_intact(idle=True)

    def assert_free_queue_intact(self, idle: bool = False) -> None:
        """And so is what the host tier knows of the blocks. idle: no step is being built or in flight."""
        queue = self.pool.free_block_queue
        if isinstance(queue, RetentionFreeQueue):  # vLLM's own has no such check
            queue.check_integrity()
        if self.host is not None:
            self.scheduler.check_host_tier(idle)
