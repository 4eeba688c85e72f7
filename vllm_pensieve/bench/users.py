"""The benchmark of users who talk at the same time: its options, its presets, and its plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from vllm_pensieve.bench.checks import (
    MOST_SECONDS,
    MOST_TOKENS,
    MOST_TURNS,
    MOST_USERS,
    check_amount,
    check_choice,
    check_count,
    check_memory_and_runs,
    reply_tokens,
)
from vllm_pensieve.bench.fit import fit_turns, longest_sequence
from vllm_pensieve.bench.memory import MemoryAsked, MemoryShares, carried, choose_memory
from vllm_pensieve.bench.options import Workload, check_run, plan_run
from vllm_pensieve.bench.plan import ComparePlan
from vllm_pensieve.bench.run_options import BenchmarkOptions, Out
from vllm_pensieve.workloads.conversations import WorkloadSpec
from vllm_pensieve.workloads.tokens import token_counter
from vllm_pensieve.workloads.users import User, generate_users

INPUT_TOKENS = 38
"""Length of each message; the history comes before the first."""
SHORTEN = "use fewer --turns, or a smaller --history-tokens or --max-new-tokens"


@dataclass(frozen=True)
class UsersPreset:
    """Values of the options that are not given."""

    users: int
    turns: int
    request_interval_s: float
    history_tokens: int
    max_new_tokens: int
    memory: MemoryShares


PRESETS = {
    "fast": UsersPreset(6, 4, 2.5, 1500, 24, MemoryShares(gpu=0.75, cpu=0.6)),
    "stress": UsersPreset(12, 10, 4.0, 2500, 32, MemoryShares(gpu=0.5, cpu=0.5)),
    "guide": UsersPreset(1, 10, 0.5, 1500, 32, MemoryShares(gpu=0.75, cpu=0.6)),
}
"""`fast` is done in minutes. `stress` has GPU and host memory for a part of all histories only. `guide` is what the
Pensieve guide has for its bare command.
"""


@dataclass(frozen=True, kw_only=True)
class UsersOptions(BenchmarkOptions):
    """The options of `pensieve bench users`; None means: take the preset's value."""

    out: Out = Path("out/users")
    preset: Annotated[
        str,
        Option(
            help="Values of the options that are not given. fast: few users, few turns, done in minutes. "
            "stress: many users, 10 turns, long histories, memory for a part of them. "
            "guide: one user, 10 turns, as the Pensieve guide has it."
        ),
    ] = "fast"
    users: Annotated[
        int | None,
        Option(
            "--users",
            "--num-concurrent-users",
            help="Users, all at the same time; of several, HOT ones have three conversations, WARM ones two.",
        ),
    ] = None
    turns: Annotated[int | None, Option(help="Turns of each conversation.")] = None
    request_interval_s: Annotated[
        float | None,
        Option(
            "--request-interval",
            metavar="SECONDS",
            help="Mean pause of a WARM user between a reply and the next request, and before the first; "
            "0.3 times this for HOT users, 2.5 times for COLD ones. Each pause is drawn from an exponential "
            "distribution, the same in all modes.",
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Option(
            help="Length of every reply; without it MAX_NEW_TOKENS of the environment, else the preset's."
        ),
    ] = None
    history_tokens: Annotated[
        int | None, Option(help="Length of the text pasted into each first turn.")
    ] = None


def plan_users(options: UsersOptions) -> ComparePlan:
    """Return the plan. Raises UsageError for everything that cannot be done as asked."""
    check_users(options)
    check_run(options)
    spec = users_spec(options)
    counter = token_counter(options.model)  # first, since it refuses a model that there is not
    shares = PRESETS[options.preset].memory
    asked = MemoryAsked(options.gpu_cache_gb, options.cpu_cache_gb, shares)
    asked, memory_notes = carried(asked, options)
    limit, what = longest_sequence(options.model, asked.gpu_cache_gb, options.server_options)
    overhead = counter.message_overhead_tokens
    turn_tokens = INPUT_TOKENS + (spec.output_tokens or 0) + 2 * overhead
    spec, notes = fit_turns(spec, limit, what, turn_tokens, overhead)
    users = generate_users(spec, options.seed, counter.characters)
    # All first conversations, then all second ones: each waits for its user's one before.
    conversations = [
        user.conversations[which]
        for which in range(max(len(user.conversations) for user in users))
        for user in users
        if which < len(user.conversations)
    ]
    workload = Workload(
        conversations,
        concurrency=len(users),
        description={
            **asdict(spec),
            "preset": options.preset,
            "users": [_describe(user) for user in users],
        },
        shorten=SHORTEN,
        message_overhead_tokens=overhead,
        classes={
            conversation.session_id: user.user_class.name
            for user in users
            for conversation in user.conversations
        },
        longest_sequence=limit,
        notes=(*memory_notes, *notes),
    )
    return plan_run(options, choose_memory(asked, options, workload), workload)


def check_users(options: UsersOptions) -> None:
    """Refuse numbers out of range, so that nothing is generated from them. Raises UsageError."""
    check_choice("--preset", options.preset, PRESETS)
    check_count("--users", options.users, 1, MOST_USERS)
    check_count("--turns", options.turns, 1, MOST_TURNS)
    check_count("--max-new-tokens", options.max_new_tokens, 1, MOST_TOKENS)
    check_count("--history-tokens", options.history_tokens, 0, MOST_TOKENS)
    check_amount("--request-interval", options.request_interval_s, MOST_SECONDS)
    check_memory_and_runs(options, options.gpu_cache_gb, options.cpu_cache_gb)


def users_spec(options: UsersOptions) -> WorkloadSpec:
    """Return the conversations as asked for, whatever the model holds."""
    preset = PRESETS[options.preset]
    users = preset.users if options.users is None else options.users
    history = preset.history_tokens if options.history_tokens is None else options.history_tokens
    interval_s = options.request_interval_s
    return WorkloadSpec(
        name="users",
        sessions=users,
        turns=preset.turns if options.turns is None else options.turns,
        history_tokens=history,
        input_tokens=INPUT_TOKENS,
        output_tokens=reply_tokens(options.max_new_tokens, preset.max_new_tokens),
        think_time_s=preset.request_interval_s if interval_s is None else interval_s,
        concurrency=users,
    )


def _describe(user: User) -> dict[str, object]:
    turns = [turn for conversation in user.conversations for turn in conversation.turns]
    return {
        "sessions": [conversation.session_id for conversation in user.conversations],
        "class": user.user_class.name,
        "meaning": user.user_class.meaning,
        "pause_s": user.pause_s,
        "turns": len(turns),
        "input_tokens": sum(turn.input_tokens for turn in turns),
        "output_tokens": sum(turn.output_tokens for turn in turns),
    }
