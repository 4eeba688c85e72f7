"""Requests with a seed, where vLLM's model runner keeps a random generator for each of them.

The V1 runner makes the generator when it hears of a request as a new one, and samples after every step, also where a
prefill is not complete; such a sample it undoes by setting the generator back. The generators of a CPU cannot be set
back: torch raises, and the engine dies. The V2 runner derives its random numbers from seed and position.

So on a CPU a seeded prefill has one part. One that no step takes whole, of which stock vLLM dies, loses its seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingType
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

if TYPE_CHECKING:
    from vllm.v1.request import Request

logger = init_logger("vllm.pensieve")


class SeedsMixin(Scheduler):
    """Spares generators what they cannot do, so that a seed gives the tokens that it gives with stock vLLM."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_cpu = current_platform.is_cpu()
        self._seeded: set[str] = (
            set()
        )  # requests that have, or had, a generator that cannot be set back
        threshold = self.scheduler_config.long_prefill_token_threshold
        self._whole_prefill_tokens = min(
            self.max_num_scheduled_tokens, threshold or self.max_num_scheduled_tokens
        )

    def _has_generator(self, request: Request) -> bool:
        params = request.sampling_params
        return (
            not self.use_v2_model_runner
            and params is not None
            and params.sampling_type is SamplingType.RANDOM_SEED
        )

    def may_jump(self, request: Request) -> bool:
        """Whether the request's prefill may have more than one part."""
        return not (self._on_cpu and self._has_generator(request))

    @override
    def add_request(self, request: Request) -> None:
        super().add_request(request)
        if not self.may_jump(request):
            self._seeded.add(request.request_id)

    @override
    def _free_blocks(self, request: Request) -> None:
        self._seeded.discard(request.request_id)
        super()._free_blocks(request)

    @override
    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """What does not fit next to others waits for a step into which it fits; where none is large enough, the request
        goes on without its seed.
        """
        num_new_tokens = super()._reserve_prefill_lookahead(
            request, num_computed_tokens, num_new_tokens
        )
        if request.request_id not in self._seeded or self.may_jump(request):
            return num_new_tokens
        rest = request.num_tokens - num_computed_tokens
        if rest <= self._whole_prefill_tokens:
            return 0 if num_new_tokens < rest else num_new_tokens
        if request.status == RequestStatus.WAITING and not request.resumable:
            self._drop_seed(request, rest)
        return num_new_tokens

    def _drop_seed(self, request: Request, tokens: int) -> None:
        """Before the worker hears of the request: its tokens are then drawn from the engine's generator."""
        params = request.sampling_params.clone()
        params.seed = None
        vars(params).pop("sampling_type", None)  # kept by vLLM once it was asked for
        request.sampling_params = params
        logger.warning(
            "Pensieve: request %s is sampled without its seed: %d tokens of its prompt are to be computed, a step "
            "takes %d, and on a CPU vLLM cannot compute a seeded prompt in parts; raise --max-num-batched-tokens",
            request.request_id,
            tokens,
            self._whole_prefill_tokens,
        )

    def _forget_sample(self, request: Request) -> None:
        """Have the worker make a new generator for a preempted request whose first sample has been dropped.

        Of a request that has produced tokens before, the generator's place is not known here: its next token is drawn
        anew.
        """
        if (
            self._has_generator(request)
            and not request.num_output_tokens
            and not request.resumable
            and request.status == RequestStatus.PREEMPTED
        ):
            self.finished_req_ids.add(request.request_id)  # for the worker only
            request.status = RequestStatus.WAITING
