"""The parts of a trace that was rotated, read as one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_pensieve.trace.parts import put_aside, whole_of
from vllm_pensieve.trace.readers.lines import FormatOf, LineReader, Record
from vllm_pensieve.trace.wording import counted


class PartsReader:
    """Has the interface of a `LineReader`; where there are several parts, what it says of a record names the part."""

    def __init__(
        self, path: Path, parts: Sequence[Path], strict: bool, format_of: FormatOf
    ) -> None:
        """path: the whole's. parts: of which there is at least one, the oldest first."""
        self.path = path
        self.skipped: list[str] = []
        self.count = 0
        self._readers = [LineReader(part, strict, format_of) for part in parts]
        self._current = self._readers[0]

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number within its part and content of every record that is not blank."""
        for reader in self._readers:
            yield from reader

    def bad(self, number: int, reason: str) -> None:
        """Note a bad record of the part that is being read. TraceError if reading is strict."""
        self._current.bad(number, reason)

    def records(self, kind: type[Record], format_name: str) -> Iterator[tuple[int, Record]]:
        """Number within its part and record of everything that is one; the rest is noted.

        Raises:
            TraceError: a record is of another format, a part is damaged, or, with `strict`, a record is bad.
        """
        for reader in self._readers:
            self._current = reader
            yield from reader.records(kind, format_name)
            self.count += reader.count
            name = f"{reader.path.name} " if len(self._readers) > 1 else ""
            self.skipped += [f"{name}{text}" for text in reader.skipped]


def about_parts(path: Path, parts: Sequence[Path]) -> list[str]:
    """What is to be known of a trace in parts. path: of the whole, or of one part that was named; parts: those read."""
    whole = whole_of(path)
    if whole != path:
        others = len(put_aside(whole)) + whole.is_file() - 1
        return (
            [f"one of {others + 1} parts alone; {whole.name} names all of them"] if others else []
        )
    aside = put_aside(path)
    notes = []
    if len(parts) > 1:
        notes.append(f"read from {len(parts)} parts: {', '.join(part.name for part in parts)}")
    if missing := sorted(set(range(1, max(aside, default=0))) - set(aside)):
        named = ", ".join(map(str, missing))
        notes.append(
            f"{counted(len(missing), 'part')} removed ({named}): what they held is in no number here"
        )
    return notes
