"""The demonstration: a few sessions that ask questions in turn, answered by a server of this process."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_pensieve.bench.fit import fit_turns, longest_sequence
from vllm_pensieve.bench.memory import MemoryAsked, carried, choose_memory
from vllm_pensieve.bench.options import Workload, check_run
from vllm_pensieve.bench.users import PRESETS, UsersOptions, check_users, users_spec
from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.models import window_options
from vllm_pensieve.serving.options import ServerOptions
from vllm_pensieve.serving.server import InputTooLong, Reply, Server
from vllm_pensieve.workloads.conversations import Conversation, Turn, WorkloadSpec
from vllm_pensieve.workloads.text import write_text
from vllm_pensieve.workloads.tokens import TokenCounter, token_counter

SESSIONS = 3
QUESTIONS = (
    "What is machine learning?",
    "Can you give me a real-world example?",
    "How does that example use neural networks?",
    "What are the advantages in this case?",
    "What are the limitations?",
    "How does deep learning differ?",
    "Can you explain it to a child?",
    "What should I read next?",
    "Who uses it today?",
    "Can you sum it all up?",
)


@dataclass(frozen=True)
class Demonstration:
    """What is asked of which server; `notes` say what is otherwise than asked for, a line each."""

    options: ServerOptions
    conversations: tuple[Conversation, ...]
    pause_s: float
    history_tokens: int
    notes: tuple[str, ...]

    @property
    def serve_command(self) -> str:
        """The command that serves the same model over HTTP with the same memory."""
        own = self.options
        words = ["pensieve", "serve", own.model]
        if own.gpu_cache_gb is not None:
            words += ["--kv-cache-memory-bytes", str(round(own.gpu_cache_gb * GB))]
        if own.cpu_cache_gb:
            words += ["--host-cache-gib", f"{own.cpu_cache_gb * GB / GIB:.3g}"]
        return " ".join([*words, *own.vllm_options])


@dataclass(frozen=True)
class Asked:
    """A question with its reply, or why there is none."""

    question: str
    reply: Reply | None
    problem: str = ""


def plan_demonstration(options: UsersOptions) -> Demonstration:
    """Return what is to be shown, cut to the model's context and the machine's memory.

    options: those of `pensieve bench users`; `modes` is one mode, and each of three sessions has one conversation.

    Raises:
        UsageError: something cannot be done as asked.
    """
    check_users(options)
    check_run(options)
    spec = users_spec(options)
    counter = token_counter(options.model)  # first, since it refuses a model that there is not
    asked = MemoryAsked(options.gpu_cache_gb, options.cpu_cache_gb, PRESETS[options.preset].memory)
    asked, memory_notes = carried(asked, options)
    limit, what = longest_sequence(options.model, asked.gpu_cache_gb, options.server_options)
    question_tokens = max(counter.count(question) for question in QUESTIONS)
    output_tokens = spec.output_tokens or 1
    overhead = counter.message_overhead_tokens
    turn_tokens = question_tokens + output_tokens + 2 * overhead
    spec, notes = fit_turns(spec, limit, what, turn_tokens, overhead)
    turns = [
        Turn(
            question,
            counter.count(question) + (0 if number else spec.history_tokens),
            output_tokens,
            spec.think_time_s,
        )
        for number, question in enumerate(
            QUESTIONS[index % len(QUESTIONS)] for index in range(spec.turns or 1)
        )
    ]
    conversations = tuple(
        Conversation(f"session_{number}", _after_text(turns, number, spec, counter))
        for number in range(1, SESSIONS + 1)
    )
    workload = Workload(conversations, SESSIONS, {}, "", overhead)
    memory = choose_memory(asked, options, workload)
    server = ServerOptions(
        mode=options.modes,
        model=options.model,
        gpu_cache_gb=None if memory.kv_cache_gib is None else memory.kv_cache_gib * GIB / GB,
        cpu_cache_gb=(memory.host_cache_gib or 0.0) * GIB / GB,
        device=options.device,
        max_new_tokens=output_tokens,
        seed=options.seed,
        vllm_options=(
            *window_options(options.model, options.server_options),
            *options.server_options,
        ),
    )
    return Demonstration(
        server, conversations, spec.think_time_s, spec.history_tokens, (*memory_notes, *notes)
    )


def _after_text(
    turns: Sequence[Turn], number: int, spec: WorkloadSpec, counter: TokenCounter
) -> tuple[Turn, ...]:
    """The turns, the first one after a text that is this session's own."""
    if not spec.history_tokens:
        return tuple(turns)
    text = write_text(random.Random(number), counter.characters(spec.history_tokens))
    first = dataclasses.replace(turns[0], text=f"{text}\n{turns[0].text}")
    return (first, *turns[1:])


def demonstrate(server: Server, plan: Demonstration) -> Iterator[Asked]:
    """Ask turn by turn, one session after the other; yield each question when it is answered."""
    for turn in range(len(plan.conversations[0].turns)):
        if turn:
            time.sleep(plan.pause_s)
        for conversation in plan.conversations:
            text = conversation.turns[turn].text
            question = text.rpartition("\n")[2]
            try:
                yield Asked(question, server.process_request(conversation.session_id, text))
            except InputTooLong as error:
                yield Asked(question, None, f"{conversation.session_id}: {error}")
