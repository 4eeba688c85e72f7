"""Smallest retention value first: cost to recompute the block divided by the time it has been idle."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice

from typing_extensions import override

from vllm_pensieve.retention.cost_model import CostModel
from vllm_pensieve.retention.eviction_order import EvictionOrder

SHORTEST_IDLE_S = 1e-6


class RetentionOrder(EvictionOrder):
    """The paper's policy: value = cost(position) / idle time (Pensieve, section 4.3.1).

    Values change their order as time passes, so no heap can hold them. But of two blocks of equal cost the longer
    idle one is always worth less: blocks are kept in buckets of (nearly) equal cost, each in order of last use, and
    only the heads of the buckets compete. Evicting n blocks of B buckets costs O((B + n) log B). Of blocks of one
    bucket that fell out of use together, the leading one goes first: it is the cheapest.
    """

    name = "retention"

    def __init__(self, cost_model: CostModel, block_size: int, cost_bucket_ratio: float) -> None:
        self._cost_model = cost_model
        self._block_size = block_size
        self._log_ratio = math.log(cost_bucket_ratio)
        self._buckets: dict[
            int, OrderedDict[int, float]
        ] = {}  # bucket -> key -> time of last use, s
        self._bucket_cost: dict[int, float] = {}
        self._bucket_at: dict[int, int] = {}  # position -> bucket
        self._bucket_of: dict[int, int] = {}  # key -> bucket
        self._last_insert_s = -math.inf

    @override
    def insert(self, keys: Sequence[int], positions: Sequence[int], now_s: float) -> None:
        assert now_s >= self._last_insert_s, (now_s, self._last_insert_s)
        self._last_insert_s = now_s
        for key, position in zip(reversed(keys), reversed(positions), strict=True):
            assert key not in self._bucket_of, key
            bucket = self._bucket_at.get(position)
            if bucket is None:
                bucket = self._open_bucket(position)
            self._buckets[bucket][key] = now_s
            self._bucket_of[key] = bucket

    def _open_bucket(self, position: int) -> int:
        cost = self._cost_model.span(position, position + self._block_size)
        if self._log_ratio:
            cheapest = self._cost_model.span(0, self._block_size)
            bucket = int(math.log(cost / cheapest) / self._log_ratio)
            cost = cheapest * math.exp(self._log_ratio * bucket)
        else:
            bucket = position
        self._bucket_at[position] = bucket
        self._buckets.setdefault(bucket, OrderedDict())
        self._bucket_cost.setdefault(bucket, cost)
        return bucket

    @override
    def remove(self, key: int) -> None:
        del self._buckets[self._bucket_of.pop(key)][key]

    @override
    def evict(self, count: int, now_s: float) -> list[int]:
        self._require(count)
        evicted = list(islice(self._by_value(now_s), count))
        for key in evicted:
            self.remove(key)
        return evicted

    @override
    def peek(self, count: int, now_s: float) -> list[int]:
        return list(islice(self._by_value(now_s), count))

    def _by_value(self, now_s: float) -> Iterator[int]:
        """All keys, smallest value first. The order must not be changed while this runs."""
        heads: list[tuple[float, int, int, Iterator[tuple[int, float]]]] = []
        for bucket, keys in self._buckets.items():
            if keys:
                rest = iter(keys.items())
                key, last_use_s = next(rest)
                heads.append((self._value(bucket, last_use_s, now_s), bucket, key, rest))
        heapq.heapify(heads)
        while heads:
            _, bucket, key, rest = heads[0]
            yield key
            following = next(rest, None)
            if following is None:
                heapq.heappop(heads)
            else:
                value = self._value(bucket, following[1], now_s)
                heapq.heapreplace(heads, (value, bucket, following[0], rest))

    def _value(self, bucket: int, last_use_s: float, now_s: float) -> float:
        return self._bucket_cost[bucket] / max(now_s - last_use_s, SHORTEST_IDLE_S)

    @override
    def __len__(self) -> int:
        return len(self._bucket_of)

    @override
    def __contains__(self, key: int) -> bool:
        return key in self._bucket_of

    @override
    def check_integrity(self) -> None:
        assert sum(map(len, self._buckets.values())) == len(self._bucket_of)
        for bucket, keys in self._buckets.items():
            assert all(self._bucket_of[key] == bucket for key in keys)
            times = list(keys.values())
            assert times == sorted(times), "a bucket is out of order"
