"""The demo model: made once, whole, and its replies survive the way back through the tokenizer."""

import hashlib
import threading

import pytest

from vllm_pensieve import demo_model
from vllm_pensieve.config import temporary_folder
from vllm_pensieve.errors import UsageError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield demo_model.ensure_demo_model()


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def prompt(tokenizer, messages: list[dict[str, str]]) -> list[int]:
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    return list(encoded["input_ids"])


def generate(model, ids: list[int], **options) -> list[int]:
    import torch

    tokens = torch.tensor([ids])
    out = model.generate(tokens, pad_token_id=258, eos_token_id=None, **options)
    return out[0, len(ids) :].tolist()


def test_a_name_other_than_demo_is_left_alone():
    assert demo_model.resolve_model("org/model") == "org/model"


def test_it_has_about_25_million_parameters(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        25e6, rel=0.05
    )


def test_one_byte_is_one_token(tokenizer):
    text = "Grüße, 世界!\n<tag> \x00"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_history_tokenises_to_what_was_generated(model, tokenizer):
    messages = [{"role": "user", "content": "Which way to the harbour?"}]
    for _ in range(3):
        ids = prompt(tokenizer, messages)
        reply = generate(model, ids, max_new_tokens=24, do_sample=False)
        text = tokenizer.decode(reply, skip_special_tokens=True)
        assert len(text) == 24
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": "And then?"},
        ]
        assert prompt(tokenizer, messages)[: len(ids) + 24] == ids + reply


def test_only_safe_characters_are_generated_at_any_temperature(model, tokenizer):
    import torch

    torch.manual_seed(0)
    ids = prompt(tokenizer, [{"role": "user", "content": "Say anything."}])
    reply = generate(model, ids, max_new_tokens=200, do_sample=True, temperature=5.0, top_k=0)
    assert set(tokenizer.decode(reply)) <= set(demo_model.GENERATED_TEXT)
    assert len(set(reply)) > 10


def test_what_was_said_earlier_changes_the_reply(model, tokenizer):
    replies = set()
    for name in ("river", "stone", "house"):
        ids = prompt(
            tokenizer,
            [{"role": "user", "content": f"The {name} is near. Tell me more about it, please."}],
        )
        replies.add(tuple(generate(model, ids, max_new_tokens=24, do_sample=False)))
    assert len(replies) == 3


def digest(folder) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_it_is_made_once_and_the_same_again(folder, tmp_path, monkeypatch):
    weights = folder / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert demo_model.ensure_demo_model() == folder
    assert weights.stat().st_mtime_ns == written
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert digest(demo_model.ensure_demo_model()) == digest(folder)


def test_two_makers_at_once_leave_one_whole_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = []
    makers = [
        threading.Thread(target=lambda: paths.append(demo_model.ensure_demo_model()))
        for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(set(paths)) == 1
    assert [path.name for path in paths[0].parent.iterdir()] == [paths[0].name]


def test_a_failure_while_making_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail() -> None:
        raise OSError("disk full")

    monkeypatch.setattr(demo_model, "_weights", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(UsageError, match="cannot be written: disk full; disk full"):
        demo_model.ensure_demo_model()
    assert list(demo_model.cache_folder().iterdir()) == []
    assert list(temporary_folder().iterdir()) == []
