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
    """Users whose mean pause is this many times the request interval."""

    name: str
    meaning: str
    pause_factor: float
    conversations: int
    """How many each has, one after the other."""


HOT = UserClass("HOT", "Frequent", 0.3, 3)
WARM = UserClass("WARM", "Normal", 1.0, 2)
COLD = UserClass("COLD", "Infrequent", 2.5, 1)
"""Who pauses less has more conversations, so that memory is wanted as long as the slowest talk.

By the pauses alone HOT users would have eight; replies take time as well, and a benchmark must end.
"""
CLASSES = (HOT, WARM, COLD)


@dataclass(frozen=True)
class User:
    """One user: a class, the mean pause in seconds, and conversations, one after the other."""

    user_class: UserClass
    pause_s: float
    conversations: tuple[Conversation, ...]


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
    mean is the interval times the class's factor. Texts do not depend on the classes. One user alone has one
    conversation.
    """
    users = []
    for number, user_class in enumerate(user_classes(spec.sessions)):
        pause_s = spec.think_time_s * user_class.pause_factor
        own = dataclasses.replace(spec, think_time_s=pause_s)
        conversations: list[Conversation] = []
        for which in range(user_class.conversations if spec.sessions > 1 else 1):
            conversation = generate_conversation(
                own, seed, number + which * spec.sessions, tokens_to_characters
            )
            before = conversations[-1].session_id if conversations else None
            conversations.append(dataclasses.replace(conversation, after=before))
        users.append(User(user_class, pause_s, tuple(conversations)))
    return users
