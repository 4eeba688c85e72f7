"""The parts of a trace's file that grew too large: NAME.1.jsonl, NAME.2.jsonl ..., and NAME.jsonl, the newest.

Only names that the server gives count, `PREFIX_requests` and `PREFIX_blocks`: a file of somebody else's that is called
`traffic.2.jsonl` has nothing to do with `traffic.jsonl`.
"""

from __future__ import annotations

import re
from pathlib import Path

NUMBERED = re.compile(r"(?P<name>.+_(requests|blocks))\.(?P<number>\d+)\.jsonl(\.gz)?")


def parts_of(path: Path) -> list[Path]:
    """The files of NAME.jsonl (or .gz), oldest first; the newest one may be missing, and each may be packed."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    newest = next((file for file in (path, plain, _packed(plain)) if file.is_file()), None)
    return [*put_aside(path).values(), *([newest] if newest else [])]


def put_aside(path: Path) -> dict[int, Path]:
    """Its parts that are no longer written, by number, ascending; of one that is there packed as well, the plain."""
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    found: dict[int, Path] = {}
    if path.parent.is_dir():
        for file in sorted(path.parent.iterdir()):
            numbered = NUMBERED.fullmatch(file.name)
            if numbered and numbered["name"] == name:
                found.setdefault(int(numbered["number"]), file)
    return dict(sorted(found.items()))


def next_part(path: Path) -> Path:
    """Where NAME.jsonl is to be put aside: numbers only grow, whichever parts have been removed meanwhile."""
    return path.with_suffix(f".{max(put_aside(path), default=0) + 1}.jsonl")


def whole_of(path: Path) -> Path:
    """NAME.jsonl for one of its parts; any other path as it is."""
    numbered = NUMBERED.fullmatch(path.name)
    if numbered is None:
        return path
    plain = path.with_name(f"{numbered['name']}.jsonl")
    packed = _packed(plain)
    return packed if packed.is_file() and not plain.is_file() else plain


def _packed(plain: Path) -> Path:
    return plain.with_name(f"{plain.name}.gz")
