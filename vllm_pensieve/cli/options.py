"""Commands made from dataclasses: an option is written once, as a field with its help.

A field `turns: Annotated[int | None, typer.Option(min=1, help="...")] = None` becomes `--turns`; one without such an
annotation is no option of the command.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from vllm_pensieve.workloads.errors import UsageError

Options = TypeVar("Options")
NUMBERS, WORDS = tuple[int, ...], tuple[str, ...]


def takes(
    options: type[Options],
) -> Callable[[Callable[[Options], int | None]], Callable[..., None]]:
    """Make a command of a function of these options, a dataclass; what it returns is the exit status (None: 0).

    Numbers (`tuple[int, ...]`) are given with commas between them, words (`tuple[str, ...]`) one by one.
    """
    hints = get_type_hints(options, include_extras=True)
    known = {
        field: get_args(hints[field.name])
        for field in dataclasses.fields(options)  # type: ignore[arg-type]
        if get_args(hints[field.name])[1:]
    }

    def make(run: Callable[[Options], int | None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            values = {
                field.name: _value(field.name, kind, given[field.name])
                for field, (kind, _) in known.items()
                if given[field.name] is not None
            }
            status = run(options(**values))
            if status:
                raise typer.Exit(status)

        command.__doc__, command.__name__ = run.__doc__, run.__name__
        command.__signature__ = Signature(  # type: ignore[attr-defined]
            [_parameter(field, *hint) for field, hint in known.items()]
        )
        return command

    return make


def _parameter(field: dataclasses.Field[Any], kind: Any, option: Any) -> Parameter:
    """The command's parameter, as typer reads it."""
    default: Any = field.default
    if default is dataclasses.MISSING:
        default = None if field.default_factory is not dataclasses.MISSING else Parameter.empty
    if default is None:
        kind = kind | None
    if NUMBERS in (kind, *get_args(kind)):
        kind = str | None if default is None else str
        default = None if default is None else ",".join(map(str, default))
    elif kind == WORDS:
        kind, default = list[str] | None, None
    annotation = Annotated[kind, option]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _value(name: str, kind: Any, given: Any) -> Any:
    if NUMBERS in (kind, *get_args(kind)):
        return numbers(f"--{name.replace('_', '-')}", given)
    return tuple(given) if kind == WORDS else given


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers above 0 from text, each once, in order. Raises UsageError if it is not that."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: give numbers above 0, separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def chosen(option: str, text: str, known: tuple[str, ...]) -> str:
    """The known name that this text is. Raises UsageError if it is none."""
    if text.strip() not in known:
        raise UsageError(f"{option} {text!r} is unknown; choose one of: {', '.join(known)}")
    return text.strip()


def check_file(option: str, path: Path | None) -> None:
    """UsageError if there is no folder for this file, or the path is one."""
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"{option} {path}: its folder does not exist or cannot be written")
