"""Ways to break a scheduler of pensieve on purpose."""

from types import MethodType
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from vllm_pensieve.scheduler import PensieveMixin


def skip_recomputation(scheduler: PensieveMixin) -> None:
    """Blocks for the holes are allocated, and the position goes straight to the end of the kept prefix."""

    def mark_prefix_replay(
        self: Any, request: Any, num_hit_tokens: int, *args: Any, **kwargs: Any
    ) -> int:
        type(self)._mark_prefix_replay(self, request, num_hit_tokens, *args, **kwargs)
        return 0

    def reserve_prefill_lookahead(
        self: Any, request: Any, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        # All but the walk: a prompt with a seed still waits for a step that takes it whole.
        return super(PensieveMixin, self)._reserve_prefill_lookahead(
            request, num_computed_tokens, num_new_tokens
        )

    def update_after_schedule(self: Any, output: Any) -> None:
        Scheduler._update_after_schedule(self, output)
        for request_id in output.num_scheduled_tokens:
            self.restoring.pop(request_id, None)

    _replace(scheduler, mark_prefix_replay, reserve_prefill_lookahead, update_after_schedule)


def hash_whole_holes_at_once(scheduler: PensieveMixin) -> None:
    """A hole is found by others from its first chunk on."""

    def reserve_prefill_lookahead(
        self: Any, request: Any, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        num = type(self)._reserve_prefill_lookahead(
            self, request, num_computed_tokens, num_new_tokens
        )
        if restoring := self.restoring.get(request.request_id):
            restoring.chunk = restoring.holes[0]
        return num

    _replace(scheduler, reserve_prefill_lookahead)


def never_resend(scheduler: PensieveMixin) -> None:
    """A request that jumped goes out like any other running request."""

    def make_cached_request_data(self: Any, *args: Any, **kwargs: Any) -> Any:
        for restoring in self.restoring.values():
            restoring.must_resend = False
        return Scheduler._make_cached_request_data(self, *args, **kwargs)

    _replace(scheduler, make_cached_request_data)


def keep_hashes_at_preemption(scheduler: PensieveMixin) -> None:
    """Stock's way: what the step was to compute for a request that loses its place stays hashed."""

    def preempt_request(self: Any, *args: Any, **kwargs: Any) -> None:
        Scheduler._preempt_request(self, *args, **kwargs)

    _replace(scheduler, preempt_request)


def compute_holes_as_if_at_the_start(model_runner: Any, hole_tokens: int) -> None:
    """A step of that many tokens tells the model that they are the first of their sequence."""
    model_forward = model_runner._model_forward

    def forward(input_ids: Any, positions: Any, *args: Any, **kwargs: Any) -> Any:
        if len(positions) == hole_tokens:
            positions = positions - positions[0]
        return model_forward(input_ids, positions, *args, **kwargs)

    model_runner._model_forward = forward


def _replace(scheduler: PensieveMixin, *hooks: Any) -> None:
    for hook in hooks:
        setattr(scheduler, f"_{hook.__name__}", MethodType(hook, scheduler))
