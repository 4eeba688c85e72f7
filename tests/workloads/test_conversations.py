"""Generated conversations: the same for a seed, of the asked-for size, with the published means."""

import random
import statistics

import pytest

from vllm_pensieve.workloads.conversations import (
    MAX_DRAWN_TURNS,
    PRESETS,
    SHAREGPT_OUTPUT_TOKENS,
    SHAREGPT_TURNS,
    draw_length,
    draw_think_time,
    draw_turns,
    generate_conversations,
)
from vllm_pensieve.workloads.text import write_text


def generate(name: str, seed: int = 7):
    return generate_conversations(PRESETS[name], seed, lambda tokens: tokens)


def test_a_seed_gives_the_same_conversations_again():
    assert generate("demo") == generate("demo")
    assert generate("demo") != generate("demo", seed=8)


def test_no_two_sessions_start_with_the_same_text():
    starts = {conversation.turns[0].text[:64] for conversation in generate("demo")}
    assert len(starts) == PRESETS["demo"].sessions


def test_the_first_turn_carries_the_history():
    spec = PRESETS["demo"]
    for conversation in generate("demo"):
        assert [turn.output_tokens for turn in conversation.turns] == [
            spec.output_tokens
        ] * spec.turns
        first, *rest = conversation.turns
        assert first.input_tokens == spec.history_tokens + spec.input_tokens
        assert len(first.text) == first.input_tokens + 1  # the newline between them
        assert all(len(turn.text) == spec.input_tokens for turn in rest)


def test_the_demonstration_has_turns_from_the_fifth_on():
    assert all(len(conversation.turns) >= 6 for conversation in generate("demo"))


def test_context_counts_every_message_and_its_overhead():
    conversation = generate("documents")[0]
    text = sum(turn.input_tokens + turn.output_tokens for turn in conversation.turns)
    assert conversation.context_tokens(16) == text + 16 * (2 * len(conversation.turns) + 1)


def test_drawn_lengths_have_the_published_means():
    rng = random.Random(1)
    turns = [draw_turns(rng) for _ in range(20_000)]
    lengths = [draw_length(rng, SHAREGPT_OUTPUT_TOKENS) for _ in range(20_000)]
    think = [draw_think_time(rng, 2.0) for _ in range(20_000)]
    assert statistics.fmean(turns) == pytest.approx(SHAREGPT_TURNS, rel=0.03)
    assert min(turns) == 1
    assert max(turns) <= MAX_DRAWN_TURNS
    assert statistics.fmean(lengths) == pytest.approx(SHAREGPT_OUTPUT_TOKENS, rel=0.03)
    assert statistics.fmean(think) == pytest.approx(2.0, rel=0.03)
    assert draw_think_time(rng, 0.0) == 0.0


@pytest.mark.parametrize("characters", [1, 2, 37, 1000])
def test_text_has_exactly_the_length_asked_for(characters):
    for seed in range(200):
        text = write_text(random.Random(seed), characters)
        assert len(text) == characters, seed
        assert text.isascii()
        assert text == text.strip()


def test_what_a_chat_template_adds_to_a_message_is_counted(tmp_path):
    from vllm_pensieve.testing.models import save_tokenizer
    from vllm_pensieve.workloads.tokens import MESSAGE_OVERHEAD_TOKENS, token_counter

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_tokenizer(tmp_path)
    for length, expected in ((0, MESSAGE_OVERHEAD_TOKENS), (50, 51)):
        template = "{% for m in messages %}" + "x" * length + "{{ m['content'] }}{% endfor %}"
        (tmp_path / "chat_template.jinja").write_text(template)
        assert token_counter(str(tmp_path)).message_overhead_tokens == expected
    (tmp_path / "chat_template.jinja").unlink()
    assert token_counter(str(tmp_path)).message_overhead_tokens == MESSAGE_OVERHEAD_TOKENS
