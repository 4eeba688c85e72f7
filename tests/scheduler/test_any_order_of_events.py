"""Whatever the order of arrivals, steps, evictions, aborts, preemptions and resets: hypothesis looks for a bad one."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

SESSIONS = 3
picks = st.integers(0, 1 << 16)  # which of several, modulo their number


def machine(make_world, steps_in_flight, runner, host_tier):
    from vllm_pensieve.testing.world import tokens

    class Events(RuleBasedStateMachine):
        @initialize(
            blocks=st.sampled_from([30, 50, 80]),
            step_tokens=st.sampled_from([16, 24, 64]),
            policy=st.sampled_from(["fcfs", "priority"]),
            step_cost_tokens=st.sampled_from([0, 40]),
            host_blocks=st.sampled_from([2, 10, 60]) if host_tier else st.just(0),
            faults=st.sampled_from([0.0, 0.2]) if host_tier else st.just(0.0),
            loads_per_step=st.sampled_from([None, 1, 4]) if host_tier else st.none(),
        )
        def start(
            self, blocks, step_tokens, policy, step_cost_tokens, host_blocks, faults, loads_per_step
        ):
            self.faults = faults
            self.world = make_world(
                blocks=blocks,
                step_tokens=step_tokens,
                policy=policy,
                max_requests=4,
                steps_in_flight=steps_in_flight,
                runner=runner,
                settings={"step_cost_tokens": step_cost_tokens},
                host_blocks=host_blocks,
                loads_per_step=loads_per_step,
            )
            if host_tier:
                self.world.host.fail_loads = self.world.host.fail_stores = faults
            self.histories = [tokens(120, seed=i) for i in range(SESSIONS)]
            self.histories[1][:32] = self.histories[0][:32]  # a prefix in common
            self.live = []
            self.turns = 0

        @precondition(lambda self: len(self.live) < 6)
        @rule(
            session=st.integers(0, SESSIONS - 1),
            lost=st.sets(st.integers(0, 14), max_size=10),
            new=st.integers(1, 70),
            output=st.integers(1, 20),
            priority=st.integers(0, 2),
        )
        def next_turn(self, session, lost, new, output, priority):
            """A session comes back after some of its blocks have been dropped."""
            self.turns += 1
            history = self.histories[session]
            self.world.unhash_idle_blocks(history, lost)
            if len(history) + new > 250:
                del history[100:]
            history += tokens(new, seed=1000 + self.turns)
            self.live.append(self.world.add(history, output, priority=priority))

        @rule(count=st.integers(1, 12))
        def steps(self, count):
            for _ in range(count):
                self.world.step()
            self.collect()

        @rule()
        def finish_all(self):
            self.world.drain()
            self.collect()

        def collect(self):
            for request in [r for r in self.live if r.is_finished()]:
                self.live.remove(request)
                self.world.assert_answered(request)

        @rule(every=st.integers(1, 4), offset=picks)
        def evict(self, every, offset):
            """Every n-th of the cached blocks that nobody uses."""
            blocks = self.world.pool.blocks
            idle = [b.block_id for b in blocks if b.ref_cnt == 0 and b.block_hash is not None]
            self.world.pool.evict_blocks(set(idle[offset % every :: every]))

        @precondition(lambda self: self.live)
        @rule(pick=picks)
        def abort(self, pick):
            self.world.abort(self.live.pop(pick % len(self.live)))

        @precondition(lambda self: self.world.scheduler.running)
        @rule(pick=picks, drop=st.booleans())
        def preempt(self, pick, drop):
            running = self.world.scheduler.running
            self.world.preempt(running[pick % len(running)], drop_stale_output=drop)

        @rule(running_too=st.booleans(), now=st.integers(0, 9))
        def reset_cache(self, running_too, now):
            if now == 0:  # seldom, or nothing is ever cached
                self.world.scheduler.reset_prefix_cache(reset_running_requests=running_too)

        @invariant()
        def nothing_contradicts(self):
            if hasattr(self, "world"):
                if not self.faults:
                    self.world.assert_sound()
                self.world.assert_free_queue_intact()
                self.world.scheduler.sessions.check_integrity()
                for walk in self.world.walks.values():
                    walk.check_integrity()

        def teardown(self):
            if hasattr(self, "world"):
                self.world.drain()
                self.world.assert_answered(*self.live)
                if self.faults:  # a step may read what failed to load, but nothing of it may stay
                    assert not self.world.falsely_cached_blocks()
                else:
                    self.world.assert_sound()
                self.world.assert_nothing_left()

    return Events


@pytest.mark.parametrize("runner", ["v1", "v2"])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("host_tier", [False, True])
def test_no_order_of_events_breaks_the_scheduler(make_world, steps_in_flight, runner, host_tier):
    run_state_machine_as_test(
        machine(make_world, steps_in_flight, runner, host_tier),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
