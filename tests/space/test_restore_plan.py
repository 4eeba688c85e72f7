"""Restore plans: what is used, loaded or computed again, and that no other choice is cheaper."""

from itertools import product
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_pensieve.retention import AnalyticCostModel
from vllm_pensieve.space import restore_plan
from vllm_pensieve.space.restore_plan import (
    MOST_KEPT_STRETCHES,
    RestoreCosts,
    RestorePlan,
    Run,
    Source,
    compute_while_loading,
    plan_restore,
)
from vllm_pensieve.space.restoring import Restoring

BLOCK = 32
COST = AnalyticCostModel(linear=1.0, attention=0.01)
R, S, D = Source.RESIDENT, Source.SWAPPED, Source.RECOMPUTED
SOURCES = {"#": R, "s": S, ".": D}
patterns = st.text("#s.", max_size=8)


def costs_of(step_cost_tokens=0, load=0.0, recovery=True):
    return RestoreCosts(COST, BLOCK, step_cost_tokens, load, recovery)


def found_as(pattern):
    return bytes(SOURCES[block] for block in pattern)


def plan_of(pattern, step_cost_tokens=0, **costs):
    plan = plan_restore(found_as(pattern), costs_of(step_cost_tokens, **costs))
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
        ("sss..", (Run(S, 0, 3),)),
        ("#s.s#", (Run(R, 0, 1), Run(S, 1, 2), Run(D, 2, 3), Run(S, 3, 4), Run(R, 4, 5))),
    ],
)
def test_without_a_price_of_a_step_or_a_copy_every_kept_block_is_used(pattern, runs):
    assert plan_of(pattern).runs == runs


def test_a_short_resident_run_is_computed_with_its_neighbours_when_a_step_costs_more():
    assert plan_of("#.#.######", step_cost_tokens=64).runs == (
        Run(R, 0, 1),
        Run(D, 1, 4),
        Run(R, 4, 10),
    )


def test_a_short_resident_run_at_the_end_is_left_to_the_ordinary_prefill():
    assert plan_of("##..#", step_cost_tokens=128).runs == (Run(R, 0, 2),)


def test_the_leading_kept_stretch_is_always_used_for_it_costs_no_step():
    assert plan_of("#s...", step_cost_tokens=10**9).runs == (Run(R, 0, 1), Run(S, 1, 2))


def test_a_swapped_run_is_loaded_only_where_computing_it_takes_longer():
    load = COST.span(3 * BLOCK, 4 * BLOCK)  # as dear as computing the fourth block
    assert plan_of("ssssss", load=load).runs == (Run(D, 0, 4), Run(S, 4, 6))
    assert plan_of("ssss", load=load).runs == ()


def test_what_copies_cost_counts_against_a_stretch_behind_a_hole():
    step = costs_of().recompute(1, 3) / COST.linear  # exactly what the two blocks save
    assert plan_of(".##", step_cost_tokens=int(step) - 1).runs == (Run(D, 0, 1), Run(R, 1, 3))
    assert plan_of(".s#", step_cost_tokens=int(step) - 1, load=2.0).runs == ()


def test_without_recovery_the_kept_prefix_ends_at_the_first_dropped_block():
    assert plan_of("#s.##", recovery=False).runs == (Run(R, 0, 1), Run(S, 1, 2))
    assert plan_of(".####", recovery=False).runs == ()


@given(patterns, st.integers(0, 400), st.integers(0, 120))
def test_no_other_choice_is_cheaper(pattern, step_cost_tokens, load):
    plan = plan_of(pattern, step_cost_tokens, load=float(load))
    ours = price(pattern, used_by(plan, len(pattern)), step_cost_tokens, load)
    cheapest = min(price(pattern, c, step_cost_tokens, load) for c in choices(pattern))
    assert ours == pytest.approx(cheapest)


# -- loads that take several steps


def with_loads_of(load, pattern):
    costs = costs_of(load=load)
    plan = plan_restore(found_as(pattern), costs)
    staged = compute_while_loading(plan, costs)
    staged.check_integrity()
    return plan, staged, costs


@given(st.text("#s.", max_size=12), st.floats(0.0, 200.0))
def test_copying_and_computing_at_once_is_as_short_as_it_can_be(pattern, load):
    plan, staged, costs = with_loads_of(load, pattern)
    if not plan.loads:
        return

    def longer(computed):
        """Of both, if so many swapped blocks are computed, the first ones."""
        swapped = [i for run in plan.loads for i in range(run.start, run.end)]
        alone = [i for run in plan.holes for i in range(run.start, run.end)]
        computing = sum(costs.recompute(i, i + 1) for i in alone + swapped[:computed])
        return max(computing, load * (len(swapped) - computed))

    count = plan.blocks(S)
    starts_with_a_hole = bool(plan.holes) and plan.holes[0].start < plan.loads[0].start
    best = min(longer(n) for n in range(0 if starts_with_a_hole else 1, count + 1))
    assert longer(count - staged.blocks(S)) == pytest.approx(best)
    assert not staged.loads or staged.holes[0].start < staged.loads[0].start


