"""Commands made from dataclasses: an option is written once, as a field with its help.

A field `turns: Annotated[int | None, typer.Option(min=1, help="...")] = None` becomes `--turns`; one without such an
annotation is no option of the command.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ParameterInfo

from vllm_pensieve.errors import UsageError

NUMBERS, WORDS = tuple[int, ...], tuple[str, ...]


def takes(options: type[Any]) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a command of a function of these options, a dataclass; what it returns is the exit status (None: 0).

    Numbers (`tuple[int, ...]`) are given with commas between them, words (`tuple[str, ...]`) one by one. A function
    that has a parameter `context` gets typer's as well.
    """
    known = _known(options)

    def make(run: Callable[..., int | None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            context = {"context": given.pop("context")} if "context" in given else {}
            values = {
                name: _value(options, name, value)
                for name, value in given.items()
                if value is not None
            }
            status = run(options(**values), **context)
            if status:
                raise typer.Exit(status)

        parameters = [_parameter(field, *hint) for field, hint in known.items()]
        if "context" in signature(run).parameters:
            kind = Parameter.KEYWORD_ONLY
            parameters.append(Parameter("context", kind, annotation=typer.Context))
        command.__doc__, command.__name__ = run.__doc__, run.__name__
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return make


def option_name(options: type[Any], name: str) -> str:
    """What the option of this field is called on the command line."""
    (_, option) = next(hint for field, hint in _known(options).items() if field.name == name)
    declared = option.default if isinstance(option.default, str) else None
    return declared or f"--{name.replace('_', '-')}"


def _known(options: type[Any]) -> dict[dataclasses.Field[Any], tuple[Any, Any]]:
    """The fields that are options, with their type and what typer is told of them."""
    hints = get_type_hints(options, include_extras=True)
    found = {field: get_args(hints[field.name]) for field in dataclasses.fields(options)}
    return {
        field: (hint[0], hint[1])
        for field, hint in found.items()
        if len(hint) == 2 and isinstance(hint[1], ParameterInfo)
    }


def _parameter(field: dataclasses.Field[Any], kind: Any, option: ParameterInfo) -> Parameter:
    """The command's parameter, as typer reads it."""
    default: Any = Parameter.empty if field.default is dataclasses.MISSING else field.default
    if _is_numbers(kind):
        kind = str if default else str | None
        default = None if default is None else ",".join(map(str, default))
    elif kind == WORDS:
        kind, default = list[str] | None, None
    annotation = Annotated[kind, option]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _value(options: type[Any], name: str, given: Any) -> Any:
    """What the field gets for what was given."""
    kind = next(kind for field, (kind, _) in _known(options).items() if field.name == name)
    if _is_numbers(kind):
        return numbers(option_name(options, name), given)
    return tuple(given) if kind == WORDS else given


def _is_numbers(kind: Any) -> bool:
    return NUMBERS in (kind, *get_args(kind))


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers above 0 from text, each once, in order. Raises UsageError if it is not that."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: give numbers above 0, separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def check_file(option: str, path: Path | None) -> None:
    """UsageError if there is no folder for this file, or the path is one."""
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"{option} {path}: its folder does not exist or cannot be written")
