"""The chat: lines in, answers out, a few commands; its input and output are given, so that anything can drive it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving.server import Answer, Reply, Server

PROMPT = ">>> "
HELP = """stats          hit rates, blocks, cache sizes, evictions, recoveries, time to first token by turn
reset          drop everything that is cached, in GPU and in host memory; the conversation goes on
new            begin another conversation
session NAME   go on with the conversation of this name, or begin it
help           this list
exit           leave, as does Ctrl-D; Ctrl-C stops an answer
Anything else is said to the model."""


@dataclass
class Interrupts:
    """Counts Ctrl-C: the chat looks between two pieces of an answer, where nothing is half done."""

    pressed: int = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note one. Given to `signal.signal`."""
        self.pressed += 1

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Ctrl-C is only noted in here."""
        before = signal.signal(signal.SIGINT, self.handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@dataclass
class Chat:
    """One person's conversations with a server.

    read: the next line for a prompt; EOFError at the end, KeyboardInterrupt at Ctrl-C. write: shows a piece of text.
    """

    server: Server
    read: Callable[[str], str]
    write: Callable[[str], None]
    max_new_tokens: int | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    session: str = "chat-1"
    _begun: int = 1
    _seen: set[str] = field(default_factory=set)
    _first_ttft_s: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Answer lines until there are no more, or `exit`."""
        while True:
            try:
                line = self.read(PROMPT).strip()
            except EOFError:
                self.write("\n")
                return
            except KeyboardInterrupt:
                self.write("\n(exit or Ctrl-D leaves)\n")
                continue
            if line == "exit":
                return
            if line and not self._command(line):
                self._answer(line)

    def _command(self, line: str) -> bool:
        """Carry out a command; False if the line is none."""
        word, _, rest = line.partition(" ")
        try:
            if line == "stats":
                self.write(f"{self.server.get_statistics_str()}\n")
            elif line == "reset":
                self.server.reset()
                self.write("nothing is cached any more; the conversation goes on\n")
            elif line == "new":
                self._switch(self._new_name())
            elif line == "help":
                self.write(f"{HELP}\n")
            elif word == "session" and rest.strip() and " " not in rest.strip():
                self._switch(rest.strip())
            else:
                return False
        except UsageError as error:
            self.write(f"{error}\n")
        return True

    def _new_name(self) -> str:
        """The next name that was not given to a conversation."""
        self._seen.add(self.session)
        self._begun += 1
        while f"chat-{self._begun}" in self._seen:
            self._begun += 1
        return f"chat-{self._begun}"

    def _switch(self, session: str) -> None:
        self.session = session
        self._seen.add(session)
        self.write(f"conversation {session}\n")

    def _answer(self, line: str) -> None:
        try:
            with self.interrupts.caught():
                answer = self.server.begin(self.session, line, self.max_new_tokens)
                try:
                    self._show(answer)
                finally:
                    self.server.cancel(answer)
        except UsageError as error:
            self.write(f"{error}\n")
            return
        assert answer.reply is not None
        self.write(f"\n{self._turn_line(answer.reply)}\n")

    def _show(self, answer: Answer) -> None:
        """Write the answer piece by piece, up to its end or Ctrl-C."""
        pressed = self.interrupts.pressed
        while answer.reply is None or answer.unread:
            if piece := self.server.advance(answer):
                self.write(piece)
            if self.interrupts.pressed > pressed:
                self.write(" (stopped)")
                return

    def _turn_line(self, reply: Reply) -> str:
        """The times of a turn, what of its prompt was cached, and how it compares with turn 1 of its conversation."""
        ttft = "-" if reply.ttft_s is None else f"{reply.ttft_s:.3f} s"
        cache = "N/A (stateless)"
        if not self.server.inspection.stateless:
            share = reply.cached_tokens / reply.prompt_tokens
            cache = (
                f"{reply.cached_tokens:,} of {reply.prompt_tokens:,} prompt tokens ({share:.0%})"
            )
        line = (
            f"Turn {reply.turn}: TTFT {ttft}, {reply.output_tokens:,} tokens in {reply.e2e_s:.3f} s, "
            f"Cache {cache}"
        )
        if reply.turn == 1 and reply.ttft_s is not None:
            self._first_ttft_s[reply.session_id] = reply.ttft_s
        first_s = self._first_ttft_s.get(reply.session_id)
        if reply.turn > 1 and reply.ttft_s and first_s:
            line += f", Speedup {first_s / reply.ttft_s:.2f}x over turn 1"
        return line
