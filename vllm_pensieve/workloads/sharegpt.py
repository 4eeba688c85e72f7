"""ShareGPT's clients: conversations from the Hugging Face hub or a file, as single-turn and multi-turn requests."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from vllm_pensieve.errors import UsageError, first_lines
from vllm_pensieve.workloads.conversations import draw_think_time
from vllm_pensieve.workloads.dataset import Dataset, load_dataset, read_dataset
from vllm_pensieve.workloads.dialogues import Dialogue
from vllm_pensieve.workloads.events import (
    MULTI,
    SINGLE,
    ClientRequests,
    ClientSpec,
    RequestEvent,
    TokenCount,
    arrival_times,
    in_order,
)

HUB_DATASET = "anon8231489123/ShareGPT_Vicuna_unfiltered"
HUB_FILES = {HUB_DATASET: "ShareGPT_V3_unfiltered_cleaned_split.json"}
"""Of data sets that hold several versions of themselves, the one that is read."""
SHORT_NAMES = {"sharegpt": HUB_DATASET, "sharegt": HUB_DATASET}

FILE_ENDINGS = (
    ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".txt",
    ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar",
)  # fmt: skip
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

HINT = (
    "Give a file of conversations instead (--dataset FILE, JSON or JSON lines), or generated ones "
    "(--dataset generated)"
)


def load_chats(dataset: str, strict: bool = False) -> Dataset:
    """The conversations of a file, or of a data set on the Hugging Face hub; `sharegpt` is `HUB_DATASET`.

    Bad records are skipped, or with `strict` refused.

    Raises:
        UsageError: there is no such file or data set, the hub cannot be reached, or it holds nothing usable.
    """
    if dataset in SHORT_NAMES:
        return _load_from_hub(SHORT_NAMES[dataset], strict)
    path = Path(dataset)
    if path.exists():
        return load_dataset(path, strict)
    if not _may_be_on_the_hub(dataset):
        raise UsageError(
            f"{dataset}: cannot be read: No such file, and not the name of a data set "
            "on the Hugging Face hub (OWNER/NAME)"
        )
    return _load_from_hub(dataset, strict)


def _may_be_on_the_hub(dataset: str) -> bool:
    """Whether this is OWNER/NAME: without the ending of a file's name, and not in a folder that is here."""
    owner = dataset.partition("/")[0]
    return (
        HUB_NAME.fullmatch(dataset) is not None
        and not dataset.lower().endswith(FILE_ENDINGS)
        and not owner.startswith(".")
        and not Path(owner).is_dir()
    )


def _load_from_hub(dataset: str, strict: bool) -> Dataset:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{dataset!r} is not a file here; as a data set on the Hugging Face hub it needs the package `datasets`: "
            f"pip install 'vllm-pensieve[datasets]'. {HINT}."
        ) from error
    try:
        records = datasets.load_dataset(dataset, data_files=HUB_FILES.get(dataset), split="train")
    except Exception as error:  # of the network, the hub, or the data set's own form
        raise UsageError(
            f"data set {dataset!r} cannot be loaded from the Hugging Face hub: {first_lines(error)}. {HINT}."
        ) from error
    numbered = ((f"record {number}", record) for number, record in enumerate(records))
    return read_dataset(dataset, numbered, strict)


def single_turn_requests(
    dialogues: Sequence[Dialogue], spec: ClientSpec, count: TokenCount
) -> ClientRequests:
    """Each conversation's first human message, alone."""
    events: list[RequestEvent] = []
    too_long = 0
    times = arrival_times(spec)
    for dialogue in _shuffled(dialogues, spec):
        if len(events) == spec.conversations:
            break
        message, reply = dialogue.turns[0]
        if count(message) > spec.max_prompt_tokens:
            too_long += 1
            continue
        name = f"single-{len(events)}"
        events.append(RequestEvent(next(times), name, 0, SINGLE, message, reply))
    return ClientRequests(in_order(events), too_long)


def multi_turn_requests(
    dialogues: Sequence[Dialogue], spec: ClientSpec, count: TokenCount
) -> ClientRequests:
    """Every turn of each conversation, its prompt the transcript so far, with the recorded replies."""
    events: list[RequestEvent] = []
    too_long = 0
    for number, (dialogue, time_s) in enumerate(
        islice(
            zip(_shuffled(dialogues, spec), arrival_times(spec), strict=False), spec.conversations
        )
    ):
        rng = random.Random(f"{spec.seed}/think/{number}")
        transcript = f"{dialogue.system}\n" if dialogue.system else ""
        for turn, (message, reply) in enumerate(dialogue.turns):
            prompt = f"{transcript}Human: {message}\nAssistant:"
            if count(prompt) > spec.max_prompt_tokens:
                too_long += len(dialogue.turns) - turn
                break
            events.append(RequestEvent(time_s, f"multi-{number}", turn, MULTI, prompt, reply))
            transcript = f"{prompt} {reply}\n"
            time_s += _pause_s(dialogue, turn + 1, spec, rng)
    return ClientRequests(in_order(events), too_long)


def _pause_s(dialogue: Dialogue, turn: int, spec: ClientSpec, rng: random.Random) -> float:
    """Seconds before this turn (from 0): the recorded ones if they are asked for and known, else drawn."""
    drawn_s = draw_think_time(rng, spec.think_time_s)
    if not spec.recorded_pauses or turn >= len(dialogue.pauses_s):
        return drawn_s
    recorded_s = dialogue.pauses_s[turn]
    return drawn_s if recorded_s is None else recorded_s


def _shuffled(dialogues: Sequence[Dialogue], spec: ClientSpec) -> list[Dialogue]:
    usable = [dialogue for dialogue in dialogues if dialogue.turns]
    random.Random(f"{spec.seed}/order").shuffle(usable)
    return usable
