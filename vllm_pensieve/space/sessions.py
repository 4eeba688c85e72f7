"""The sessions the server knows: given or inferred ids, turns, last activity. Bounded in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass
class Session:
    """One conversation.

    turns: requests begun so far. last_active_s: time of the last begin or end. tail: key of the deepest full block
    of the session's last finished request.
    """

    session_id: str
    turns: int = 0
    last_active_s: float = 0.0
    tail: Hashable | None = field(default=None, repr=False)


class SessionTable:
    """Sessions by id and by the deepest block of their last turn.

    A client that names no session is recognised by its prompt: a later turn resends what the session's last turn
    ended with. An id is a hint for statistics and retention; it never decides whose KV a request may use.
    """

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # the longest inactive first
        self._by_tail: dict[Hashable, str] = {}
        self._session_of: dict[str, str] = {}  # running request -> session id
        self._inferred = 0

    def begin(
        self, request_id: str, session_id: str | None, block_keys: Sequence[Hashable], now_s: float
    ) -> Session:
        """A request arrives. block_keys: keys of its prompt's full blocks, each naming all that stands before it."""
        if session_id is None:
            session_id = self._infer(block_keys)
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id)
        session.turns += 1
        self._session_of[request_id] = session_id
        self._touch(session, now_s)
        self._forget_oldest()
        return session

    def end(self, request_id: str, block_keys: Sequence[Hashable], now_s: float) -> Session | None:
        """A request is over. block_keys: keys of all its full blocks. None if its session was forgotten."""
        session = self._sessions.get(self._session_of.pop(request_id, ""))
        if session is None:
            return None
        if block_keys:
            self._drop_tail(session)
            session.tail = block_keys[-1]
            self._by_tail[session.tail] = session.session_id
        self._touch(session, now_s)
        return session

    def session_of(self, request_id: str) -> Session | None:
        """The session of a running request, if it is still known."""
        return self._sessions.get(self._session_of.get(request_id, ""))

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
            self._drop_tail(session)

    def _drop_tail(self, session: Session) -> None:
        # Two sessions may have ended in the same block; the entry belongs to the later one.
        if session.tail is not None and self._by_tail.get(session.tail) == session.session_id:
            del self._by_tail[session.tail]

    def __len__(self) -> int:
        return len(self._sessions)

    def check_integrity(self) -> None:
        """AssertionError if the table outgrew its bound or its indexes contradict each other. For tests."""
        assert len(self._sessions) <= self._max_sessions
        assert len(self._by_tail) <= len(self._sessions)
        for tail, session_id in self._by_tail.items():
            assert self._sessions[session_id].tail == tail
        assert all(session.turns > 0 for session in self._sessions.values())
