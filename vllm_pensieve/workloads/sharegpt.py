"""ShareGPT's clients: conversations from the Hugging Face hub or a file, as single-turn and multi-turn requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from vllm_pensieve.workloads.conversations import draw_think_time
from vllm_pensieve.workloads.dataset import Dialogue, load_dialogues, read_dialogues
from vllm_pensieve.workloads.errors import UsageError
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

HINT = (
    "Give a file in ShareGPT form instead (--dataset FILE, JSON or JSON lines), or generated conversations "
    "(--dataset generated)"
)


def load_chats(dataset: str) -> list[Dialogue]:
    """The conversations of a file, or of a data set on the Hugging Face hub; `sharegpt` is `HUB_DATASET`.

    Raises:
        UsageError: there is no such file or data set, the hub cannot be reached, or what it holds is malformed.
    """
    if dataset in SHORT_NAMES:
        return _load_from_hub(SHORT_NAMES[dataset])
    path = Path(dataset)
    if path.exists() or path.suffix in (".json", ".jsonl", ".gz") or path.is_absolute():
        return load_dialogues(path)
    return _load_from_hub(dataset)


def _load_from_hub(dataset: str) -> list[Dialogue]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError(
            f"data set {dataset!r} is on the Hugging Face hub, which needs the package `datasets`: "
            f"pip install 'vllm-pensieve[datasets]'. {HINT}."
        ) from error
    try:
        records = load_dataset(dataset, data_files=HUB_FILES.get(dataset), split="train")
    except Exception as error:  # of the network, the hub, or the data set's own form
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"data set {dataset!r} cannot be had from the Hugging Face hub: {said[0]}. {HINT}."
        ) from error
    return read_dialogues(dataset, records)


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
            time_s += draw_think_time(rng, spec.think_time_s)
    return ClientRequests(in_order(events), too_long)


def _shuffled(dialogues: Sequence[Dialogue], spec: ClientSpec) -> list[Dialogue]:
    usable = [dialogue for dialogue in dialogues if dialogue.turns]
    random.Random(f"{spec.seed}/order").shuffle(usable)
    return usable
