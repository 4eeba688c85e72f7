"""The formats of traces that can be read: each is a line here and a file in `readers/`, which is imported when used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

AUTO = "auto"


@dataclass(frozen=True)
class Format:
    """One format.

    about: whose it is, for help texts.
    module: has `matches(fields)`, whether a JSON object with these fields is one of its records, and `read(lines,
        builder)`, which adds all requests and returns the tokens of a block that the records declare.
    usual_block_tokens: what blocks have where records do not declare it, if that fits their prompts.
    in_folders: whether a folder of its files is one trace.
    """

    name: str
    about: str
    module: str
    usual_block_tokens: int | None = None
    in_folders: bool = False

    def reader(self) -> Any:
        """The module."""
        return import_module(self.module)


_READERS = "vllm_pensieve.trace.readers"
FORMATS = {
    one.name: one
    for one in (
        Format("pensieve", "of this plugin", f"{_READERS}.pensieve"),
        Format("bailian", "Qwen-Bailian", f"{_READERS}.bailian", 16),
        Format("kvct", "kv-cache-tester, Weka, AgentX", f"{_READERS}.kvct", in_folders=True),
        Format("mooncake", "Mooncake's form, of many tools", f"{_READERS}.mooncake", 512),
    )
}
"""By name. A line has the first one that it matches, so what has more fields stands before what has fewer."""


def about_formats() -> str:
    """The names, with whose they are, for a help text."""
    return ", ".join([AUTO, *(f"{one.name} ({one.about})" for one in FORMATS.values())])
