"""What follows from the registry: files, names in messages and help, tables in the documentation, and a new policy."""

import re
from pathlib import Path

import pytest

from tests.analysis.streams import run, stream_of
from tests.policies.orders import SERVED, order_of
from vllm_pensieve import policies
from vllm_pensieve.config import ConfigError, PensieveConfig
from vllm_pensieve.policies import registry
from vllm_pensieve.policies.policy import Clairvoyant
from vllm_pensieve.policies.registry import POLICIES, Entry, load_policy

ROOT = Path(__file__).parents[2]
MOST_RECENT = '''"""Most recently used first."""

from numba.extending import register_jitable

from vllm_pensieve.policies.lru import CACHED, forget, insert, new_state, remove
from vllm_pensieve.policies.policy import Policy
from vllm_pensieve.policies.queues import newest


@register_jitable
def choose(state, now_s):
    return newest(state.queues, CACHED)


@register_jitable
def evict(state, incoming, now_s):
    victim = choose(state, now_s)
    remove(state, victim)
    forget(state, victim)
    return victim


POLICY = Policy(new_state, remove, evict, insert, choose, forget)
'''


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_served_or_it_is_known_why_not(name):
    entry, policy = POLICIES[name], load_policy(name)
    assert bool(entry.served_as) != bool(entry.simulated_only)
    can_be = not isinstance(policy, Clairvoyant) and policy.choose is not None
    assert can_be or not entry.served_as


def test_every_file_with_a_policy_is_registered():
    here = Path(policies.__file__).parent
    with_policy = {p.stem for p in here.glob("*.py") if "\nPOLICY = " in p.read_text()}
    assert with_policy == {entry.file for entry in POLICIES.values()}


@pytest.fixture
def most_recent(tmp_path, monkeypatch):
    """A new policy: a file and a line."""
    (tmp_path / "most_recent.py").write_text(MOST_RECENT)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    entry = Entry("most_recent", "most recently used", "most-recent")
    monkeypatch.setitem(registry.POLICIES, "most-recent", entry)
    return "most-recent"


def test_a_new_policy_is_a_file_and_a_line(most_recent):
    order = order_of(most_recent)
    order.insert([2, 1, 0], [2, 1, 0], 0.0)
    assert order.evict(2, 1.0) == [0, 1]
    some = [([0, 1, 2], 1.0), ([3], 1.0)]
    assert run(most_recent, stream_of(some), 3)[1] == [0]
    assert PensieveConfig(eviction_policy=most_recent)
    with pytest.raises(ConfigError, match=r"one of retention.*most-recent"):
        PensieveConfig(eviction_policy="mru")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mru", r"'mru'; allowed: one of retention, lru, lru-head-first, fifo, lfu, gdsf, sieve\."),
        ("arc", r"\(arc is for simulations only: it remembers evicted blocks by their content\)"),
        ("min", r"\(min is for simulations only: it needs to know the future\)"),
        ("fifo-as-served", r"\(fifo-as-served of simulations is fifo here\)"),
    ],
)
def test_what_a_server_cannot_run_is_refused_with_what_it_can(name, message):
    with pytest.raises(ConfigError, match=message):
        PensieveConfig(eviction_policy=name)


def table(page, heading):
    """Rows of the table with this first line."""
    lines = (ROOT / "docs" / page).read_text().split("\n")
    start = lines.index(heading) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return lines[start:end]


def test_the_table_of_policies_is_the_registry():
    rows = [
        f"| `{name}` | {entry.evicts} | "
        + (f"`{entry.served_as}` |" if entry.served_as else f"no: {entry.simulated_only} |")
        for name, entry in POLICIES.items()
    ]
    assert table("traces.md", "| policy | evicts first | as `eviction_policy` |") == rows


def test_the_setting_names_the_policies_that_can_be_served():
    (row,) = [
        row
        for row in (ROOT / "docs" / "settings.md").read_text().split("\n")
        if row.startswith("| `eviction_policy` |")
    ]
    named = re.findall(r"`([a-z-]+)`", row.split("|")[3])
    assert named == list(SERVED)
