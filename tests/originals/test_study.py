"""The lines of the prefix-sharing study, in order: each finds what those before it wrote, and prints what it says."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.originals.study_lines import STUDY_FILES, STUDY_LINES
from vllm_pensieve.cli.collect import collect
from vllm_pensieve.cli.study import demo_hello
from vllm_pensieve.testing.originals.lines import Done, Line, run_line

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "tests/": ("-k", "hello_world_generates"),
    "scripts/demo_prefix_metrics_hello.py": (),
    "scripts/demo_sharegpt_client.py": ("--simulate", "--conversations", "2"),
    "scripts/run_sharegpt": ("--conversations", "6"),
    "scripts/run_all": ("--simulate", "--conversations", "6"),
}
"""What makes a line short, by what it runs."""


def smallest(line: Line, folder: Path) -> tuple[Line, list[str]]:
    """The line with `folder` for /tmp, and what is added to it."""
    more = [word for key, words in SMALLEST.items() if key in line.text for word in words]
    if "scripts/" in line.text:
        more += ["--out", str(folder)]
    return replace(line, text=line.text.replace("/tmp", str(folder))), more


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Done]]:
    """The folder and what came of each line, by its text, all as small as they can be."""
    folder = tmp_path_factory.mktemp("study")
    done = {}
    for line in STUDY_LINES:
        short, more = smallest(line, folder)
        done[line.text] = run_line(short, ROOT, more=more)
    return folder, done


def said(done: dict[str, Done], *parts: str) -> str:
    """What the (first) line with these parts printed, its spaces made one."""
    return next(
        re.sub(r"[ \n]+", " ", one.output)
        for text, one in done.items()
        if all(part in text for part in parts)
    )


@pytest.mark.engine
class TestTheChain:
    def test_every_line_succeeds_and_none_warns(self, chain):
        for text, one in chain[1].items():
            assert one.status == 0, f"{text}\n{one.output}"
            if "pytest" not in text:
                assert not re.search(r"(?i)warning|Traceback|W1\d\d\d ", one.output), one.output

    def test_the_files_have_the_studys_names(self, chain):
        assert {path.name for path in chain[0].iterdir()} >= STUDY_FILES

    def test_the_simulator_echoes(self, chain):
        printed = said(chain[1], "pytest")
        assert "Prompt: Hello world Generated text: Hello world" in printed
        assert "1 passed" in printed

    def test_data_that_cannot_be_had_is_said_to_be_generated_once_a_script(self, chain):
        for text, one in chain[1].items():
            if "sharegpt" in text and "scripts/" in text:
                assert one.output.count("generated conversations.") == 1, one.output

    def test_the_client_shows_single_then_multi_turn_events(self, chain):
        printed = said(chain[1], "demo_sharegpt")
        for field in (
            "time ",
            "conversation_id multi-0",
            "turn_index 0",
            "mode multi",
            "| Human: ",
        ):
            assert field in printed
        assert printed.index("mode single") < printed.index("mode multi")

    def test_summaries_have_the_studys_numbers(self, chain):
        printed = said(chain[1], "summarize", "multi")
        assert "mean median p90 p99 above 0" in printed
        for measure in ("share of a prompt", "uses of a block", "time between two uses"):
            assert measure in printed

    @pytest.mark.parametrize("policy", ["LRU", "FIFO"])
    def test_simulations_print_hits_misses_events_and_rates(self, chain, policy):
        printed = said(chain[1], "simulate_cache", "multi 16", policy)
        assert "capacity events hits misses hit rate" in printed
        rows = re.findall(rf"{policy} (\d+) ([\d,]+) ([\d,]+) ([\d,]+) ([\d.]+)%", printed)
        assert {"64", "128", "256", "512"} <= {row[0] for row in rows}
        for _, events, hits, misses, rate in rows:
            counts = [int(text.replace(",", "")) for text in (events, hits, misses)]
            assert counts[0] == counts[1] + counts[2]
            assert float(rate) == pytest.approx(100 * counts[1] / counts[0], abs=0.01)
        assert "0.00%" in said(chain[1], "simulate_cache", "single 16", policy)

    def test_all_workloads_are_compared(self, chain):
        printed = said(chain[1], "analyze_all")
        assert "workload block requests mean median p90 p99 above 0 no limit" in printed
        for policy in ("LRU", "FIFO"):
            assert (
                f"Hits of {policy} (%) by capacity (blocks) workload block 64 128 256 512"
                in printed
            )
        for size in (16, 32, 64):
            assert len(re.findall(rf"chat_multi {size} ", printed)) == 4  # reuse, blocks, LRU, FIFO
            assert f"chat_single {size} 0.0 0.0 0.0 0.0" in printed
        assert (
            "left out, not named prefix_<workload>_b<block>: prefix_metrics_demo_multi" in printed
        )

    def test_the_mix_is_the_studys_without_options(self, chain):
        printed = said(chain[1], "mixed")
        assert "capacity workload events LRU FIFO WA-LRU no limit" in printed
        assert "256 overall" in printed and "blocks of 16 tokens" in printed
        assert "keeps chat_multi, qa alone" in printed
        for workload in ("chat_single", "summarization"):
            (row,) = re.findall(rf"{workload} [\d,]+ ([^a-z]+)", printed)
            assert row.split()[-2] == "0.0"  # WA-LRU never keeps them


def test_the_scripts_write_into_tmp_unless_told_otherwise():
    import inspect

    for command in (collect, demo_hello):
        assert inspect.signature(command).parameters["out"].default == Path("/tmp")


@pytest.mark.long
@pytest.mark.engine
def test_the_whole_study_as_it_is_written_from_an_empty_tmp(tmp_path):
    """In a mount namespace of its own, in which this test's folder is /tmp."""
    enter = f"unshare --user --map-root-user --mount bash -c 'mount --bind {tmp_path} /tmp &&"
    if (
        shutil.which("unshare") is None
        or subprocess.run(f"{enter} true'", shell=True, check=False).returncode
    ):
        pytest.skip("no user namespaces here, so /tmp would have to be that of everybody")
    report = []
    for line in STUDY_LINES:
        inside = Line(line.place, f"{enter} {line.text}'")
        done = run_line(inside, ROOT, variables={"XDG_CACHE_HOME": str(Path.home() / ".cache")})
        report.append(f"$ {line.text}\n{done.output}[{done.seconds:.0f} s, exit {done.status}]\n")
        (tmp_path / "study.log").write_text("\n".join(report))
        assert done.status == 0, report[-1]
    assert {path.name for path in tmp_path.iterdir()} >= STUDY_FILES
    assert "WA-LRU" in report[-1]
