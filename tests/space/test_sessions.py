"""The session table: named and inferred sessions, and its bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_pensieve.space.sessions import MAX_PARENTS, MAX_TAILS, SessionTable


def test_a_named_session_counts_its_turns_and_its_last_activity():
    table = SessionTable(10)
    table.begin("r1", "alice", ["a"], 1.0)
    table.end("r1", ["a", "b"], 2.0)
    session = table.begin("r2", "alice", ["a", "b", "c"], 5.0).session
    assert (session.session_id, session.turns, session.last_active_s) == ("alice", 2, 5.0)


def test_an_unnamed_prompt_that_goes_on_where_a_session_ended_belongs_to_it():
    table = SessionTable(10)
    first = table.begin("r1", None, ["a"], 0.0).session
    table.end("r1", ["a", "b"], 1.0)
    assert table.begin("r2", None, ["a", "b", "c"], 2.0).session is first
    assert table.begin("r3", None, ["x"], 2.0).session is not first


def test_the_deepest_known_end_decides_between_sessions_that_share_a_beginning():
    table = SessionTable(10)
    table.begin("r1", "short", ["a"], 0.0)
    table.end("r1", ["a"], 0.0)
    table.begin("r2", "long", ["a", "b"], 0.0)
    table.end("r2", ["a", "b"], 0.0)
    assert table.begin("r3", None, ["a", "b", "c"], 1.0).session.session_id == "long"


def test_the_longest_inactive_session_is_forgotten_and_its_running_request_ends_quietly():
    table = SessionTable(2)
    for i, name in enumerate(("old", "b", "c")):
        table.begin(name, name, [name], float(i))
    assert len(table) == 2
    assert table.end("old", ["old"], 9.0) is None
    table.check_integrity()


def test_a_request_that_was_never_begun_ends_without_effect():
    table = SessionTable(2)
    assert table.end("unknown", ["a"], 1.0) is None
    table.check_integrity()


@pytest.mark.parametrize("name", ["alice", None])
def test_the_choices_of_one_request_are_one_turn(name):
    table = SessionTable(10)
    first = [table.begin(f"{i}_p", name, ["a"], 0.0, parent="p") for i in range(3)]
    other = table.begin("q", first[0].session.session_id, ["a"], 0.0)
    late = table.begin("3_p", name, ["a"], 0.0, parent="p")
    assert len({turn.session.session_id for turn in (*first, other, late)}) == 1
    assert [turn.number for turn in (*first, other, late)] == [1, 1, 1, 2, 1]
    assert [turn.choice for turn in (*first, other, late)] == [0, 1, 2, 0, 3]
    assert [turn.parent for turn in (*first, other, late)] == ["p", "p", "p", None, "p"]


def test_whichever_choice_a_client_goes_on_with_its_session_is_recognised():
    table = SessionTable(10)
    for i in range(3):
        session = table.begin(f"{i}_p", None, ["a"], 0.0, parent="p").session
    for i in range(3):
        table.end(f"{i}_p", ["a", f"reply {i}"], 1.0)
    for i in range(3):
        turn = table.begin(f"r{i}", None, ["a", f"reply {i}", "more"], 2.0)
        assert turn.session is session and turn.number == 2 + i
    table.check_integrity()


def test_requests_of_many_choices_are_remembered_within_bounds():
    table = SessionTable(3)
    for i in range(MAX_PARENTS + 5):
        table.begin(f"0_p{i}", None, [], 0.0, parent=f"p{i}")
        table.end(f"0_p{i}", [i], 0.0)
    for i in range(5 * MAX_TAILS):
        table.begin(f"{i}_p", "many", [], 0.0, parent="p")
        table.end(f"{i}_p", [f"reply {i}"], 0.0)
        table.check_integrity()


def test_a_very_long_id_is_kept_as_a_digest():
    table = SessionTable(10)
    ids = ["x" * 256, "x" * 257, "x" * 10**6, "x" * 10**6 + "y"]
    kept = [table.begin(f"r{i}", text, [], 0.0).session.session_id for i, text in enumerate(ids)]
    assert kept[0] == ids[0] and all(len(text) < 100 for text in kept[1:])
    assert len(set(kept)) == 4
    assert table.begin("again", ids[2], [], 1.0).session.turns == 2


requests = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c", "d"]),
        st.sampled_from([None, None, "p", "q"]),
        st.lists(st.integers(0, 3), max_size=4),
        st.booleans(),
    )
)


@given(requests, st.integers(1, 3))
def test_the_table_stays_bounded_and_consistent(history, max_sessions):
    table = SessionTable(max_sessions)
    for i, (name, parent, keys, ends) in enumerate(history):
        table.begin(f"r{i}", name, keys, float(i), parent)
        if ends:
            table.end(f"r{i}", [*keys, i], i + 0.5)
        table.check_integrity()
