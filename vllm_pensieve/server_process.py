"""vLLM's API server as `pensieve serve` starts it: what it or the plugin refuses is said in one sentence."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, NoReturn

from vllm_pensieve.config import ConfigError

if TYPE_CHECKING:
    import argparse

REFUSED_STATUS = 2


def main() -> None:
    """Serve as the options of the command line say."""
    from vllm.entrypoints.launchers.api_server import entry
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    FlexibleArgumentParser.error = refuse_options
    try:
        entry.main()
    except ConfigError as error:
        _refuse(str(error).removeprefix("pensieve: "))


def refuse_options(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """End with the parser's message and what was probably meant, without its hundreds of lines of usage."""
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    hints = []
    for word in message.split():
        name = word.partition("=")[0]
        if name.startswith("--") and name not in known:
            hints += difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {', '.join(hints)}?" if hints else ""
    _refuse(
        f"vLLM: {message}{meant} (`python -m vllm.entrypoints.openai.api_server --help` lists all)"
    )


def _refuse(message: str) -> NoReturn:
    print(f"pensieve: {message}", file=sys.stderr)
    sys.exit(REFUSED_STATUS)


if __name__ == "__main__":
    main()
