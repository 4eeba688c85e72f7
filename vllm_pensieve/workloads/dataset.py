"""Conversations of a data set: its records read one by one, bad ones skipped, and a sample drawn of the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads.conversations import Conversation, Turn, draw_think_time
from vllm_pensieve.workloads.dataset_files import Records, read_records
from vllm_pensieve.workloads.dialogues import BadRecord, Dialogue, read_dialogue

MANY_SKIPPED = 0.01
"""From this share of bad records on, the rest may not represent the whole."""


@dataclass(frozen=True)
class Dataset:
    """The dialogues of a data set, and what is wrong with each record that was skipped."""

    source: str
    dialogues: Sequence[Dialogue]
    skipped: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """Records that were read, the skipped ones among them."""
        return len(self.dialogues) + len(self.skipped)


@dataclass(frozen=True)
class DatasetLimits:
    """How much of a dataset is used. None: no limit of that kind."""

    sessions: int
    turns: int | None
    output_tokens: int | None
    think_time_s: float
    max_context_tokens: int
    message_overhead_tokens: int
    min_turns: int = 1
    """Conversations with fewer turns, or room for fewer, are left out."""
    max_output_tokens: int | None = None
    """Longer replies are cut to this length."""


@dataclass(frozen=True)
class DatasetSample:
    """The conversations taken from a dataset, and what was left out of them."""

    conversations: list[Conversation]
    records: int
    without_turns: int
    """Records that hold no user message followed by a reply."""
    too_few_turns: int
    """Records with turns, but fewer than asked for."""
    cut_turns: int
    """Turns left out because the conversation would outgrow the context."""
    skipped: tuple[str, ...] = ()
    """What is wrong with each record that could not be read."""


def load_dataset(path: Path, strict: bool = False) -> Dataset:
    """Return the dialogues of a file; see `read_dataset`."""
    return read_dataset(str(path), read_records(path), strict)


def read_dataset(source: str, records: Records, strict: bool = False) -> Dataset:
    """Return one dialogue per usable record; `source` says where they are from.

    Raises UsageError if no record is usable; with `strict` also at the first one that is not.
    """
    dialogues: list[Dialogue] = []
    skipped: list[str] = []
    for where, record in records:
        try:
            if isinstance(record, BadRecord):
                raise record
            dialogues.append(read_dialogue(record))
        except BadRecord as error:
            skipped.append(f"{where}: {error}")
            if strict:
                raise UsageError(
                    f"{source}: {skipped[0]} (without --strict it is skipped)"
                ) from error
    if not dialogues:
        if skipped:
            raise UsageError(
                f"{source}: no usable record in it, {counted(len(skipped), 'bad one')}; {skipped[0]}"
            )
        raise UsageError(f"{source}: the dataset is empty")
    return Dataset(source, dialogues, tuple(skipped))


def skipped_remark(source: str, skipped: int, records: int, first: str | None) -> str | None:
    """Say how many records were skipped and what was wrong with the first; None if none was."""
    if not skipped:
        return None
    share = skipped / records
    loud = f" ({share:.0%}: the rest may not represent the whole)" if share > MANY_SKIPPED else ""
    return (
        f"{source}: {skipped:,} of {counted(records, 'record')} skipped{loud}; the first: {first}"
    )


def counted(number: int, noun: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sample_dataset(
    dataset: Dataset, limits: DatasetLimits, seed: int, count: Callable[[str], int]
) -> DatasetSample:
    """Draw conversations in an order given by the seed; `count` counts the tokens of a text.

    Raises UsageError if none can be used.
    """
    spoken = [dialogue for dialogue in dataset.dialogues if dialogue.turns]
    usable = [dialogue for dialogue in spoken if len(dialogue.turns) >= limits.min_turns]
    random.Random(f"{seed}/order").shuffle(usable)
    conversations: list[Conversation] = []
    cut_turns = 0
    for dialogue in usable:
        if len(conversations) == limits.sessions:
            break
        wanted = (
            len(dialogue.turns) if limits.turns is None else min(limits.turns, len(dialogue.turns))
        )
        conversation = _conversation(
            dialogue, limits, f"session-{seed}-{len(conversations)}", count
        )
        if len(conversation.turns) >= limits.min_turns:
            conversations.append(conversation)
            cut_turns += wanted - len(conversation.turns)
    if not conversations:
        why = _why_none(dataset.records, spoken, usable, limits)
        raise UsageError(f"{dataset.source}: {why}")
    return DatasetSample(
        conversations,
        dataset.records,
        len(dataset.dialogues) - len(spoken),
        len(spoken) - len(usable),
        cut_turns,
        dataset.skipped,
    )


def _why_none(
    records: int, spoken: Sequence[Dialogue], usable: Sequence[Dialogue], limits: DatasetLimits
) -> str:
    none = f"none of its {records} records"
    if not spoken:
        return f"{none} has a user message with a reply"
    turns = f"{limits.min_turns} turns" if limits.min_turns > 1 else "a turn"
    if not usable:
        longest = max(len(dialogue.turns) for dialogue in spoken)
        return f"{none} has {turns}; the longest has {longest}"
    room = f"({limits.max_context_tokens} tokens at most)"
    if limits.min_turns > 1:
        return f"{none} has {turns} that fit the context {room}"
    return f"{none} fits the context {room}"


def _conversation(
    dialogue: Dialogue, limits: DatasetLimits, session_id: str, count: Callable[[str], int]
) -> Conversation:
    """As many turns of the dialogue as the limits leave room for; maybe none."""
    rng = random.Random(session_id)
    system_tokens = count(dialogue.system) if dialogue.system else 0
    conversation = Conversation(session_id, (), dialogue.system, system_tokens)
    for text, reply in dialogue.turns[: limits.turns]:
        output_tokens = limits.output_tokens or max(1, count(reply))
        if limits.max_output_tokens is not None:
            output_tokens = min(output_tokens, limits.max_output_tokens)
        turn = Turn(text, count(text), output_tokens, draw_think_time(rng, limits.think_time_s))
        longer = Conversation(
            session_id, (*conversation.turns, turn), dialogue.system, system_tokens
        )
        if longer.context_tokens(limits.message_overhead_tokens) > limits.max_context_tokens:
            break
        conversation = longer
    return conversation
