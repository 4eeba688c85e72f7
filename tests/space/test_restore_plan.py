"""Restore plans: what is used, what is computed again, and that no other choice is cheaper."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_pensieve.recovery import Walk
from vllm_pensieve.retention import CostModel
from vllm_pensieve.space.restore_plan import RestorePlan, Run, Source, plan_restore

BLOCK = 32
COST = CostModel(linear=1.0, attention=0.01)
R, D = Source.RESIDENT, Source.RECOMPUTED


def plan_of(pattern, step_cost_tokens=0):
    plan = plan_restore([block == "#" for block in pattern], COST, BLOCK, step_cost_tokens)
    plan.check_integrity()
    return plan


@pytest.mark.parametrize(
    ("pattern", "runs"),
    [
        ("", ()),
        ("....", ()),
        ("###", (Run(R, 0, 3),)),
        ("###..", (Run(R, 0, 3),)),
        ("..###", (Run(D, 0, 2), Run(R, 2, 5))),
        ("#..#.##.", (Run(R, 0, 1), Run(D, 1, 3), Run(R, 3, 4), Run(D, 4, 5), Run(R, 5, 7))),
    ],
)
def test_without_a_price_of_a_step_every_resident_block_is_used(pattern, runs):
    assert plan_of(pattern).runs == runs


def test_a_short_resident_run_is_computed_with_its_neighbours_when_a_step_costs_more():
    assert plan_of("#.#.######", step_cost_tokens=64).runs == (
        Run(R, 0, 1),
        Run(D, 1, 4),
        Run(R, 4, 10),
    )


def test_a_short_resident_run_at_the_end_is_left_to_the_ordinary_prefill():
    assert plan_of("##..#", step_cost_tokens=128).runs == (Run(R, 0, 2),)


def test_the_leading_resident_run_is_always_used_for_it_costs_no_step():
    assert plan_of("#....", step_cost_tokens=10**9).runs == (Run(R, 0, 1),)


@given(st.lists(st.booleans(), max_size=9), st.integers(0, 400))
def test_no_other_choice_of_resident_runs_is_cheaper(resident, step_cost_tokens):
    plan = plan_restore(resident, COST, BLOCK, step_cost_tokens)
    assert price(resident, used_by(plan, len(resident)), step_cost_tokens) == pytest.approx(
        min(price(resident, choice, step_cost_tokens) for choice in choices(resident))
    )


def used_by(plan: RestorePlan, blocks: int):
    used = [False] * blocks
    for run in plan.runs:
        if run.source is R:
            used[run.start : run.end] = [True] * (run.end - run.start)
    return used


def choices(resident):
    """All ways to use or not to use each maximal resident run."""
    starts = [i for i, r in enumerate(resident) if r and (i == 0 or not resident[i - 1])]
    for picks in product([False, True], repeat=len(starts)):
        used = [False] * len(resident)
        for start, pick in zip(starts, picks, strict=True):
            end = start
            while pick and end < len(resident) and resident[end]:
                used[end] = True
                end += 1
        yield used


def price(resident, used, step_cost_tokens):
    """FLOPs of what is not used, and a step for every used run that something was computed before."""
    computed = sum(COST.span(i * BLOCK, (i + 1) * BLOCK) for i, use in enumerate(used) if not use)
    jumps = sum(1 for i, use in enumerate(used) if use and i and not used[i - 1])
    return computed + jumps * COST.tokens_at_start(step_cost_tokens)


@given(st.lists(st.booleans(), max_size=40), st.data())
def test_a_walk_computes_every_dropped_token_once_and_no_other(resident, data):
    plan = plan_restore(resident, COST, BLOCK, 0)
    if not plan.holes:
        return
    walk = Walk.over(plan, BLOCK)
    walk.check_integrity()
    total = walk.hole_tokens
    position, computed = walk.start, []
    while not walk.done:
        step = walk.clip(position, data.draw(st.integers(1, 100)))
        assert walk.chunk == (position, position + step)
        computed += range(position, position + step)
        position += step
        jumped = walk.jump(position)
        position = position if jumped is None else jumped
    assert position == plan.end * BLOCK
    dropped = [i for i, r in enumerate(resident[: plan.end]) if not r]
    assert computed == [token for i in dropped for token in range(i * BLOCK, (i + 1) * BLOCK)]
    assert len(computed) == total
