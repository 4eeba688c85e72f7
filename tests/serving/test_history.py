"""Claims about the tokens that a conversation's next turn is sent as."""

import pytest

from vllm_pensieve.serving.history import History

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}<{{ m.role[0] }}>"
    "{{ m.content.split('!')[-1] if m.role == 'assistant' else m.content }}<e>{% endfor %}<a>"
)


def tokenizer(template: str | None):
    """Bytes, and one merge: `a` followed by `b` is one token. `<s>` begins every text with special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {letter: i for i, letter in enumerate(sorted(byte_level.alphabet()))}
    vocabulary |= {"ab": 256, "<s>": 257}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    inner.pre_tokenizer, inner.decoder = byte_level, decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 257)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    made.chat_template = template
    return made


def test_a_reply_is_sent_again_as_the_tokens_it_was_generated_as():
    tok = tokenizer(TEMPLATE)
    history = History(tok)
    first = history.ask("hello")
    as_generated = tok.encode("a", add_special_tokens=False) + tok.encode(
        "b", add_special_tokens=False
    )
    assert tok.encode("ab", add_special_tokens=False) != as_generated
    history.answered(first, "ab", as_generated)
    second = history.ask("more")
    behind = tok.encode("<e><u>more<e><a>", add_special_tokens=False)
    assert list(second.token_ids) == [*first.token_ids, *as_generated, *behind]
    assert second.new_tokens == len(behind)
    assert tok.decode(second.token_ids) == second.text == "<u>hello<e><a>ab<e><u>more<e><a>"


def test_asking_changes_nothing():
    history = History(tokenizer(TEMPLATE))
    history.answered(history.ask("one"), "x", [7])
    before = history.token_ids
    assert history.ask("two") == history.ask("two")
    assert (history.token_ids, history.turns) == (before, 1)


def test_a_template_that_changes_what_was_before_has_everything_tokenised_again():
    tok = tokenizer(FORGETFUL)
    history = History(tok)
    first = history.ask("hello")
    history.answered(first, "thinking!yes", tok.encode("thinking!yes", add_special_tokens=False))
    second = history.ask("more")
    assert second.text == "<u>hello<e><a>yes<e><u>more<e><a>"
    assert list(second.token_ids) == tok.encode(second.text, add_special_tokens=False)
    assert second.new_tokens == len(second.token_ids)


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_tokens_that_do_not_stand_for_the_reply_are_not_used_again(template):
    tok = tokenizer(template)
    history = History(tok)
    first = history.ask("hello")
    history.answered(first, "yes", [1, 2, 3], stands_for_reply=False)
    assert history.token_ids == [*first.token_ids, 1, 2, 3]
    second = history.ask("more")
    assert tok.decode(second.token_ids, skip_special_tokens=True) == second.text
    assert second.new_tokens == len(second.token_ids)


def test_without_a_template_the_conversation_is_a_transcript_behind_the_models_first_token():
    tok = tokenizer(None)
    history = History(tok)
    first = history.ask("hello")
    assert first.text == "User: hello\nAssistant:"
    assert first.token_ids[0] == 257
    reply_ids = tok.encode(" yes", add_special_tokens=False)
    history.answered(first, " yes", reply_ids)
    second = history.ask("more")
    assert second.text == "User: hello\nAssistant: yes\nUser: more\nAssistant:"
    assert list(second.token_ids[: -second.new_tokens]) == [*first.token_ids, *reply_ids]
