"""Clients: what they send, when, and what is said where their data is not available."""

import dataclasses
import io
import json
import statistics
import sys
from itertools import islice, pairwise, takewhile
from pathlib import Path

import pytest

from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads import sharegpt
from vllm_pensieve.workloads.clients import WORKLOADS, Clients
from vllm_pensieve.workloads.dialogues import Dialogue
from vllm_pensieve.workloads.events import ClientSpec, arrival_times, write_events
from vllm_pensieve.workloads.generated import INSTRUCTION_TOKENS
from vllm_pensieve.workloads.tokens import token_counter

SHARED = Path(__file__).parents[3] / "shared" / "data"
SPEC = ClientSpec(
    conversations=50, requests_per_s=2.0, think_time_s=3.0, max_prompt_tokens=4000, seed=1
)
TALK = Dialogue(None, (("one?", "first."), ("two?", "second."), ("three?", "third.")))
BYTES = token_counter("demo")


def common_prefix(texts: list[str]) -> str:
    pairs = zip(min(texts), max(texts), strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def clients(dataset: str | None = "generated", told: list[str] | None = None) -> Clients:
    return Clients(dataset, SPEC, BYTES, (told if told is not None else []).append)


def test_a_single_turn_request_is_the_first_message_alone():
    (event,) = sharegpt.single_turn_requests([TALK], SPEC, BYTES.count).events
    assert (event.prompt, event.reply) == ("one?", "first.")
    assert (event.conversation_id, event.turn_index, event.mode) == ("single-0", 0, "single")


def test_a_multi_turn_request_is_the_transcript_so_far():
    events = sharegpt.multi_turn_requests([TALK], SPEC, BYTES.count).events
    assert [event.prompt for event in events] == [
        "Human: one?\nAssistant:",
        "Human: one?\nAssistant: first.\nHuman: two?\nAssistant:",
        "Human: one?\nAssistant: first.\nHuman: two?\nAssistant: second.\nHuman: three?\nAssistant:",
    ]
    assert [event.turn_index for event in events] == [0, 1, 2]
    assert {(event.conversation_id, event.mode) for event in events} == {("multi-0", "multi")}


def test_a_system_text_stands_before_the_transcript():
    (event,) = sharegpt.multi_turn_requests(
        [Dialogue("Be brief.", (("one?", "first."),))], SPEC, BYTES.count
    ).events
    assert event.prompt == "Be brief.\nHuman: one?\nAssistant:"


def test_a_turn_whose_prompt_is_too_long_ends_its_conversation():
    long = Dialogue(None, (("one?", "first."), ("x" * 4000, "second."), ("three?", "third.")))
    multi = sharegpt.multi_turn_requests([long, TALK], SPEC, BYTES.count)
    assert sorted(event.turn_index for event in multi.events) == [0, 0, 1, 2]
    assert multi.too_long == 2
    single = sharegpt.single_turn_requests(
        [Dialogue(None, (("x" * 4001, "no."),)), TALK], SPEC, BYTES.count
    )
    assert [event.prompt for event in single.events] == ["one?"]
    assert single.too_long == 1


def test_arrivals_are_a_poisson_process_given_by_the_seed():
    times = list(islice(arrival_times(SPEC), 5000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.5, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.5, rel=0.05)  # exponential
    assert times[:9] == list(islice(arrival_times(SPEC), 9))


def test_turns_of_a_conversation_are_a_think_time_apart():
    talks = [TALK] * 1000
    spec = ClientSpec(1000, 2.0, 3.0, 4000, 1)
    events = sharegpt.multi_turn_requests(talks, spec, BYTES.count).events
    times = {(event.conversation_id, event.turn_index): event.time for event in events}
    pauses = [times[name, turn] - times[name, turn - 1] for name, turn in times if turn]
    assert statistics.fmean(pauses) == pytest.approx(3.0, rel=0.1)
    assert [event.time for event in events] == sorted(event.time for event in events)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_same_seed_gives_the_same_requests(workload):
    made = clients().requests(workload).events
    assert made == clients().requests(workload).events
    other = Clients("generated", ClientSpec(50, 2.0, 3.0, 4000, 2), BYTES, print)
    assert made[0].prompt != other.requests(workload).events[0].prompt
    assert max(BYTES.count(event.prompt) for event in made) <= SPEC.max_prompt_tokens


def test_questions_share_their_instruction():
    prompts = [event.prompt for event in clients().requests("qa").events]
    assert len(prompts) == 50
    assert len(common_prefix(prompts)) >= INSTRUCTION_TOKENS
    assert statistics.fmean(map(len, prompts)) < 1.5 * INSTRUCTION_TOKENS


def test_documents_share_only_a_line():
    prompts = [event.prompt for event in clients().requests("summarization").events]
    assert len(common_prefix(prompts)) < 32
    assert statistics.fmean(map(len, prompts)) > 1000


def test_generated_chats_have_several_turns():
    events = clients().requests("chat_multi").events
    assert len({event.conversation_id for event in events}) == 50
    assert len(events) > 100


def test_what_is_too_long_is_told():
    told: list[str] = []
    spec = ClientSpec(50, 2.0, 3.0, 1000, 1)
    Clients("generated", spec, BYTES, told.append).requests("summarization")
    assert "turns left out, because their prompts have more than 1000 tokens" in told[0]
    with pytest.raises(UsageError, match="no prompt of at most 64 tokens in the data"):
        Clients("generated", ClientSpec(5, 2.0, 3.0, 64, 1), BYTES, print).requests("qa")


def test_events_are_written_with_the_documented_fields():
    file = io.BytesIO()
    write_events(sharegpt.single_turn_requests([TALK], SPEC, BYTES.count).events, file)
    record = json.loads(file.getvalue())
    documented = {"time", "conversation_id", "turn_index", "mode", "prompt"}
    assert documented <= record.keys() <= documented | {"reply"}


def test_an_unreachable_hub_is_an_error_that_names_the_file_option(monkeypatch):
    """`datasets` itself, told to stay off the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UsageError, match=r"cannot be loaded from the Hugging Face hub: .*--dataset FILE"
    ):
        sharegpt.load_chats("nobody/has-this-data-set")


def test_without_the_package_for_the_hub_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'vllm-pensieve\[datasets\]'. Give a file"):
        sharegpt.load_chats(sharegpt.HUB_DATASET)


def test_unless_the_hub_was_asked_for_generated_conversations_take_its_place(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    told: list[str] = []
    made = clients(None, told).requests("chat_single")
    assert made == clients().requests("chat_single")
    assert told[0].endswith("Until then: generated conversations.")
    with pytest.raises(UsageError, match="needs the package `datasets`"):
        clients(sharegpt.HUB_DATASET).requests("chat_single")


def test_records_of_the_hub_become_conversations(tmp_path, monkeypatch):
    """The real loading code, on a folder that stands in for the hub's repository."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repository"
    folder.mkdir()
    messages = [{"from": "human", "value": "one?"}, {"from": "gpt", "value": "first."}]
    records = [{"id": "a", "conversations": messages}, {"id": "b", "conversations": []}]
    (folder / "train.json").write_text(json.dumps(records))
    assert sharegpt._load_from_hub(str(folder), strict=True).dialogues == [
        Dialogue(None, (("one?", "first."),)),
        Dialogue(None, ()),
    ]


@pytest.mark.parametrize("ending", [".json", ".parquet", ".json.zst", ".TXT"])
@pytest.mark.parametrize("folder", ["", "my/", "./", "/my/"])
def test_a_name_with_the_ending_of_a_file_is_a_missing_file(folder, ending):
    with pytest.raises(UsageError, match="No such file, and not the name of a data set"):
        sharegpt.load_chats(f"{folder}absent{ending}")


@pytest.mark.parametrize("name", ["squad", "./a", "../a/b", "/a/b", "a/b/c", "here/b"])
def test_a_name_that_cannot_be_on_the_hub_is_a_missing_file(name, tmp_path, monkeypatch):
    """`datasets` must not even be looked for."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="No such file, and not the name of a data set") as error:
        sharegpt.load_chats(name)
    assert str(error.value).startswith(f"{name}: ")


def test_recorded_pauses_are_kept_and_the_rest_is_drawn():
    talk = Dialogue(None, TALK.turns, (None, 60.0, None))
    spec = dataclasses.replace(SPEC, recorded_pauses=True)
    times = [e.time for e in sharegpt.multi_turn_requests([talk], spec, BYTES.count).events]
    drawn = [e.time for e in sharegpt.multi_turn_requests([talk], SPEC, BYTES.count).events]
    assert times[1] - times[0] == pytest.approx(60.0)
    assert drawn[1] - drawn[0] != pytest.approx(60.0)
    assert times[2] - times[1] == pytest.approx(drawn[2] - drawn[1])


def test_bad_records_are_told_of_once_and_recorded_pauses_that_are_not_there_refused(tmp_path):
    path = tmp_path / "chats.json"
    good = [{"from": "human", "value": "one?"}, {"from": "gpt", "value": "first."}]
    path.write_text(json.dumps([good, 5]))
    told: list[str] = []
    made = clients(str(path), told)
    assert made.requests("chat_multi").events[0].prompt == "Human: one?\nAssistant:"
    made.requests("chat_single")
    assert told == [
        f"{path}: 1 of 2 records skipped (50%: the rest may not represent the whole); "
        "the first: record 1: is not a list of messages but int"
    ]
    spec = dataclasses.replace(SPEC, recorded_pauses=True)
    with pytest.raises(UsageError, match="has no times between turns"):
        Clients(str(path), spec, BYTES, print).requests("chat_multi")
    with pytest.raises(UsageError, match="record 1: is not a list"):
        Clients(str(path), SPEC, BYTES, print, strict=True).requests("chat_multi")
    path.write_text(json.dumps([[{"from": "human", "value": " "}, {"from": "gpt", "value": "x"}]]))
    with pytest.raises(UsageError, match="none of its records has a user message with a reply"):
        Clients(str(path), SPEC, BYTES, print).requests("chat_multi")


def test_real_conversations_make_requests_of_both_modes():
    path = SHARED / "sharegpt" / "fastchat_dummy_conversation.json.gz"
    if not path.exists():
        pytest.skip(f"no {path}: the public data of ../shared is not part of the repository")
    single = clients(str(path)).requests("chat_single").events
    multi = clients(str(path)).requests("chat_multi").events
    assert len(single) == len({event.conversation_id for event in multi}) == 50
    last: dict[str, str] = {}
    for event in multi:
        assert event.prompt.startswith(
            last.get(event.conversation_id, "").removesuffix("Assistant:")
        )
        last[event.conversation_id] = event.prompt
