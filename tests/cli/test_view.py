"""What a comparison shows where there is no terminal: plain lines, one a turn, found by the guide's grep."""

import re
from pathlib import Path

import pytest

from vllm_pensieve.bench.compare import ModeRun
from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.plan import server_command
from vllm_pensieve.bench.users import UsersOptions, plan_users
from vllm_pensieve.cli.benchmark_view import client_lines, exact_seconds, users_line
from vllm_pensieve.cli.view import ConsoleView
from vllm_pensieve.modes import MODES

GUIDES_GREP = re.compile(r"(Turn|TTFT|Cache|Speedup)")


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.bench.options.resolve_model", lambda name: f"/models/{name}")
    options = UsersOptions(users=6, turns=2, request_interval_s=0.5, out=Path("never-made"))
    return plan_users(options)


def records(plan) -> list[Exchange]:
    return [
        Exchange(own.session_id, turn, 0.0, 100, 25, 8, ttft_s=0.5, e2e_s=1.0)
        for turn in (1, 2)
        for own in plan.conversations
    ]


def test_a_log_tells_when_modes_start_and_end_and_each_turn_once(plan, capsys):
    with ConsoleView(plan) as view:
        view.mode_started(MODES["pensieve"], 0)
        view.measuring()
        for record in records(plan):
            view.recorded(record)
        run = ModeRun(MODES["pensieve"], 0, server_command(plan, MODES["pensieve"], 0))
        run.stepped_back = "of its windows"
        view.mode_ended(run)
    lines = capsys.readouterr().out.splitlines()
    assert "PHASE 1: PENSIEVE (Concurrent Users with Hotness)" in lines
    assert lines.index("pensieve: starting the server") < lines.index(
        f"pensieve: measuring, {plan.requests} requests"
    )
    assert [line for line in lines if GUIDES_GREP.search(line)] == [
        f"pensieve Turn {turn}: TTFT 500 ms, mean of 12; Cache 25% of 1,200 prompt tokens"
        for turn in (1, 2)
    ]
    assert any(line.startswith("pensieve: done, after") for line in lines)
    assert "STEPPED BACK" in lines[-1] and "of its windows" in lines[-1]


def test_a_turn_of_which_nothing_was_answered_is_told(plan, capsys):
    with ConsoleView(plan) as view:
        view.mode_started(MODES["vllm"], 0)
        for own in plan.conversations:
            view.recorded(Exchange(own.session_id, 1, 0.0, error="gone"))
    assert "vllm Turn 1: none of 12 requests answered" in capsys.readouterr().out


def test_clients_are_listed_as_in_the_guide_with_their_exact_intervals(plan):
    lines = list(client_lines(plan.workload))
    assert lines[0].startswith("  Client 0: HOT (Frequent)     interval=0.15s ")
    assert lines[2].startswith("  Client 2: WARM (Normal)      interval=0.50s ")
    assert lines[4].startswith("  Client 4: COLD (Infrequent)  interval=1.25s ")


@pytest.mark.parametrize(
    ("pause_s", "shown"), [(0.15, "0.15s"), (1.25, "1.25s"), (0.125, "0.125s"), (3.0, "3.00s")]
)
def test_no_interval_is_rounded(pause_s, shown):
    assert exact_seconds(pause_s) == shown


def test_one_user_is_one_user_and_has_no_phases(plan, capsys, monkeypatch):
    alone = plan_users(UsersOptions(users=1, turns=1, out=Path("never-made")))
    assert users_line(alone.workload).startswith("1 user, 1 turn after a text of 1,500 tokens")
    with ConsoleView(alone) as view:
        view.mode_started(MODES["vllm"], 0)
    assert "PHASE" not in capsys.readouterr().out
