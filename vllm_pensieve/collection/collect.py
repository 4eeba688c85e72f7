"""Records traces of workloads, one after the other, with a model where one can be run and without where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from vllm_pensieve.collection.engine import needs_simulation, start_recording
from vllm_pensieve.collection.play import Reply, play
from vllm_pensieve.collection.recording import Recording
from vllm_pensieve.collection.virtual_time import VirtualTime
from vllm_pensieve.errors import UsageError
from vllm_pensieve.trace.parts import parts_of
from vllm_pensieve.workloads.events import RequestEvent, TokenCount

Tell = Callable[[int], None]
Starting = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Recorded:
    """What a recording came to. lasted_s: by the clocks the trace shows; took_s: really."""

    recording: Recording
    replies: tuple[Reply, ...]
    lasted_s: float
    took_s: float

    @property
    def prompt_tokens(self) -> int:
        return sum(reply.prompt_tokens for reply in self.replies)

    @property
    def cached_tokens(self) -> int:
        return sum(reply.cached_tokens for reply in self.replies)

    @property
    def output_tokens(self) -> int:
        return sum(reply.output_tokens for reply in self.replies)


def output_limits(
    events: Sequence[RequestEvent], recording: Recording, count: TokenCount
) -> list[int]:
    """Tokens of each reply at most: as many as the recorded reply had, if there is one."""
    most = recording.max_output_tokens
    return [
        most if event.reply is None else max(1, min(most, count(event.reply))) for event in events
    ]


def record(
    recording: Recording,
    events: Sequence[RequestEvent],
    limits: Sequence[int],
    tell: Tell = lambda done: None,
    starting: Starting = nullcontext,
) -> Recorded:
    """Serve the events and write the trace; files of an earlier one are replaced.

    limits: tokens of each reply at most; of a simulated one exactly.
    starting: makes a context in which the engine is started.

    Raises:
        UsageError: the folder cannot be written, vLLM refuses the model or an option, or no trace was written.
    """
    make_room(recording)
    took_s = time.perf_counter()
    with starting():
        engine = start_recording(recording)
    with nullcontext() if recording.real_time else VirtualTime():
        lasted_s = time.monotonic()
        replies = play(engine, events, lambda number: _parameters(recording, limits[number]), tell)
        lasted_s = time.monotonic() - lasted_s
        engine.engine_core.shutdown()  # writes the rest of the trace
    missing = [str(path) for path in recording.files() if not path.is_file()]
    if missing:
        raise UsageError(
            f"no trace was written: {', '.join(missing)}; is the plugin `pensieve` left out of VLLM_PLUGINS?"
        )
    return Recorded(recording, tuple(replies), lasted_s, time.perf_counter() - took_s)


def record_block_sizes(
    recording: Recording,
    block_sizes: Sequence[int],
    events: Sequence[RequestEvent],
    count: TokenCount,
    begin: Callable[[Recording], Tell],
    starting: Starting = nullcontext,
) -> Iterator[Recorded]:
    """One recording for each block size, of the same requests.

    A size at which no model can be run here is simulated, with the lengths of the replies that the model gave at
    another size, if there is one: prompts, and so their blocks, are the same.

    begin: is called before each recording, and returns what is called with how many requests are done.
    starting: as of `record`.
    """
    limits = output_limits(events, recording, count)
    runnable = [size for size in block_sizes if recording.simulate or not needs_simulation(size)]
    for size in runnable:
        own = replace(recording, block_tokens=size)
        recorded = record(own, events, limits, begin(own), starting)
        yield recorded
    if runnable:
        limits = [reply.output_tokens for reply in recorded.replies]
    for size in block_sizes:
        if size not in runnable:
            own = replace(recording, block_tokens=size, simulate=True)
            yield record(own, events, limits, begin(own), starting)


def make_room(recording: Recording) -> None:
    """Make the folder and remove files of an earlier trace of the same name."""
    try:
        recording.out.mkdir(parents=True, exist_ok=True)
        for path in recording.files():
            for part in parts_of(path):
                part.unlink()
    except OSError as error:
        raise UsageError(f"{recording.out}: cannot be written: {error.strerror}") from error


def _parameters(recording: Recording, limit: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from vllm_pensieve.simulator.settings import OUTPUT_TOKENS_KEY

    return SamplingParams(
        temperature=0.0,
        max_tokens=limit,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={OUTPUT_TOKENS_KEY: limit} if recording.simulate else None,
    )
