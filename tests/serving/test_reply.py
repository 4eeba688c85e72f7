"""Claims about a reply: it is its text, with what came of the turn."""

import pickle

from vllm_pensieve.serving import Reply


def reply(text: str, session_id: str = "alice") -> Reply:
    return Reply(
        text=text,
        session_id=session_id,
        turn=2,
        prompt_tokens=80,
        cached_tokens=64,
        output_tokens=5,
        ttft_s=0.25,
        e2e_s=0.5,
        finish_reason="length",
    )


def test_a_reply_behaves_as_its_text():
    said = reply("the river runs")
    assert said == "the river runs" and said == reply("the river runs", "bob")
    assert said != "the river" and {said} == {"the river runs"}
    assert said[:9] == "the river" and "river" in said and len(said) == 14
    assert f"{said:>15}" == " the river runs" and repr(said) == "'the river runs'"
    assert type(str(said)) is str and said.text == str(said)


def test_it_keeps_its_numbers_when_it_is_copied():
    copied = pickle.loads(pickle.dumps(reply("hello")))
    assert isinstance(copied, Reply) and copied == "hello"
    assert (copied.turn, copied.cached_tokens, copied.ttft_s) == (2, 64, 0.25)
