"""The sessions the server knows: given or inferred ids, turns, last activity. Bounded in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

MAX_ID_CHARACTERS = 256
MAX_PARENTS = 1000
"""Requests of several choices that are remembered, so that choices which arrive late still belong to them."""
MAX_TAILS = 16
"""Choices of one turn by whose ends the next turn is recognised."""


@dataclass
class Session:
    """One conversation.

    inferred: the client gave no id. turns: turns begun so far. last_active_s: time of the last begin or end. tails:
    keys of the deepest full blocks of what ended in the turn `tails_turn`, one for each of its choices.
    """

    session_id: str
    inferred: bool = False
    turns: int = 0
    last_active_s: float = 0.0
    tails: list[Hashable] = field(default_factory=list, repr=False)
    tails_turn: int = 0


@dataclass(frozen=True)
class Turn:
    """A request's place in its session.

    number: from 1. parent: the request whose choice this is, if that asked for several; they are one turn. choice: its
    number among them in the order of arrival, from 0.
    """

    session: Session
    number: int
    parent: str | None = None
    choice: int = 0


@dataclass
class _Parent:
    session_id: str
    turn: int
    choices: int = 0


class SessionTable:
    """Sessions by id and by the deepest block of their last turn.

    A client that names no session is recognised by its prompt: a later turn resends what the session's last turn
    ended with. An id is a hint for statistics and retention; it never decides whose KV a request may use.
    """

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # the longest inactive first
        self._by_tail: dict[Hashable, str] = {}
        self._turn_of: dict[str, tuple[str, int]] = {}  # running request -> session id and turn
        self._parents: OrderedDict[str, _Parent] = OrderedDict()  # the latest last
        self._inferred = 0

    def begin(
        self,
        request_id: str,
        session_id: str | None,
        block_keys: Sequence[Hashable],
        now_s: float,
        parent: str | None = None,
    ) -> Turn:
        """A request arrives.

        block_keys: keys of its prompt's full blocks, each naming all that stands before it. parent: the request whose
        choice it is, if that asked for several.
        """
        siblings = None if parent is None else self._parents.get(bounded_id(parent))
        if siblings is not None and siblings.session_id in self._sessions:
            session, number = self._sessions[siblings.session_id], siblings.turn
        else:
            session = self._session(session_id, block_keys)
            session.turns += 1
            number = session.turns
            siblings = (
                None if parent is None else self._remember(parent, session.session_id, number)
            )
        self._turn_of[request_id] = (session.session_id, number)
        self._touch(session, now_s)
        self._forget_oldest()
        if siblings is None:
            return Turn(session, number)
        siblings.choices += 1
        return Turn(session, number, parent, siblings.choices - 1)

    def _session(self, session_id: str | None, block_keys: Sequence[Hashable]) -> Session:
        inferred = not session_id
        session_id = bounded_id(session_id) if session_id else self._infer(block_keys)
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id, inferred)
        return session

    def _remember(self, parent: str, session_id: str, turn: int) -> _Parent:
        siblings = self._parents[bounded_id(parent)] = _Parent(session_id, turn)
        while len(self._parents) > MAX_PARENTS:
            self._parents.popitem(last=False)
        return siblings

    def end(self, request_id: str, block_keys: Sequence[Hashable], now_s: float) -> Session | None:
        """A request is over. block_keys: keys of all its full blocks. None if its session was forgotten."""
        session_id, turn = self._turn_of.pop(request_id, ("", 0))
        session = self._sessions.get(session_id)
        if session is None:
            return None
        if block_keys:
            if turn != session.tails_turn or len(session.tails) >= MAX_TAILS:
                self._drop_tails(session)
            session.tails_turn = turn
            session.tails.append(block_keys[-1])
            self._by_tail[block_keys[-1]] = session.session_id
        self._touch(session, now_s)
        return session

    def session_of(self, request_id: str) -> Session | None:
        """The session of a running request, if it is still known."""
        return self._sessions.get(self._turn_of.get(request_id, ("", 0))[0])

    def _infer(self, block_keys: Sequence[Hashable]) -> str:
        for key in reversed(block_keys):
            if key in self._by_tail:
                return self._by_tail[key]
        self._inferred += 1
        return f"inferred-{self._inferred}"

    def _touch(self, session: Session, now_s: float) -> None:
        session.last_active_s = now_s
        self._sessions.move_to_end(session.session_id)

    def _forget_oldest(self) -> None:
        while len(self._sessions) > self._max_sessions:
            _, session = self._sessions.popitem(last=False)
            self._drop_tails(session)

    def _drop_tails(self, session: Session) -> None:
        for tail in session.tails:
            # Two sessions may have ended in the same block; the entry belongs to the later one.
            if self._by_tail.get(tail) == session.session_id:
                del self._by_tail[tail]
        session.tails.clear()

    def __len__(self) -> int:
        return len(self._sessions)

    def check_integrity(self) -> None:
        """AssertionError if the table outgrew its bound or its indexes contradict each other. For tests."""
        assert len(self._sessions) <= self._max_sessions
        assert len(self._by_tail) <= sum(len(s.tails) for s in self._sessions.values())
        assert all(len(session.tails) <= MAX_TAILS for session in self._sessions.values())
        assert len(self._parents) <= MAX_PARENTS
        for tail, session_id in self._by_tail.items():
            assert tail in self._sessions[session_id].tails
        assert all(session.turns > 0 for session in self._sessions.values())


def bounded_id(text: str) -> str:
    """The id itself, or a digest of one longer than 256 characters: clients choose ids, and many are kept."""
    if len(text) <= MAX_ID_CHARACTERS:
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
