"""Whatever the order of arrivals, steps, evictions, aborts, preemptions and resets: hypothesis looks for a bad one."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test

SESSIONS = 3
picks = st.integers(0, 1 << 16)  # which of several, modulo their number


def machine(make_world, steps_in_flight, runner):
    from tests.scheduler.world import tokens

    class Events(RuleBasedStateMachine):
        @initialize(
            blocks=st.sampled_from([24, 40, 80]),
            step_tokens=st.sampled_from([16, 24, 64]),
            policy=st.sampled_from(["fcfs", "priority"]),
            step_cost_tokens=st.sampled_from([0, 40]),
        )
        def start(self, blocks, step_tokens, policy, step_cost_tokens):
            self.world = make_world(
                blocks=blocks,
                step_tokens=step_tokens,
                policy=policy,
                max_requests=4,
                steps_in_flight=steps_in_flight,
                runner=runner,
                settings={"step_cost_tokens": step_cost_tokens},
            )
            self.histories = [tokens(50, seed=i) for i in range(SESSIONS)]
            self.histories[1][:32] = self.histories[0][:32]  # a prefix in common
            self.live = []
            self.turns = 0

        @precondition(lambda self: len(self.live) < 6)
        @rule(session=st.integers(0, SESSIONS - 1), new=st.integers(1, 70), output=st.integers(1, 20), priority=picks)
        def next_turn(self, session, new, output, priority):
            self.turns += 1
            history = self.histories[session]
            if len(history) + new > 250:
                del history[40:]
            history += tokens(new, seed=1000 + self.turns)
            self.live.append(self.world.add(history, output, priority=priority % 3))

        @rule(count=st.integers(1, 6))
        def steps(self, count):
            for _ in range(count):
                self.world.step()
            for request in [r for r in self.live if r.is_finished()]:
                self.live.remove(request)
                self.world.assert_answered(request)

        @rule(which=st.sets(st.integers(0, 79), max_size=20))
        def evict(self, which):
            blocks = self.world.pool.blocks
            idle = {b.block_id for b in blocks if b.ref_cnt == 0 and b.block_hash is not None}
            self.world.pool.evict_blocks(which & idle)

        @precondition(lambda self: self.live)
        @rule(pick=picks)
        def abort(self, pick):
            self.world.abort(self.live.pop(pick % len(self.live)))

        @precondition(lambda self: self.world.scheduler.running)
        @rule(pick=picks, drop=st.booleans())
        def preempt(self, pick, drop):
            running = self.world.scheduler.running
            self.world.preempt(running[pick % len(running)], drop_stale_output=drop)

        @rule(running_too=st.booleans())
        def reset_cache(self, running_too):
            self.world.scheduler.reset_prefix_cache(reset_running_requests=running_too)

        @invariant()
        def nothing_contradicts(self):
            if hasattr(self, "world"):
                self.world.assert_sound()
                self.world.assert_free_queue_intact()
                self.world.scheduler.sessions.check_integrity()
                for walk in self.world.walks.values():
                    walk.check_integrity()

        def teardown(self):
            if hasattr(self, "world"):
                self.world.drain()
                self.world.assert_answered(*self.live)
                self.world.assert_sound()
                self.world.assert_nothing_left()

    return Events


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_no_order_of_events_breaks_the_scheduler(make_world, steps_in_flight, runner):
    run_state_machine_as_test(
        machine(make_world, steps_in_flight, runner),
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
