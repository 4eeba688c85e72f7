"""A list of claims that were tried, printed one a line as they are decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TICK, CROSS = "✓", "✗"


@dataclass(frozen=True)
class Check:
    """One claim. numbers: what was seen."""

    claim: str
    holds: bool
    numbers: str

    def __str__(self) -> str:
        return f"{TICK if self.holds else CROSS} {self.claim}: {self.numbers}"


@dataclass
class Checks:
    """Claims so far. tell: shows each when it is decided."""

    tell: Callable[[str], None]
    done: list[Check] = field(default_factory=list)

    def decide(self, claim: str, holds: bool, numbers: str) -> None:
        """Note whether a claim holds, and what was seen."""
        self.done.append(Check(claim, holds, numbers))
        self.tell(str(self.done[-1]))

    @contextmanager
    def trying(self, claim: str) -> Iterator[None]:
        """An error in here is a claim that does not hold; the checks go on after it."""
        try:
            yield
        except Exception as error:
            self.decide(claim, False, f"{type(error).__name__}: {error}")

    def end(self) -> int:
        """Tell whether all passed; return the exit status: 0 if they did, else 1."""
        passed = sum(check.holds for check in self.done)
        verdict = "PASSED" if passed == len(self.done) else "FAILED"
        self.tell(f"{verdict}: {passed} of {len(self.done)} checks passed")
        return 0 if passed == len(self.done) else 1
