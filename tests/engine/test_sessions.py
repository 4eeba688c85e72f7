"""Session ids through the engine's own interface."""

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def served(serve):
    return serve()


def test_turns_with_one_session_id_are_one_session(served):
    from vllm_pensieve.testing.served import tokens

    table = served.scheduler.sessions
    before = len(table)
    for turn in range(3):
        served.add(tokens(70 + 40 * turn), session_id="a conversation")
        served.step()
        (session,) = {
            table.session_of(request_id).session_id: None
            for request_id in served.scheduler.requests
        }
        assert session == "a conversation"
        assert [table.session_of(r).turns for r in served.scheduler.requests] == [turn + 1]
        served.drain()
    assert len(table) == before + 1
    table.check_integrity()


def test_a_session_without_an_id_is_recognised_by_its_prompt(served):
    from vllm_pensieve.testing.served import token_ids, tokens

    table = served.scheduler.sessions
    history = tokens(100, seed=1)
    before = len(table)
    for turn in range(3):
        (output,) = served.serve([history])
        history += token_ids(output) + tokens(30, seed=2 + turn)
    assert len(table) == before + 1
    served.serve([tokens(100, seed=9)])
    assert len(table) == before + 2


def test_a_session_id_opens_nobody_else_s_blocks(served, assert_equal):
    from vllm_pensieve.testing.served import tokens

    mine, other = tokens(200, seed=20), tokens(200, seed=21)
    served.serve([mine])
    for prompt in (mine, other):
        name = served.add(prompt, session_id="mine")
        output = served.drain()[name]
        assert_equal(output, prompt)
        assert output.num_cached_tokens == (192 if prompt is mine else 0)


def test_an_aborted_turn_is_over_for_its_session(served):
    from vllm_pensieve.testing.served import tokens

    table = served.scheduler.sessions
    name = served.add(tokens(300, seed=30), session_id="aborted")
    served.step()
    (request_id,) = served.scheduler.requests
    assert table.session_of(request_id).session_id == "aborted"
    served.engine.abort_request([name])
    served.drain()
    assert table.session_of(request_id) is None
    table.check_integrity()
