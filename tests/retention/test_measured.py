"""Costs that were measured: exact sums over straight lines, and what cannot be a cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies.orders import order_of
from vllm_pensieve.retention import (
    AnalyticCostModel,
    MeasuredCostModel,
    PiecewiseLinear,
)

CURVE = PiecewiseLinear([0, 256, 512, 1024], [1.0, 1.5, 1.75, 3.0])


def measured(curve: PiecewiseLinear = CURVE, step_s: float = 5.0) -> MeasuredCostModel:
    return MeasuredCostModel(curve, step_s, 0.01)


@pytest.mark.parametrize(
    ("depth", "cost"),
    [(0, 1.0), (128, 1.25), (256, 1.5), (384, 1.625), (512, 1.75), (768, 2.375), (1024, 3.0)],
)
def test_a_token_costs_what_was_measured_and_between_that_a_straight_line(depth, cost):
    assert CURVE.at(depth) == cost


def test_behind_the_last_point_the_line_goes_on():
    assert CURVE.at(1536) == 3.0 + 1.25
    assert measured().span(1536, 1537) == pytest.approx(4.25)


curves = st.integers(2, 6).flatmap(
    lambda count: st.builds(
        lambda gaps, rises, first: PiecewiseLinear(
            [sum(gaps[:i]) for i in range(count)],
            [first + sum(rises[:i]) for i in range(count)],
        ),
        st.lists(st.integers(1, 300), min_size=count, max_size=count),
        st.lists(st.floats(0, 10), min_size=count, max_size=count),
        st.floats(0.001, 10),
    )
)


@given(curves, st.integers(0, 1500), st.integers(0, 200))
def test_a_span_is_the_sum_of_its_tokens_one_by_one(curve, start, tokens):
    by_hand = math.fsum(curve.at(depth) for depth in range(start, start + tokens))
    assert measured(curve).span(start, start + tokens) == pytest.approx(by_hand, abs=1e-9)


@given(curves, st.integers(0, 1500), st.integers(1, 64))
def test_a_deeper_span_costs_no_less(curve, start, tokens):
    model = measured(curve)
    shallow, deep = model.span(start, start + tokens), model.span(start + 32, start + 32 + tokens)
    assert deep >= shallow * (1 - 1e-9)


def test_two_points_of_the_analytic_line_give_the_analytic_costs():
    analytic = AnalyticCostModel(linear=2.0, attention=0.25)
    model = measured(PiecewiseLinear([0, 400], [2.0, 102.0]))
    assert model.span(37, 1291) == pytest.approx(analytic.span(37, 1291))
    assert model.tokens_at_start(3) == analytic.tokens_at_start(3)
    assert model.depth_of_double_cost() == analytic.depth_of_double_cost()


def test_a_step_has_a_fixed_part_and_one_for_what_it_reads():
    assert measured().step(0) == 5.0
    assert measured().step(1000) == 15.0


def test_an_analytic_step_is_worth_128_tokens_at_any_depth():
    model = AnalyticCostModel(linear=2.0, attention=0.25)
    assert model.step(0) == model.step(9999) == 2.0 * 128


def test_where_a_token_costs_twice_as_much_as_the_first():
    assert measured().depth_of_double_cost() == pytest.approx(512 + 0.25 / 1.25 * 512)
    assert measured(PiecewiseLinear([0, 10], [1.0, 1.5])).depth_of_double_cost() == 20
    assert measured(PiecewiseLinear([0, 10], [1.0, 1.0])).depth_of_double_cost() == math.inf


@pytest.mark.parametrize(
    ("positions", "values", "message"),
    [
        ([0], [1.0], "a value at 0 and at one more position"),
        ([1, 2], [1.0, 1.0], "a value at 0"),
        ([0, 5, 5], [1.0, 1.0, 1.0], "must ascend"),
        ([0, 5], [1.0], "a value at 0"),
        ([0, 5], [0.0, 1.0], "must be positive"),
        ([0, 5, 9], [1.0, 3.0, 2.0], "may not fall"),
    ],
)
def test_what_cannot_be_a_cost_is_refused(positions, values, message):
    with pytest.raises(ValueError, match=message):
        measured(PiecewiseLinear(positions, values))


def test_a_step_that_costs_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="less than nothing"):
        measured(step_s=-1e-9)


def test_blocks_leave_by_measured_value():
    """At equal idle time the cheaper block first; idle twice as long, one that costs less than twice as much."""
    order = order_of("retention", costs=measured())
    order.insert([1, 2, 3], [30, 16, 0], last_use_s=0.0)
    assert order.peek(3, now_s=10.0) == [3, 2, 1]
    order.remove([3])
    order.insert([3], [0], last_use_s=6.0)  # idle for 4 s of 10; costs 0.57 and 0.35 of the others
    assert order.evict(3, now_s=10.0) == [2, 3, 1]
