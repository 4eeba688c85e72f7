"""Commands made from dataclasses: an option is written once, as a field with its help.

A field `turns: Annotated[int | None, typer.Option(min=1, help="...")] = None` becomes `--turns`; one without such an
annotation is no option of the command.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import typer
from typer.models import ParameterInfo

from vllm_pensieve.bench.memory_options import Alias
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
            status = run(options(**_values(known, given)), **context)
            if status:
                raise typer.Exit(status)

        parameters = [parameter for one in known for parameter in _parameters(one)]
        if "context" in signature(run).parameters:
            parameters.append(_keyword("context", Parameter.empty, typer.Context))
        command.__doc__, command.__name__ = run.__doc__, run.__name__
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return make


def option_name(options: type[Any], name: str) -> str:
    """What the option of this field is called on the command line."""
    return next(one.option for one in _known(options) if one.name == name)


class _Known(NamedTuple):
    """A field that is an option: its type and default, what typer gets of it, and its other names."""

    name: str
    kind: Any
    default: Any
    info: ParameterInfo
    aliases: tuple[Alias, ...]

    @property
    def option(self) -> str:
        declared = self.info.default
        return declared if isinstance(declared, str) else f"--{self.name.replace('_', '-')}"


def _known(options: type[Any]) -> list[_Known]:
    hints = get_type_hints(options, include_extras=True)
    found = []
    for field in dataclasses.fields(options):
        kind, *marks = get_args(hints[field.name]) or (None,)
        if marks and isinstance(marks[0], ParameterInfo):
            default = Parameter.empty if field.default is dataclasses.MISSING else field.default
            found.append(_Known(field.name, kind, default, marks[0], tuple(marks[1:])))
    return found


def _parameters(known: _Known) -> Iterator[Parameter]:
    """The command's parameters for a field, as typer reads them: the option, and a hidden one for each other name."""
    kind, default = known.kind, known.default
    if _is_numbers(kind):
        kind = str if default else str | None
        default = None if default is None else ",".join(map(str, default))
    elif kind == WORDS:
        kind, default = list[str] | None, None
    yield _keyword(known.name, default, Annotated[kind, known.info])
    for number, alias in enumerate(known.aliases):
        least = getattr(known.info, "min", None)
        least = None if least is None else least / alias.factor
        hidden = Annotated[float | None, typer.Option(alias.name, hidden=True, min=least)]
        yield _keyword(f"{known.name}_{number}", None, hidden)


def _keyword(name: str, default: Any, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _values(known: list[_Known], given: dict[str, Any]) -> dict[str, Any]:
    """What the fields get for what was given. Raises UsageError for an option that is given under two names."""
    values = {}
    for one in known:
        value = given[one.name]
        others = {
            alias: given[f"{one.name}_{number}"]
            for number, alias in enumerate(one.aliases)
            if given[f"{one.name}_{number}"] is not None
        }
        names = [alias.name for alias in others]
        if value not in (None, one.default):
            names.insert(0, one.option)
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)} are the same option; give one of them")
        for alias, other in others.items():
            value = other * alias.factor
        if _is_numbers(one.kind) and value is not None:
            value = numbers(one.option, value)
        elif one.kind == WORDS:
            value = tuple(value or ())
        if value is not None:
            values[one.name] = value
    return values


def _is_numbers(kind: Any) -> bool:
    return NUMBERS in (kind, *get_args(kind))


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers above 0 from text, each once, in order. Raises UsageError if it is not that."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r}: give numbers above 0, separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def check_file(option: str, path: Path | None) -> None:
    """UsageError if this file could not be written: it is a folder, or there is none for it."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it")
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it first")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: the folder {path.parent} cannot be written to")
