"""The files of a folder, read as one trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers.lines import FormatOf, LineReader, Record

ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class FolderReader:
    """Has the interface of a `LineReader`; a file that is damaged or of no known format is one bad record."""

    def __init__(self, path: Path, strict: bool, format_of: FormatOf) -> None:
        """Raises TraceError if the folder has no file that could be a trace."""
        self.path = path
        self.skipped: list[str] = []
        self.count = 0
        self._strict = strict
        self._format_of = format_of
        self._file: LineReader | None = None
        try:
            self._files = sorted(
                file for file in path.iterdir() if file.is_file() and file.name.endswith(ENDINGS)
            )
        except OSError as error:
            raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
        if not self._files:
            raise TraceError(f"{path}: no file in this folder ends in {', '.join(ENDINGS)}")

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Records of all files, numbered within each; those of a damaged one up to the damage."""
        for file in self._files:
            with suppress(TraceError):
                yield from LineReader(file, self._strict, self._format_of)

    def bad(self, number: int, reason: str) -> None:
        """Note a bad record of the file that is being read. TraceError if reading is strict."""
        assert self._file is not None
        self._file.bad(number, reason)

    def records(self, kind: type[Record], format_name: str) -> Iterator[tuple[int, Record]]:
        """Number within its file and record of everything that is one; the rest is noted.

        Raises:
            TraceError: with `strict`, a file is damaged, or a record is of another format or of none.
        """
        for path in self._files:
            self._file = LineReader(path, self._strict, self._format_of)
            try:
                if any(
                    self._format_of(line)
                    for _, line in LineReader(path, self._strict, self._format_of)
                ):
                    yield from self._file.records(kind, format_name)
                else:
                    self._file.count = 1
                    self._file.bad(1, "no record of a known format in this file")
            except TraceError as error:
                if self._strict:
                    raise
                self.count += 1
                self.skipped.append(str(error).removeprefix(f"{self.path}/"))
            self.count += self._file.count
            self.skipped += [f"{path.name} {text}" for text in self._file.skipped]
