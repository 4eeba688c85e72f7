"""Dataset files: bad records are skipped and named, the rest is sampled within limits."""

import gzip
import json
from pathlib import Path

import pytest

from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads.dataset import (
    Dataset,
    DatasetLimits,
    load_dataset,
    sample_dataset,
    skipped_remark,
)
from vllm_pensieve.workloads.dialogues import Dialogue

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


def read(path: Path) -> list[Dialogue]:
    """Every record, none of which is bad."""
    return list(load_dataset(path, strict=True).dialogues)


def test_sharegpt_records_become_turns(tmp_path):
    assert read(write(tmp_path, [{"id": "a", "conversations": SHAREGPT}])) == [TWO_TURNS]


def test_gzip_and_json_lines_are_read_as_well(tmp_path):
    lines = "\n".join(json.dumps({"conversations": SHAREGPT}) for _ in range(2))
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    assert read(path) == [TWO_TURNS, TWO_TURNS]


def test_tool_results_belong_to_the_next_question(tmp_path):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"role": "tool", "content": "rain"},
        {"role": "user", "content": [{"type": "text", "text": "so?"}]},
        {"role": "assistant", "content": "it rains"},
    ]
    (dialogue,) = read(write(tmp_path, [{"traj": messages}]))
    assert dialogue.system == "be brief"
    assert dialogue.turns == (("weather?", '[{"name": "look"}]'), ("rain\nso?", "it rains"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the dataset is empty"),
        ("[]", "the dataset is empty"),
        ('[{"conversations": [', "malformed JSON at line 1"),
        ("[" * 100_000, "cannot be read"),
        ('{"messages": ]', "line 1: malformed JSON"),
        ("5", "record 0: is not a list of messages but int"),
    ],
)
def test_a_file_without_a_usable_record_is_named_with_what_is_wrong(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as error:
        load_dataset(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


GOOD = {"conversations": SHAREGPT}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"text": 1},
            "has none of conversations, conversation, messages, traj, items, data; it has text",
        ),
        ({"messages": "hello"}, "is not a list of messages but str"),
        ({"conversations": None}, "is not a list of messages but NoneType"),
        (5, "is not a list of messages but int"),
        (None, "is not a list of messages but NoneType"),
        (["x"], "message 0 is not an object but str"),
        ({"conversations": [SHAREGPT]}, "message 0 is not an object but list"),
        ([{"from": "martian", "value": "x"}], "message 0 has the unknown role 'martian'"),
        ([{"value": "x"}], "message 0 has the unknown role None"),
        ([{"from": "human", "value": 4}], "message 0 has no text: int instead of a string"),
        ([{"from": "human"}], "message 0 has no text: NoneType instead of a string"),
        ([{"from": "gpt", "value": None}], "message 0 has no text: NoneType instead of a string"),
        ({"data": ["why?", {"because": 1}]}, "message 0 is not an object but str"),
    ],
)
def test_a_bad_record_is_skipped_and_named_and_only_strict_reading_stops_at_it(tmp_path, bad, said):
    path = write(tmp_path, [GOOD, bad, GOOD])
    dataset = load_dataset(path)
    assert dataset.dialogues == [TWO_TURNS, TWO_TURNS]
    (skipped,) = dataset.skipped
    assert skipped.startswith(f"record 1: {said}")
    assert dataset.records == 3
    with pytest.raises(UsageError) as error:
        load_dataset(path, strict=True)
    assert f"{path}: record 1: {said}" in str(error.value)


def test_a_line_that_is_not_json_is_skipped_and_named(tmp_path):
    path = tmp_path / "chats.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, b'{"messages": ]', b"{\xff}", b"", good]))
    dataset = load_dataset(path)
    assert dataset.dialogues == [TWO_TURNS, TWO_TURNS]
    assert [text.split(":")[:2] for text in dataset.skipped] == [
        ["line 2", " malformed JSON"],
        ["line 3", " not UTF-8 text"],
    ]


def test_a_line_may_be_a_list_and_hold_what_other_tools_take_for_the_end_of_a_line(tmp_path):
    messages = [{"from": "human", "value": "a\u2028b"}, {"from": "gpt", "value": "c"}]
    line = json.dumps(messages, ensure_ascii=False)
    path = tmp_path / "chats.jsonl"
    path.write_text(f"{line}\n{line}\n", encoding="utf-8")
    assert read(path) == [Dialogue(None, (("a\u2028b", "c"),))] * 2


