"""The host tier: what it holds, what gives way, and what is protected."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vllm_pensieve.retention import AnalyticCostModel, make_order
from vllm_pensieve.space.host_tier import HostTier
from vllm_pensieve.space.swapper import Swapper

BLOCK = 32
COST = AnalyticCostModel(linear=1.0, attention=0.01)


def order(policy="lru"):
    return make_order(policy, COST, BLOCK, 1.0)


@pytest.fixture
def tier():
    return HostTier(3, order())


def fill(tier, keys="abc"):
    return [tier.store(key, BLOCK * i, now_s=0.0) for i, key in enumerate(keys)]


def test_a_copy_is_found_by_its_key(tier):
    slots = fill(tier)
    assert [tier.find(key) for key in "abcd"] == [*slots, None]
    assert len(tier) == 3 and tier.room == 0


def test_copies_of_busy_blocks_give_way_first(tier):
    _, only, busy = fill(tier)
    tier.block_gone(only, 0.0)
    tier.block_in_use(busy)
    assert tier.store("d", 0, 1.0) == busy
    assert tier.find("c") is None and tier.dropped_blocks == 0, "block c is still in GPU memory"


def test_a_quarter_of_the_slots_may_hold_copies_of_idle_blocks_before_only_copies_give_way():
    tier = HostTier(8, order())
    slots = fill(tier, "abcdefgh")
    for slot in slots[2:]:
        tier.block_gone(slot, 0.0)
    assert tier.room == 0, "two of eight are idle: no copy ahead of time takes an only copy's place"
    assert tier.store("i", 0, 1.0) == slots[2] and tier.dropped_blocks == 1
    assert tier.store("j", 0, 1.0) == slots[2], (
        "now three are idle, and the last of them goes first"
    )
    assert tier.find("i") is None and tier.dropped_blocks == 1
    tier.block_in_use(slots[0])
    assert tier.room == 1


def test_the_copies_of_idle_blocks_give_way_when_there_is_nothing_else(tier):
    slots = fill(tier)
    assert tier.store("d", 0, 1.0) == slots[-1]


def test_only_copies_give_way_by_retention_value():
    tier = HostTier(2, order("retention"))
    shallow, deep = tier.store("shallow", 0, 0.0), tier.store("deep", 100 * BLOCK, 0.0)
    tier.block_gone(deep, 0.0)
    tier.block_gone(shallow, 0.0)
    assert tier.store("new", 0, 5.0) == shallow, "it is the cheaper one to compute again"


def test_held_copies_never_give_way(tier):
    slots = fill(tier)
    for slot in slots:
        tier.block_gone(slot, 0.0)
    tier.hold(slots)
    assert tier.store("d", 0, 1.0) is None
    assert tier.only_copies == 3
    tier.release(slots)
    assert tier.store("d", 0, 1.0) == slots[0]
    tier.check_integrity()


def test_what_a_step_has_left_is_noticed(tier):
    (slot,) = fill(tier, "a")
    swapper = Swapper(tier, order())
    swapper.check_integrity(unused={1}, idle=True)
    tier.block_gone(slot, 0.0)
    tier.hold([slot])
    swapper.check_integrity(unused={1})
    with pytest.raises(AssertionError):
        swapper.check_integrity(unused={1}, idle=True)
    tier.release([slot])
    swapper.evicted([(1, "b", 0, 0.0)])
    with pytest.raises(AssertionError):
        swapper.check_integrity(unused={1}, idle=True)
    swapper.take_plan(ahead=0)
    swapper.check_integrity(unused={1}, idle=True)
    swapper.idle([2], ["c"], [0], 0.0)
    with pytest.raises(AssertionError):
        swapper.check_integrity(unused={1})


def test_a_held_copy_whose_block_is_loaded_meanwhile_is_a_busy_one_when_released(tier):
    slots = fill(tier)
    tier.block_gone(slots[0], 0.0)
    tier.hold(slots[:1])
    tier.block_in_use(slots[0])
    tier.release(slots[:1])
    assert tier.only_copies == 0
    assert tier.store("d", 0, 1.0) == slots[0]


def test_discarded_slots_are_free_and_not_found(tier):
    slots = fill(tier)
    version = tier.version
    tier.discard([slots[1], slots[1]])
    assert tier.find("b") is None and tier.room == 1 and tier.version > version
    tier.clear()
    assert len(tier) == 0 and tier.room == 3
    tier.check_integrity()


def test_a_copy_that_gives_way_in_the_step_that_planned_it_is_not_made():
    host = HostTier(4, order("retention"))
    swapper = Swapper(host, order("retention"), lambda: 10.0)
    for key in "abc":
        host.block_gone(host.store(key, 100 * BLOCK, 0.0), last_use_s=9.0)
    swapper.evicted([(1, "shallow", 0, 0.0)])  # worth least
    swapper.idle([2], ["d"], [100 * BLOCK], 9.0)
    plan = swapper.take_plan(ahead=1)
    plan.check_integrity()
    assert plan.stores == () and [block for block, _ in plan.ahead] == [2]
    assert host.find("shallow") is None


@pytest.mark.parametrize(("policy", "first"), [("fifo", 1), ("lru", 2)])
def test_a_block_that_is_used_again_is_copied_ahead_when_it_will_leave(policy, first):
    swapper = Swapper(HostTier(9, order(policy)), order(policy), lambda: 10.0)
    for block, key in ((1, "a"), (2, "b")):
        swapper.idle([block], [key], [0], 1.0)
    swapper.in_use(1, "a")
    swapper.idle([1], ["a"], [0], 2.0)
    assert [block for block, _ in swapper.take_plan(ahead=1).ahead] == [first]


def test_with_fifo_a_block_keeps_its_place_while_it_is_clean():
    swapper = Swapper(HostTier(9, order("fifo")), order("fifo"), lambda: 10.0)
    for block, key in ((1, "a"), (2, "b")):
        swapper.idle([block], [key], [0], 1.0)
    ((_, slot),) = swapper.take_plan(ahead=1).ahead
    swapper.in_use(1, "a")
    swapper.host.discard([slot])
    swapper.idle([1], ["a"], [0], 2.0)
    assert [block for block, _ in swapper.take_plan(ahead=1).ahead] == [1]
    swapper.in_use(1, "a")
    swapper.overwritten(1)  # its content is gone: what it holds next is new
    swapper.idle([1], ["c"], [0], 3.0)
    assert [block for block, _ in swapper.take_plan(ahead=1).ahead] == [2]


class PoolAndTier(RuleBasedStateMachine):
    """A GPU pool as plain dicts beside the swapper: the copies must always add up."""

    @initialize(slots=st.integers(1, 9), policy=st.sampled_from(["lru", "retention", "fifo"]))
    def make(self, slots, policy):
        self.now = 0.0
        self.swapper = Swapper(HostTier(slots, order(policy)), order(policy), lambda: self.now)
        self.order = order(policy)  # the pool's
        self.in_use, self.idle = {}, {}  # block -> (key, position)
        self.gpu = {}  # block -> content, as the workers have it
        self.host = {}  # slot -> content
        self.next_block = 0
        self.loading = set()

    def holders(self, key):
        return [b for b, (k, _) in (self.in_use | self.idle).items() if k == key]

    @rule(keys=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    def new_blocks(self, keys):
        for key in keys:
            block = self.next_block
            self.next_block += 1
            self.in_use[block] = (key, BLOCK * key)
            self.gpu[block] = key
            self.swapper.cached("request", block, key, BLOCK * key)

    @precondition(lambda self: self.in_use.keys() - self.loading)
    @rule(data=st.data())
    def fall_out_of_use(self, data):
        self.now += 1
        loaded = sorted(self.in_use.keys() - self.loading)
        blocks = data.draw(st.lists(st.sampled_from(loaded), min_size=1, unique=True))
        for block in blocks:
            self.idle[block] = self.in_use.pop(block)
        entries = [self.idle[block] for block in blocks]
        keys, positions = zip(*entries, strict=True)
        self.order.insert(blocks, positions, self.now)
        self.swapper.idle(blocks, keys, positions, self.now)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def use_again(self, data):
        block = data.draw(st.sampled_from(sorted(self.idle)))
        self.in_use[block] = self.idle.pop(block)
        self.order.remove(block)
        self.swapper.in_use(block, self.in_use[block][0])

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def evict(self, data):
        block = data.draw(st.sampled_from(sorted(self.idle)))
        key, position = self.idle.pop(block)
        self.content_is_gone(block)
        self.swapper.overwritten(block)
        if not self.holders(key):
            self.swapper.evicted([(block, key, position, self.now)])

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def lose_content(self, data):
        block = data.draw(st.sampled_from(sorted(self.idle)))
        key, _ = self.idle.pop(block)
        self.content_is_gone(block)
        self.swapper.overwritten(block)
        if not self.holders(key):
            self.swapper.content_lost(key)

    def content_is_gone(self, block):
        self.order.remove(block)
        self.order.forget(block)

    @rule(keys=st.sets(st.integers(0, 9)), fits=st.booleans())
    def load(self, keys, fits):
        host = self.swapper.host
        wanted = {key: host.find(key) for key in keys if not self.holders(key)}
        slots = {key: slot for key, slot in wanted.items() if slot is not None}
        host.hold(slots.values())
        if not fits:
            host.release(slots.values())
            return
        for key, slot in slots.items():
            block = self.next_block
            self.next_block += 1
            self.in_use[block] = (key, BLOCK * key)
            self.gpu[block] = None
            self.swapper.cached("request", block, key, BLOCK * key)
            self.swapper.load(slot, block)
            self.loading.add(block)

    @rule(ahead=st.integers(0, 3))
    def step(self, ahead):
        plan = self.swapper.take_plan(ahead)
        plan.check_integrity()
        self.loading.clear()
        for block, slot in plan.stores:
            self.host[slot] = self.gpu[block]
        for slot, block in plan.loads:
            self.gpu[block] = self.host[slot]
        for block, slot in plan.ahead:
            self.host[slot] = self.gpu[block]
        self.gpu = {b: c for b, c in self.gpu.items() if b in self.in_use or b in self.idle}
        for block, (key, _) in (self.in_use | self.idle).items():
            assert self.gpu[block] == key
        for key in range(10):
            slot = self.swapper.host.find(key)
            assert slot is None or self.host[slot] == key
        only = [
            k for k in range(10) if self.swapper.host.find(k) is not None and not self.holders(k)
        ]
        assert self.swapper.host.only_copies == len(only)

    @invariant()
    def nothing_contradicts(self):
        if hasattr(self, "swapper"):
            self.swapper.check_integrity(unused=set(self.idle))

    @invariant()
    def unused_blocks_are_copied_in_the_order_in_which_they_will_leave(self):
        if hasattr(self, "swapper"):
            dirty = self.swapper._dirty
            leaving = self.order.peek(len(self.order), self.now + 1)
            copied = dirty.peek(len(dirty), self.now + 1)
            assert copied == [block for block in leaving if block in dirty]


PoolAndTier.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPoolAndTier = PoolAndTier.TestCase
