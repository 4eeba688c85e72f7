"""Claims about the self-checks: all ticks on a server that works, a cross where something is broken."""

import pytest

from vllm_pensieve.selfcheck.basic_inference import check_basic_inference
from vllm_pensieve.selfcheck.checks import Checks
from vllm_pensieve.selfcheck.chunk_pinning import check_chunk_pinning
from vllm_pensieve.selfcheck.multiturn import check_multiturn
from vllm_pensieve.selfcheck.setting import Setting
from vllm_pensieve.serving import Server

pytestmark = pytest.mark.engine


def decided(check, model) -> tuple[list[bool], list[str], int]:
    """Of each line whether it holds, the lines, and the exit status."""
    lines: list[str] = []
    checks = Checks(lines.append)
    check(Setting(model=str(model)), checks)
    return [one.holds for one in checks.done], lines, checks.end()


@pytest.mark.parametrize(
    ("check", "number"),
    [(check_basic_inference, 5), (check_chunk_pinning, 6), (check_multiturn, 7)],
)
def test_all_hold_on_a_server_that_works(check, number, tiny_model):
    holding, lines, status = decided(check, tiny_model)
    assert holding == [True] * number, lines
    assert status == 0
    assert lines[-1] == f"PASSED: {number} of {number} checks passed"
    assert all(line.startswith("✓ ") for line in lines[:-1])


def test_a_server_that_forgets_between_turns_gets_crosses(tiny_model, monkeypatch):
    begin = Server.begin

    def forgetting(self, *args):
        self.reset()
        return begin(self, *args)

    monkeypatch.setattr(Server, "begin", forgetting)
    holding, lines, status = decided(check_multiturn, tiny_model)
    assert holding == [True, False, False, False, False, False, False], lines
    assert status == 1 and lines[1].startswith("✗ turn 2 computes only its new tokens: ")


def test_a_pool_that_evicts_blocks_in_use_gets_crosses(tiny_model, monkeypatch):
    advance = Server.advance

    def evicting(self, answer):
        inspection = self.inspection
        pool = inspection.scheduler.kv_cache_manager.block_pool
        for blocks in inspection.blocks_in_use().values():
            for block in blocks[:1]:
                pool._maybe_evict_cached_block(pool.blocks[block])
        return advance(self, answer)

    monkeypatch.setattr(Server, "advance", evicting)
    holding, lines, _ = decided(check_chunk_pinning, tiny_model)
    assert holding[:2] == [False, False], lines
    assert "0 of them in use" not in lines[0] and "block" in lines[0]


def test_an_error_is_a_cross_and_the_checks_go_on(tiny_model, monkeypatch):
    monkeypatch.setattr(Server, "stream", lambda *args: 1 / 0)
    holding, lines, status = decided(check_basic_inference, tiny_model)
    assert holding == [True, True, True, False, True] and status == 1
    assert lines[-1] == "FAILED: 4 of 5 checks passed"
    assert "ZeroDivisionError" in lines[3]
