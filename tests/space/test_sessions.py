"""The session table: named and inferred sessions, and its bound."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_pensieve.space.sessions import SessionTable


def test_a_named_session_counts_its_turns_and_its_last_activity():
    table = SessionTable(10)
    table.begin("r1", "alice", ["a"], 1.0)
    table.end("r1", ["a", "b"], 2.0)
    session = table.begin("r2", "alice", ["a", "b", "c"], 5.0)
    assert (session.session_id, session.turns, session.last_active_s) == ("alice", 2, 5.0)


def test_an_unnamed_prompt_that_goes_on_where_a_session_ended_belongs_to_it():
    table = SessionTable(10)
    first = table.begin("r1", None, ["a"], 0.0)
    table.end("r1", ["a", "b"], 1.0)
    assert table.begin("r2", None, ["a", "b", "c"], 2.0) is first
    assert table.begin("r3", None, ["x"], 2.0) is not first


def test_the_deepest_known_end_decides_between_sessions_that_share_a_beginning():
    table = SessionTable(10)
    table.begin("r1", "short", ["a"], 0.0)
    table.end("r1", ["a"], 0.0)
    table.begin("r2", "long", ["a", "b"], 0.0)
    table.end("r2", ["a", "b"], 0.0)
    assert table.begin("r3", None, ["a", "b", "c"], 1.0).session_id == "long"


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


requests = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c", "d"]),
        st.lists(st.integers(0, 3), max_size=4),
        st.booleans(),
    )
)


@given(requests, st.integers(1, 3))
def test_the_table_stays_bounded_and_consistent(history, max_sessions):
    table = SessionTable(max_sessions)
    for i, (name, keys, ends) in enumerate(history):
        table.begin(f"r{i}", name, keys, float(i))
        if ends:
            table.end(f"r{i}", [*keys, i], i + 0.5)
        table.check_integrity()