def test_how_much_was_skipped_is_said_the_louder_the_more_it_is():
    assert skipped_remark("chats.json", 0, 9, None) is None
    few = skipped_remark("chats.json", 1, 1000, "record 7: is no list")
    assert few == "chats.json: 1 of 1,000 records skipped; the first: record 7: is no list"
    many = skipped_remark("chats.json", 11, 1000, "record 7: is no list")
    assert "11 of 1,000 records skipped (1%: the rest may not represent the whole)" in many


def test_skipped_records_are_told_of_in_the_sample():
    dataset = Dataset("file", [TWO_TURNS], ("record 1: x", "record 2: y"))
    sample = sample_dataset(dataset, NO_LIMITS, 0, len)
    assert (sample.records, sample.without_turns, sample.skipped) == (3, 0, dataset.skipped)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_dataset(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="is a folder; name a file in it"):
        load_dataset(tmp_path)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"[]" * 1000)[:-9])
    with pytest.raises(UsageError, match="cannot be read"):
        load_dataset(broken)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"[\xff]")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_dataset(binary)
    for name, magic, package in (
        ("a.zst", b"\x28\xb5\x2f\xfd", "zstandard"),
        ("a", b"PAR1", "pyarrow"),
    ):
        packed = tmp_path / name
        packed.write_bytes(magic + bytes(40))
        with pytest.raises(UsageError, match=f"package `{package}`|cannot be read"):
            load_dataset(packed)


def test_zstandard_is_read_where_its_package_is(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "chats.json.zst"
    line = json.dumps(GOOD).encode() + b"\n"
    frame = zstandard.ZstdCompressor().compress(line)
    path.write_bytes(frame * 2)
    assert read(path) == [TWO_TURNS, TWO_TURNS]
    path.write_bytes(frame[:-3])
    with pytest.raises(UsageError, match="ends too early"):
        load_dataset(path)


def test_parquet_is_read_where_its_package_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([GOOD, GOOD]), tmp_path / "chats.parquet")
    assert read(tmp_path / "chats.parquet") == [TWO_TURNS, TWO_TURNS]


def test_a_conversation_ends_where_the_context_would(tmp_path):
    path = write(tmp_path, [SHAREGPT, [{"role": "user", "content": "no reply"}]])
    limits = DatasetLimits(10, None, None, 0.0, 20, 1)
    sample = sample_dataset(Dataset("file", read(path)), limits, 0, len)
    (conversation,) = sample.conversations
    assert [(turn.text, turn.output_tokens) for turn in conversation.turns] == [("one", 11)]
    assert (sample.records, sample.without_turns, sample.cut_turns) == (2, 1, 1)
    limits = DatasetLimits(10, None, None, 0.0, 5, 1)
    with pytest.raises(UsageError, match="file: none of its 2 records fits the context"):
        sample_dataset(Dataset("file", read(path)), limits, 0, len)


def test_limits_on_sessions_turns_and_replies_hold(tmp_path):
    dialogues = read(write(tmp_path, [SHAREGPT] * 5))
    sample = sample_dataset(
        Dataset("file", dialogues), DatasetLimits(3, 1, 9, 1.0, 10_000, 0), 0, len
    )
    assert [len(conversation.turns) for conversation in sample.conversations] == [1, 1, 1]
    assert {turn.output_tokens for c in sample.conversations for turn in c.turns} == {9}
    assert len({conversation.session_id for conversation in sample.conversations}) == 3


def test_the_seed_decides_which_records_are_taken(tmp_path):
    chats = [
        [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]
        for i in range(50)
    ]
    dialogues = read(write(tmp_path, chats))
    limits = DatasetLimits(5, None, None, 0.0, 10_000, 0)

    def taken(seed: int) -> list[str]:
        sample = sample_dataset(Dataset("file", dialogues), limits, seed, len)
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
        pytest.skip(f"no {path}: the public data of ../shared is not part of the repository")
    dialogues = read(path)
    assert len(dialogues) == records
    assert all(dialogue.turns for dialogue in dialogues)
