"""What a trace calls blocks and sessions: names that reveal nothing of texts or people, and are good JSON."""

from __future__ import annotations

import hashlib
import os

from vllm_pensieve.space.sessions import bounded_id

ID_BITS = 53
"""Integers up to 2^53 are exact in JavaScript and in every reader that makes numbers doubles."""


class Names:
    """Names for one run of an engine: hashed with a secret of this process.

    Two prompts share a block's number exactly where they share a prefix, and two requests share a session's name
    exactly where they share its id. Names of different runs have nothing in common.

    run: names the run itself.
    """

    def __init__(self, plain_session_ids: bool = False) -> None:
        """plain_session_ids: whether clients' session ids are written as they are."""
        self._secret = os.urandom(32)
        self._plain_session_ids = plain_session_ids
        self.run = self._digest(b"run", 4).hex()

    def block(self, key: bytes) -> int:
        """A number below 2^53."""
        return int.from_bytes(self._digest(key, 8), "big") >> (64 - ID_BITS)

    def end_of(self, request_id: str) -> int:
        """A number below 2^53 for the part of a request's prompt that fills no block."""
        return self.block(_bytes(f"the end of {request_id}"))

    def session(self, session_id: str, inferred: bool) -> str:
        """A session's name; that of an inferred session stays as it is, since it reveals nothing."""
        if inferred or self._plain_session_ids:
            return self.text(session_id)
        return self._digest(_bytes(f"session {session_id}"), 8).hex()

    def text(self, text: str) -> str:
        """The text, cut short if it is very long, with half surrogate pairs, which JSON has no bytes for, replaced."""
        return bounded_id(text).encode(errors="replace").decode()

    def _digest(self, data: bytes, size: int) -> bytes:
        return hashlib.blake2b(data, digest_size=size, key=self._secret).digest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
