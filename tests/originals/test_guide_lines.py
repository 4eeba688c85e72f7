"""Every line of the Pensieve guide, as it stands there: accepted, planned to the server's command line, and run."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_pensieve.bench.plan import ComparePlan, server_arguments
from vllm_pensieve.cli import main
from vllm_pensieve.testing.originals.guide_lines import GUIDE_LINES
from vllm_pensieve.testing.originals.lines import Done, Line, run_line
from vllm_pensieve.testing.originals.models import NAMES, make_models

LOOPED = ("gpt2", "facebook/opt-125m")
"""What `$model` stands for in the guide's loops."""

ROOM_GB = 16
"""What is given to KV and host memory where 20 GB are free."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a model folder of every name, and the guide's `results`."""
    folder = tmp_path_factory.mktemp("originals")
    make_models(folder)
    (folder / "results").mkdir()
    return folder


@pytest.fixture
def planned(models, monkeypatch):
    """planned(line): what would be carried out, made by all that comes before anything is started."""
    seen: list[Any] = []

    def note(plan: Any, *_: Any) -> int:
        seen.append(plan)
        return 0

    for command in ("users", "sharegpt"):
        monkeypatch.setattr(f"vllm_pensieve.cli.{command}.carry_out", note)
    monkeypatch.setattr("vllm_pensieve.cli.guide_demonstration.show", note)

    class Stop(Exception):
        pass

    def no_engine(options: Any) -> Any:
        seen.append(options)
        raise Stop

    monkeypatch.setattr("vllm_pensieve.serving.Server", no_engine)
    monkeypatch.setattr("vllm_pensieve.swap.host_memory.available_bytes", lambda: 20 * 10**9)
    monkeypatch.delenv("MAX_NEW_TOKENS", raising=False)
    monkeypatch.chdir(models)

    def plan(line: Line) -> Any:
        monkeypatch.setattr(sys, "argv", ["pensieve", *line.arguments(model=LOOPED[1])])
        with pytest.raises((SystemExit, Stop)) as ended:
            main()
        assert getattr(ended.value, "code", 0) == 0
        (one,) = seen
        return one

    return plan


@pytest.mark.parametrize("line", GUIDE_LINES, ids=lambda line: line.place)
def test_a_line_is_accepted_and_planned(planned, line, capsys):
    plan = planned(line)
    words = line.arguments(model=LOOPED[1])
    asked = dict(itertools.pairwise(words))
    if isinstance(plan, ComparePlan):
        turns = {len(own.turns) for own in plan.conversations}
        assert min(turns) >= 5  # "turn 5+"
        assert max(own.context_tokens(16) for own in plan.conversations) <= plan.max_model_len
        for mode in plan.modes:
            _accepted_by_vllm(server_arguments(plan, mode))
        notes = " ".join(plan.notes)
    else:
        options = getattr(plan, "options", plan)  # a demonstration's, or a chat's
        assert options.model == asked["--model"]
        if hasattr(plan, "conversations"):
            assert len(plan.conversations[0].turns) >= 5
        notes = " ".join(getattr(plan, "notes", ())) + capsys.readouterr().err
    wanted_gb = float(asked.get("--gpu-cache", 0)) + float(asked.get("--cpu-cache", 0))
    assert ("GB asked for" in notes) == (wanted_gb > ROOM_GB)


