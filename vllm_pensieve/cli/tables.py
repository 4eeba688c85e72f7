"""Tables on the terminal: ruled by one line, and never cut or broken, whatever the terminal's width."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000


def plain_table(title: str | None = None) -> Table:
    """A table without rows and columns."""
    return Table(
        title=title, title_justify="left", title_style="", box=SIMPLE, padding=(0, 1, 0, 0)
    )


def show(table: Table) -> None:
    """Print it as wide as it is: a narrower terminal wraps its lines, but no word is cut."""
    console = Console()
    natural = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, natural)
    console.print(table, highlight=False)
