"""The demonstration: its plan, and what it says at the end."""

from pathlib import Path

import pytest
from rich.console import Console

from vllm_pensieve.bench.demo import CHATS, make_demo_plan
from vllm_pensieve.cli.demo import closing
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import kv_shape
from vllm_pensieve.machine import GIB


def summary(**mean_returning: float | None) -> dict:
    modes = {
        name.replace("_", "-"): {"ttft_s": {"mean_returning": value}}
        for name, value in mean_returning.items()
    }
    return {"modes": modes}


def said(result: dict, out: Path = Path("out/demo")) -> str:
    console = Console(width=120, highlight=False)
    with console.capture() as capture:
        for line in closing(result, out):
            console.print(line, soft_wrap=True)
    return capture.get()


def test_memory_holds_a_part_of_the_chats_and_host_memory_the_rest(tmp_path: Path) -> None:
    plan = make_demo_plan(tmp_path / "out")
    chats_gib = (
        sum(c.context_tokens(0) for c in plan.conversations)
        * kv_shape("demo", "float32").bytes_per_token
        / GIB
    )
    longest_gib = chats_gib / len(plan.conversations)
    assert longest_gib < plan.kv_cache_gib < chats_gib / 2
    (pensieve,) = (mode for mode in plan.modes if mode.name == "pensieve")
    assert pensieve.pensieve is not None
    assert pensieve.pensieve["host_cache_gib"] == pytest.approx(chats_gib)


def test_every_mode_gets_the_same_chats_in_float32(tmp_path: Path) -> None:
    plan = make_demo_plan(tmp_path / "out")
    assert [mode.name for mode in plan.modes] == ["vllm", "vllm-apc", "pensieve"]
    assert plan.server_options[-2:] == ("--dtype", "float32")
    assert [len(c.turns) for c in plan.conversations] == [CHATS.turns] * CHATS.sessions


def test_results_cannot_go_into_a_file(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.touch()
    with pytest.raises(UsageError, match="is a file; name a folder"):
        make_demo_plan(file)


def test_the_end_compares_the_modes_and_says_what_to_do_next() -> None:
    text = said(summary(vllm=2.0, vllm_apc=1.5, pensieve=0.125))
    assert "vllm-apc    1.50 s" in text
    assert "pensieve    125 ms" in text
    assert "12.0x faster here than vLLM's own prefix caching" in text
    assert "out/demo/ttft_by_turn.png" in text
    for command in ("pensieve chat ", "pensieve serve MODEL ", "pensieve compare "):
        assert text.count(f"  {command}") == 1


def test_a_mode_in_which_no_chat_returned_is_left_out() -> None:
    text = said(summary(vllm=None, vllm_apc=1.5, pensieve=None))
    assert "x faster" not in text and "vllm-apc" in text