def test_of_what_is_copied_for_long_the_front_is_computed():
    load = COST.span(0, BLOCK) * 2
    _, staged, costs = with_loads_of(load, "#" + "s" * 30)
    (hole,), (copied,) = staged.holes, staged.loads
    assert hole.start == 1 and hole.end == copied.start and copied.end == 31
    difference = costs.recompute(hole.start, hole.end) - load * len(copied)
    assert abs(difference) < load + costs.recompute(hole.end, hole.end + 1)


def test_a_copy_that_costs_nothing_leaves_one_block_to_compute():
    assert with_loads_of(0.0, "s" * 9)[1].runs == (Run(D, 0, 1), Run(S, 1, 9))
    assert with_loads_of(0.0, ".ss#s")[1].runs == plan_of(".ss#s").runs


# -- many stretches


class Counting(AnalyticCostModel):
    """Counts what it is asked."""

    asked: ClassVar[list[str]] = []

    def span(self, start, end):
        self.asked.append("span")
        return super().span(start, end)

    def step(self, depth):
        self.asked.append("step")
        return super().step(depth)

    def tokens_at_start(self, tokens):
        self.asked.append("tokens")
        return super().tokens_at_start(tokens)


@pytest.mark.parametrize("pattern", ["#.", "s.", "#s", "#s.", "##s.s..", "#.s"])
@pytest.mark.parametrize("step_cost_tokens", [0, 128, None])
def test_however_scattered_a_prefix_is_its_plan_asks_a_bounded_number_of_prices(
    pattern, step_cost_tokens
):
    Counting.asked.clear()
    found = found_as(pattern * (16_000 // len(pattern)))
    costs = RestoreCosts(Counting(1.0, 0.01), BLOCK, step_cost_tokens, load=3.0)
    plan = plan_restore(found, costs)
    plan.check_integrity()
    assert plan.end > 0
    assert len(Counting.asked) < 7 * MOST_KEPT_STRETCHES
    assert len(plan.holes) <= MOST_KEPT_STRETCHES
    for run in plan.runs:
        if run.source is not D:
            assert set(found[run.start : run.end]) == {run.source}


def test_of_too_many_stretches_the_cheapest_to_compute_are_given_up(monkeypatch):
    monkeypatch.setattr(restore_plan, "MOST_KEPT_STRETCHES", 3)
    assert plan_of("#.#####.#.####.#").runs == (
        Run(R, 0, 1),  # leading: its use costs no step
        Run(D, 1, 2),
        Run(R, 2, 7),
        Run(D, 7, 10),
        Run(R, 10, 14),
    )


def test_of_equally_long_stretches_the_shallow_ones_are_given_up(monkeypatch):
    monkeypatch.setattr(restore_plan, "MOST_KEPT_STRETCHES", 2)
    assert plan_of(".#.#.s.#").runs == (Run(D, 0, 5), Run(S, 5, 6), Run(D, 6, 7), Run(R, 7, 8))


@given(st.text("#s.", max_size=40), st.integers(0, 400), st.integers(0, 120))
def test_with_fewer_stretches_taken_into_account_a_plan_is_sound_and_no_cheaper(
    pattern, step_cost_tokens, load
):
    best = plan_of(pattern, step_cost_tokens, load=float(load))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(restore_plan, "MOST_KEPT_STRETCHES", 2)
        plan = plan_of(pattern, step_cost_tokens, load=float(load))
    assert all(
        run.source in (D, SOURCES[pattern[i]])
        for run in plan.runs
        for i in range(run.start, run.end)
    )
    prices = [
        price(pattern, used_by(p, len(pattern)), step_cost_tokens, load) for p in (best, plan)
    ]
    assert prices[0] <= prices[1] * (1 + 1e-9)


def used_by(plan: RestorePlan, blocks: int):
    used = [False] * blocks
    for run in plan.runs:
        if run.source is not D:
            used[run.start : run.end] = [True] * len(run)
    return used


def choices(pattern):
    """Every way to use or not to use each kept block."""
    options = [[False] if block == "." else [False, True] for block in pattern]
    return product(*options)


def price(pattern, used, step_cost_tokens, load):
    """FLOPs of what is computed, copies, and a step for every used stretch that something was computed before."""
    computed = sum(COST.span(i * BLOCK, (i + 1) * BLOCK) for i, use in enumerate(used) if not use)
    copies = sum(load for block, use in zip(pattern, used, strict=True) if use and block == "s")
    jumps = sum(1 for i, use in enumerate(used) if use and i and not used[i - 1])
    return computed + copies + jumps * COST.tokens_at_start(step_cost_tokens)


@given(st.text("#s.", max_size=40), st.data())
def test_a_walk_computes_every_dropped_token_once_and_no_other(pattern, data):
    plan = plan_of(pattern)
    if not plan.holes:
        return
    missing = [i for i, block in enumerate(pattern[: plan.end]) if block != "#"]
    walk = Restoring(plan, missing, [0] * plan.blocks(S), BLOCK)
    walk.check_integrity()
    position, computed = walk.start, []
    while walk.holes:
        step = walk.clip(position, data.draw(st.integers(1, 100)))
        assert walk.chunk == (position, position + step)
        computed += range(position, position + step)
        position += step
        jumped = walk.jump(position)
        position = position if jumped is None else jumped
    assert position == plan.end * BLOCK
    dropped = [i for i, block in enumerate(pattern[: plan.end]) if block == "."]
    assert computed == [token for i in dropped for token in range(i * BLOCK, (i + 1) * BLOCK)]
