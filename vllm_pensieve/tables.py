"""How all tables look: one model of a table, shown at the terminal or written as Markdown, and numbers in its cells."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

RULE: Sequence[str] = ()
"""A row that sets apart what follows it."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings.

    text: headings of the columns that hold text, which stand at the left, as the first one always does.
    alarming: numbers of the rows that say that something is wrong.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    text: Collection[str] = ()
    alarming: Collection[int] = ()


def markdown(table: Table) -> str:
    """The headings and rows, or nothing without rows."""
    rows = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.rows if row
    ]
    if not rows:
        return ""
    lines = [list(table.headings), ["---"] * len(table.headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(table: Table, width: int | None = None) -> None:
    """Print it: no word is cut. Headings are broken where the terminal is wide enough for it only so, else nothing is.

    width: columns of the terminal, where it is known better.
    """
    from rich.console import Console

    console = Console(width=width)
    made, narrow = (_rich(table, broken) for broken in (False, True))
    if _width(narrow) <= console.width < _width(made):
        made = narrow
    console.width = max(console.width, _width(made))
    console.print(made, highlight=False)


def said(value: Any, form: str, missing: str = "-") -> str:
    """The value in the form of `str.format`, or what stands for a missing one."""
    return missing if value is None else form.format(value)


def seconds(value: float | None) -> str:
    """A time to read: in milliseconds below a second, `-` for none."""
    if value is None or value >= 1:
        return said(value, "{:.2f} s")
    return f"{value * 1000:.0f} ms"


def _rich(table: Table, broken: bool) -> RichTable:
    """The table as rich prints it; broken: with headings no wider than they must be."""
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(
        title_justify="left", title_style="", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
    )
    made.title, made.caption = Text(table.title), Text(table.caption)
    for number, heading in enumerate(table.headings):
        cells = [len(row[number]) for row in table.rows if row]
        words = [len(word) for word in heading.split()]
        narrow = textwrap.wrap(heading, max(cells + words, default=1)) if broken else [heading]
        left = number == 0 or heading in table.text
        made.add_column("\n".join(narrow), justify="left" if left else "right", no_wrap=True)
    for number, row in enumerate(table.rows):
        if row:
            made.add_row(*map(Text, row), style="red" if number in table.alarming else None)
        else:
            made.add_section()
    return made


def _width(table: RichTable) -> int:
    from rich.console import Console
    from rich.measure import Measurement

    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum
