"""scripts/step_time.py, run for real with few requests: every side is measured, and serves what its case says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.scripts import ROOT

SIDES = ["stock", "stock, idle connector", "pensieve", "pensieve, host tier"]
BASES = {"stock": set(), "pensieve, host tier": {"stock", "stock, idle connector"}}
TRAFFIC = ("--running", "4", "--idle", "6", "--steps", "45")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "step_time.py"), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def measured(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON and what was printed."""
    done = run(*arguments, "--json", str(folder / "out.json"))
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text()), done.stdout


def compared_with(figures: dict[str, Any]) -> set[str]:
    return {name.removeprefix("against ") for name in figures if name.startswith("against ")}


@pytest.mark.engine
def test_every_side_is_timed_and_compared_with_what_is_fair_to_it(tmp_path):
    content, printed = measured(tmp_path, *TRAFFIC)
    assert content["schema"] == 2
    assert content["machine"]["cores"] and content["versions"]["vllm-pensieve"]
    assert content["options"]["running"] == 4
    assert "attribution" not in content and "sessions" not in content
    assert list(content["steps"]) == SIDES
    stock = content["steps"]["stock"]
    for side, figures in content["steps"].items():
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert compared_with(figures) == BASES.get(side, {"stock"})
        assert side in printed and f"{figures['p50_ms']:.3f}" in printed
        for base in compared_with(figures):
            ratios = figures[f"against {base}"]
            of_base = content["steps"][base]
            assert ratios["p50_ratio"] == pytest.approx(figures["p50_ms"] / of_base["p50_ms"])
            assert len(ratios["p50_ratio_of_quarters"]) == 4
    assert compared_with(stock) == set()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    sizes = ("--context", "1024,512", "--repeats", "2")
    return measured(tmp_path_factory.mktemp("parts"), "--attribute", *TRAFFIC, *sizes)


@pytest.mark.engine
def test_the_parts_of_a_step_add_up_to_it_and_only_connectors_have_metadata(parts):
    content, printed = parts
    assert "steps" not in content
    for side in SIDES:
        whole = content["attribution"][side]
        functions = whole["functions"]
        assert whole["whole_us_a_step"] == pytest.approx(
            sum(function["us_a_step"] for function in functions.values())
        )
        assert functions["elsewhere in schedule"]["calls_a_step"] == 1
        assert functions["elsewhere in update_from_output"]["calls_a_step"] == 1
        assert all(function["us_a_step"] >= 0 for function in functions.values())
        assert functions["free_blocks"]["calls_a_step"] > 0
        assert functions["get_computed_blocks"]["calls_a_step"] > 0
        has_connector = side in ("stock, idle connector", "pensieve, host tier")
        assert functions["_build_kv_connector_meta"]["calls_a_step"] == has_connector
        assert all(name in printed for name in functions)


@pytest.mark.engine
def test_a_returning_session_is_where_its_case_says(parts):
    content, _ = parts
    contexts = content["sessions"]["contexts"]
    assert [c["context_tokens"] for c in contexts] == [512, 1024]
    assert [c["blocks"] for c in contexts] == [32, 64]
    where = {
        "cold": (0, 0),
        "cold, memory full": (0, 0),
        "resident": (1, 0),
        "half gone": (0.5, 0.5),
    }
    for of_context in contexts:
        assert list(of_context["cases"]) == [*where, "all swapped"]
        for case, by_side in of_context["cases"].items():
            assert list(by_side) == SIDES
            for side, figures in by_side.items():
                resident, swapped = where.get(case, (0, 1))
                if side != "pensieve, host tier":
                    swapped = 0
                near = pytest.approx((resident, swapped), abs=0.15 if case == "half gone" else 0)
                assert (figures["resident_share"], figures["swapped_share"]) == near, (case, side)
                assert 0 < figures["longest_schedule_ms"] < figures["whole_ms"]
                assert figures["us_a_block"] == pytest.approx(
                    1e3 * figures["whole_ms"] / of_context["blocks"]
                )
                assert len(figures["whole_ms_of_repeats"]) == 2
                assert compared_with(figures) == BASES.get(side, {"stock"})
    growth = content["sessions"]["growth_of_cost_a_block"]["wall"]["resident"]["stock"]
    small, large = (c["cases"]["resident"]["stock"]["us_a_block"] for c in contexts)
    assert growth == pytest.approx(large / small)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--running", "0"), "argument --running: '0' is not a whole number from 1 on"),
        (("--steps", "2"), "argument --steps: '2' is not a whole number from 4 on"),
        (
            ("--context", "8192,many"),
            "argument --context: 'many' is not a whole number from 512 on",
        ),
        (("--context", "100"), "argument --context: '100' is not a whole number from 512 on"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_one_line(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"step_time.py: error: {said}"


def test_a_side_that_cannot_start_is_named(tmp_path):
    (tmp_path / "transformers.py").write_text("raise ImportError('there is none')")
    done = run("--context", "512", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert "ImportError: there is none" in done.stderr
    assert (
        "step_time: the process of 'stock' ended with exit status 1 while it was to" in done.stderr
    )