def _accepted_by_vllm(arguments: tuple[str, ...]) -> None:
    """vLLM's own parser takes the server's command line; it ends the process otherwise."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    parser.parse_args(list(arguments[arguments.index("--model") :]))


def test_every_model_of_the_lines_has_a_stand_in():
    named = {
        words[words.index("--model") + 1]
        for words in (line.arguments(model="gpt2") for line in GUIDE_LINES)
        if "--model" in words
    }
    assert named == set(NAMES)


def test_a_line_runs_as_it_stands_with_its_shell_around_it():
    looped = Line("x:1", "    python main.py --model $model > results/a_${model//\\//_}.txt 2>&1")
    assert looped.command.strip().startswith("python -m vllm_pensieve --model $model")
    assert looped.arguments(model="gpt2") == ["--model", "gpt2"]
    profiled = Line("x:2", "python -m cProfile -o p.prof main.py --mode pensieve")
    assert profiled.command == "python -m cProfile -o p.prof -m vllm_pensieve --mode pensieve"


def line_at(place: str) -> Line:
    (line,) = (line for line in GUIDE_LINES if line.place == place)
    return line


def ran(done: Done) -> str:
    assert done.status == 0, done.output[-4000:]
    assert "Traceback (most recent call last)" not in done.output
    return done.output


@pytest.mark.engine
def test_the_demonstration_shows_sessions_texts_times_and_the_cache(models):
    """`python -u ... 2>&1 | tee`, as the guide reads its log."""
    output = ran(run_line(line_at("guide-execution.txt:213"), models))
    log = (models / "pensieve_output.log").read_text()
    assert log in output
    for session in ("session_1", "session_2", "session_3"):
        assert f"[{session}] >>> What is machine learning?" in log
        assert f"[{session}] Turn 5: TTFT " in log
    assert "GPU hit rate" in log and "evictions" in log and "recoveries" in log
    assert "Speedup by turn" in log
    assert "pensieve serve gpt2" in log


@pytest.mark.engine
def test_users_are_compared_in_phases_up_to_turn_5(models):
    line = line_at("guide-execution.txt:1301")
    more = ("--num-concurrent-users", "3", "--turns", "5", "--request-interval", "0.1")
    sizes = ("--gpu-cache", "0.05", "--cpu-cache", "0.05", "--max-new-tokens", "4")
    output = ran(run_line(line, models, more=(*more, *sizes, "--sheet", "sheet.md")))
    assert "PHASE 1: PENSIEVE (Concurrent Users with Hotness)" in output
    assert "PHASE 2: vLLM BASELINE (Concurrent Users - Stateless, Same Hotness)" in output
    assert "Client 0: HOT (Frequent)" in output and "interval=0.03s" in output
    assert "Client 2: COLD (Infrequent)" in output and "interval=0.25s" in output
    assert "pensieve Turn 5: TTFT" in output and "vllm Turn 5: TTFT" in output
    assert "pensieve: starting the server" in output and "pensieve: done, after" in output
    assert "Speedup, pensieve against vllm:" in output
    sheet = (models / "sheet.md").read_text()
    assert "## Cache and batches" in sheet and "STEPPED BACK" not in sheet


def _long(line: Line) -> Any:
    return pytest.param(line, id=line.place, marks=[pytest.mark.engine, pytest.mark.long])


@pytest.mark.parametrize("line", [_long(line) for line in GUIDE_LINES])
def test_a_line_runs(models, line):
    typed = "What is machine learning?\nstats\nexit\n" if "--interactive" in line.text else ""
    run = run_line(line, models, typed=typed, variables={"model": LOOPED[0]}, timeout_s=3000.0)
    ran(run)


@pytest.mark.engine
def test_the_comparison_script_asks_both_modes_the_same_five_questions(models):
    script = Path(__file__).parents[2] / "scripts" / "test_comparison.sh"
    line = Line("guide-execution.txt:601", f"{script} --model gpt2")
    output = ran(run_line(line, models, more=("--gpu-cache", "0.05")))
    assert output.index("TEST 1: vLLM BASELINE") < output.index("TEST 2: PENSIEVE")
    assert output.count(">>> What applications use neural networks?") == 2
    assert "N/A (stateless)" in output and "GPU hit rate" in output


@pytest.mark.engine
def test_a_plugin_that_stepped_back_is_said_in_the_terminal_the_summary_and_the_sheet(models):
    """Gemma 2 with vLLM's two cache groups, which the benchmark's own option for such models would avoid."""
    words = "--mode pensieve --model google/gemma-2-27b-it --turns 2 --history-tokens 64 --request-interval 0"
    more = "--max-new-tokens 4 --gpu-cache 0.05 --cpu-cache 0.05 --out stepped --sheet stepped.md"
    line = Line("guide-execution.txt:1551", f"python main.py {words} {more}")
    output = ran(run_line(line, models, more=("--", "--no-disable-hybrid-kv-cache-manager")))
    assert "pensieve: the plugin STEPPED BACK" in output
    summary = json.loads((models / "stepped" / "summary.json").read_text())
    assert "sliding window" in summary["stepped_back"]["pensieve"]
    assert "STEPPED BACK" in (models / "stepped.md").read_text()
