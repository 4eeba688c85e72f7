"""Dataset files: every form is understood, and what is wrong is named with file and record."""

import gzip
import json
from pathlib import Path

import pytest

from vllm_pensieve.workloads.dataset import DatasetLimits, Dialogue, load_dialogues, sample_dataset
from vllm_pensieve.workloads.errors import UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data"
SHAREGPT = [
    {"from": "gpt", "value": "left over from before"},
    {"from": "human", "value": "one"},
    {"from": "gpt", "value": "first reply"},
    {"from": "human", "value": "two"},
    {"from": "gpt", "value": "second"},
    {"from": "human", "value": "unanswered"},
]
TWO_TURNS = Dialogue(None, (("one", "first reply"), ("two", "second")))
NO_LIMITS = DatasetLimits(10, None, None, 0.0, 10_000, 0)


def write(folder: Path, content: object, name: str = "chats.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_sharegpt_records_become_turns(tmp_path):
    assert load_dialogues(write(tmp_path, [{"id": "a", "conversations": SHAREGPT}])) == [TWO_TURNS]


def test_gzip_and_json_lines_are_read_as_well(tmp_path):
    lines = "\n".join(json.dumps({"conversations": SHAREGPT}) for _ in range(2))
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    assert load_dialogues(path) == [TWO_TURNS, TWO_TURNS]


def test_tool_results_belong_to_the_next_question(tmp_path):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"role": "tool", "content": "rain"},
        {"role": "user", "content": [{"type": "text", "text": "so?"}]},
        {"role": "assistant", "content": "it rains"},
    ]
    (dialogue,) = load_dialogues(write(tmp_path, [{"traj": messages}]))
    assert dialogue.system == "be brief"
    assert dialogue.turns == (("weather?", '[{"name": "look"}]'), ("rain\nso?", "it rains"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the dataset is empty"),
        ("[]", "the dataset is empty"),
        ('[{"conversations": [', "malformed JSON at line 1"),
        ('{"messages": []}\n{"messages": ]', "malformed JSON at line 2"),
        ([{"messages": []}, {"text": 1}], "record 1 has none of conversations, messages, traj"),
        ([{"messages": "hello"}], "record 0 is not a list of messages but str"),
        ([5], "record 0 is not a list of messages but int"),
        ([[], ["x"]], "record 1, message 0 is not an object but str"),
        (
            [[{"from": "martian", "value": "x"}]],
            "record 0, message 0 has the unknown role 'martian'",
        ),
        ([[{"from": "human", "value": 4}]], "record 0, message 0 has no text: int"),
        ([[{"from": "human"}]], "record 0, message 0 has no text: NoneType"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_record(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as error:
        load_dialogues(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_dialogues(tmp_path / "absent.json")
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"[]" * 1000)[:-9])
    with pytest.raises(UsageError, match="cannot be read"):
        load_dialogues(broken)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"[\xff]")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_dialogues(binary)


def test_a_conversation_ends_where_the_context_would(tmp_path):
    path = write(tmp_path, [SHAREGPT, [{"role": "user", "content": "no reply"}]])
    limits = DatasetLimits(10, None, None, 0.0, 20, 1)
    sample = sample_dataset("file", load_dialogues(path), limits, 0, len)
    (conversation,) = sample.conversations
    assert [(turn.text, turn.output_tokens) for turn in conversation.turns] == [("one", 11)]
    assert (sample.records, sample.without_turns, sample.cut_turns) == (2, 1, 1)
    limits = DatasetLimits(10, None, None, 0.0, 5, 1)
    with pytest.raises(UsageError, match="file: none of its 2 records fits the context"):
        sample_dataset("file", load_dialogues(path), limits, 0, len)


def test_limits_on_sessions_turns_and_replies_hold(tmp_path):
    dialogues = load_dialogues(write(tmp_path, [SHAREGPT] * 5))
    sample = sample_dataset("file", dialogues, DatasetLimits(3, 1, 9, 1.0, 10_000, 0), 0, len)
    assert [len(conversation.turns) for conversation in sample.conversations] == [1, 1, 1]
    assert {turn.output_tokens for c in sample.conversations for turn in c.turns} == {9}
    assert len({conversation.session_id for conversation in sample.conversations}) == 3


def test_the_seed_decides_which_records_are_taken(tmp_path):
    chats = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]
        for i in range(50)
    ]
    dialogues = load_dialogues(write(tmp_path, chats))
    limits = DatasetLimits(5, None, None, 0.0, 10_000, 0)

    def taken(seed: int) -> list[str]:
        sample = sample_dataset("file", dialogues, limits, seed, len)
        return [conversation.turns[0].text for conversation in sample.conversations]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("sharegpt/fastchat_dummy_conversation.json.gz", 500),
        ("tau_bench/gpt-4o-airline.json.gz", 200),
        ("toolcall_demo/glaive_toolcall_en_demo.json.gz", 300),
        ("toolcall_demo/reason_tool_use_demo_50.jsonl.gz", 50),
    ],
)
def test_public_datasets_are_understood(name, records):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no public data at {path}")
    dialogues = load_dialogues(path)
    assert len(dialogues) == records
    assert all(dialogue.turns for dialogue in dialogues)
