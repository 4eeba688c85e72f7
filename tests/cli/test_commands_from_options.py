"""Commands made from dataclasses: what is given arrives under the field's name, and the rest keeps its default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer import Argument, Option
from typer.testing import CliRunner

from vllm_pensieve.bench.memory_options import Alias
from vllm_pensieve.bench.run_options import CompareOptions
from vllm_pensieve.bench.sharegpt import ShareGptOptions
from vllm_pensieve.bench.users import UsersOptions
from vllm_pensieve.cli.chat import ChatOptions
from vllm_pensieve.cli.collect import CollectOptions
from vllm_pensieve.cli.guide import GuideOptions
from vllm_pensieve.cli.options import option_name, takes
from vllm_pensieve.cli.profile import ProfileOptions
from vllm_pensieve.cli.serve import ServeOptions
from vllm_pensieve.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Base:
    out: Annotated[Path, Option(help="Where to.")]
    memory_gb: Annotated[
        float | None,
        Option("--memory", min=0.5, metavar="GB", help="How much."),
        Alias("--memory-mb", 1e-3),
        Alias("--old"),
    ] = None
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


def test_another_name_counts_in_its_own_unit_and_is_not_in_the_help():
    assert call("--memory-mb 750")[0][0][0].memory_gb == 0.75
    assert call("--old 2")[0][0][0].memory_gb == 2
    assert "--memory-mb" not in call("--help")[1].output
    assert "500" in call("--memory-mb 499")[1].output, "the least, in that unit"


@pytest.mark.parametrize("arguments", ["--memory 1 --old 1", "--old 1 --memory-mb 1000"])
def test_two_names_of_one_option_are_refused(arguments):
    _, answer = call(arguments)
    assert "are the same option; give one of them" in str(answer.exception)


GIB, GB = 2**30, 10**9


@pytest.mark.parametrize(
    ("options", "gpu", "host"),
    [
        (CompareOptions, "kv_cache_gib", "host_cache_gib"),
        (UsersOptions, "gpu_cache_gb", "cpu_cache_gb"),
        (ShareGptOptions, "gpu_cache_gb", "cpu_cache_gb"),
        (ChatOptions, "gpu_cache_gb", "cpu_cache_gb"),
        (GuideOptions, "gpu_cache_gb", "cpu_cache_gb"),
        (CollectOptions, "kv_cache_gib", None),
        (ProfileOptions, None, "host_cache_gib"),
        (ServeOptions, None, "host_cache_gib"),
    ],
)
def test_every_command_takes_memory_in_gib_and_in_gb(options, gpu, host):
    words = "x " if options is ServeOptions else ""
    words += "--out there " if options is CompareOptions else ""
    for field, names in (
        (gpu, {"--kv-cache-gib": GIB, "--gpu-cache": GB}),
        (host, {"--host-cache-gib": GIB, "--cpu-cache": GB}),
    ):
        for name, unit in names.items() if field else ():
            seen, answer = call(f"{words}{name} 3", options)
            assert seen, answer.output
            own_unit = GIB if field.endswith("_gib") else GB
            assert getattr(seen[0][0], field) == pytest.approx(3 * unit / own_unit)
