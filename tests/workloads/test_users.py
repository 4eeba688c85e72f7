"""Users at the same time: who is in which class, how long they pause, and what they say."""

import statistics
from collections import Counter

import pytest

from vllm_pensieve.workloads.conversations import Turn, WorkloadSpec
from vllm_pensieve.workloads.users import COLD, HOT, WARM, generate_users, user_classes


def spec(users: int, turns: int = 2, interval_s: float = 10.0) -> WorkloadSpec:
    return WorkloadSpec("users", users, turns, 64, 16, 8, interval_s, users)


def turns_of(users) -> list[Turn]:
    return [turn for user in users for own in user.conversations for turn in own.turns]


@pytest.mark.parametrize(
    ("users", "counts"),
    [(2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (8, (3, 3, 2)), (30, (10, 10, 10))],
)
def test_each_class_is_a_third_and_what_is_left_over_is_hotter(users, counts):
    found = Counter(user_classes(users))
    assert tuple(found[user_class] for user_class in (HOT, WARM, COLD)) == counts


def test_one_user_alone_is_warm():
    assert user_classes(1) == [WARM]
    (user,) = generate_users(spec(1), 0, int)
    assert user.pause_s == 10.0


def test_mean_pauses_are_the_interval_times_the_factor_of_the_class():
    users = generate_users(spec(300, turns=20), 0, int)
    for user_class, mean_s in ((HOT, 3.0), (WARM, 10.0), (COLD, 25.0)):
        own = [user for user in users if user.user_class is user_class]
        assert {user.pause_s for user in own} == {mean_s}
        pauses = [turn.think_time_s for turn in turns_of(own)]
        assert statistics.fmean(pauses) == pytest.approx(mean_s, rel=0.05)
        assert statistics.stdev(pauses) == pytest.approx(mean_s, rel=0.1)  # exponential


def test_without_an_interval_nobody_pauses():
    users = generate_users(spec(3, interval_s=0.0), 0, int)
    assert {turn.think_time_s for turn in turns_of(users)} == {0.0}


def test_the_seed_decides_what_is_said_and_the_class_does_not():
    three, twelve = (generate_users(spec(users), 1, int) for users in (3, 12))
    assert three[1].user_class is WARM
    assert twelve[1].user_class is HOT

    def texts(user) -> list[str]:
        return [turn.text for turn in user.conversations[0].turns]

    assert [texts(user) for user in three] == [texts(user) for user in twelve[:3]]
    assert texts(three[0]) != texts(generate_users(spec(3), 2, int)[0])
    sessions = [own.session_id for user in twelve for own in user.conversations]
    assert len(set(sessions)) == len(sessions) == 4 * (3 + 2 + 1)


def test_who_pauses_less_has_more_conversations_one_after_the_other():
    hot, warm, cold = generate_users(spec(3), 0, int)
    assert [len(user.conversations) for user in (hot, warm, cold)] == [3, 2, 1]
    first, second, third = hot.conversations
    assert (first.after, second.after, third.after) == (None, first.session_id, second.session_id)
    assert len({own.turns[0].text for own in hot.conversations}) == 3
    (alone,) = generate_users(spec(1), 0, int)
    assert len(alone.conversations) == 1
