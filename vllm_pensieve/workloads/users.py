"""Users who talk at the same time, some with short pauses and some with long ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from vllm_pensieve.workloads.conversations import (
    Conversation,
    WorkloadSpec,
    generate_conversation,
)


@dataclass(frozen=True)
class UserClass:
    """Users whose mean pause is so many times the request interval."""

    name: str
    pause_factor: float


HOT = UserClass("HOT", 0.3)
WARM = UserClass("WARM", 1.0)
COLD = UserClass("COLD", 2.5)
CLASSES = (HOT, WARM, COLD)


@dataclass(frozen=True)
class User:
    """One user: a class, the mean pause in seconds, and the one conversation."""

    user_class: UserClass
    pause_s: float
    conversation: Conversation


def user_classes(users: int) -> list[UserClass]:
    """Return the class of each of `users` (at least 1) users, the hotter first.

    A third each; what is left over goes to the hotter classes. One user alone is WARM.
    """
    if users == 1:
        return [WARM]
    share, rest = divmod(users, len(CLASSES))
    return [
        user_class
        for index, user_class in enumerate(CLASSES)
        for _ in range(share + (index < rest))
    ]


def generate_users(
    spec: WorkloadSpec, seed: int, tokens_to_characters: Callable[[int], int]
) -> list[User]:
    """Return `spec.sessions` users; the same seed gives the same users.

    `spec.think_time_s` is the request interval: pauses are drawn from an exponential distribution whose
    mean is the interval times the class's factor. Texts do not depend on the classes.
    """
    users = []
    for number, user_class in enumerate(user_classes(spec.sessions)):
        pause_s = spec.think_time_s * user_class.pause_factor
        own = dataclasses.replace(spec, think_time_s=pause_s)
        conversation = generate_conversation(own, seed, number, tokens_to_characters)
        users.append(User(user_class, pause_s, conversation))
    return users
