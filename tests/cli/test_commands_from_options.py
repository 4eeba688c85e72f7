"""Commands made from dataclasses: what is given arrives under the field's name, and the rest keeps its default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer import Argument, Option
from typer.testing import CliRunner

from vllm_pensieve.cli.options import option_name, takes
from vllm_pensieve.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Base:
    out: Annotated[Path, Option(help="Where to.")]
    memory_gb: Annotated[float | None, Option("--memory", metavar="GB", help="How much.")] = None
    hidden: int = 3


@dataclass(frozen=True, kw_only=True)
class Asked(Base):
    out: Annotated[Path, Option(help="Where to.")] = Path("here")
    sizes: Annotated[tuple[int, ...], Option(help="Sizes.")] = (1, 2)
    limits: Annotated[tuple[int, ...] | None, Option(help="Limits.")] = None
    rest: Annotated[tuple[str, ...], Argument(show_default=False)] = ()


def call(arguments: str, options: type = Asked):
    """What the command's function gets, and how the command ends."""
    seen = []

    @takes(options)
    def command(options, context: typer.Context) -> int:
        """Says what it does."""
        seen.append((options, context.info_name))
        return 5

    app = typer.Typer()
    app.command()(command)
    return seen, CliRunner().invoke(app, arguments.split())


def test_nothing_given_is_the_dataclass_by_itself():
    seen, answer = call("")
    assert (seen, answer.exit_code) == ([(Asked(), "command")], 5)


def test_what_is_given_arrives_in_its_field():
    seen, _ = call("--out there --memory 1.5 --sizes 30,4,30 --limits 7 -- --dtype float32")
    assert seen[0][0] == Asked(
        out=Path("there"), memory_gb=1.5, sizes=(4, 30), limits=(7,), rest=("--dtype", "float32")
    )


def test_help_shows_names_defaults_and_texts_in_the_order_of_the_fields():
    _, answer = call("--help")
    shown = [answer.output.index(part) for part in ("--out", "--memory", "--sizes", "--limits")]
    assert shown == sorted(shown)
    for part in ("Says what it does.", "GB", "[default: 1,2]", "[default: here]"):
        assert part in answer.output


@pytest.mark.parametrize(
    "arguments", ["--hidden 4", "--memory-gb 1"], ids=["no option", "another name"]
)
def test_only_what_is_annotated_is_an_option_and_under_its_own_name_only(arguments):
    seen, answer = call(arguments)
    assert (seen, answer.exit_code) == ([], 2)


def test_a_field_without_a_default_must_be_given():
    seen, answer = call("", Base)
    assert (seen, answer.exit_code) == ([], 2)
    assert "--out" in answer.output


def test_what_is_no_list_of_numbers_is_refused_under_the_options_name():
    _, answer = call("--sizes 1,x")
    assert isinstance(answer.exception, UsageError)
    assert str(answer.exception).startswith("--sizes '1,x': give numbers above 0")
    assert option_name(Asked, "memory_gb") == "--memory"
