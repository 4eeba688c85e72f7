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
    only the heads of the buckets compete. The first eviction at a point in time costs O(B) for B buckets, every other
    one O(log B). Of blocks of one bucket that fell out of use together, the leading one goes first: it is the cheapest.
    A block that is inserted with an older use than its bucket's youngest counts as used when that one was.
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
        # (value, bucket, key) of one head a bucket, made for the point in time below; -inf: to be made anew.
        self._heads: list[tuple[float, int, int]] = []
        self._heads_at_s = -math.inf

    @override
    def insert(self, keys: Sequence[int], positions: Sequence[int], last_use_s: float) -> None:
        for key, position in zip(reversed(keys), reversed(positions), strict=True):
            assert key not in self._bucket_of, key
            bucket = self._bucket_at.get(position)
            if bucket is None:
                bucket = self._open_bucket(position)
            self._bucket_of[key] = bucket
            keys_here = self._buckets[bucket]
            if keys_here:
                youngest_s = keys_here[next(reversed(keys_here))]
                keys_here[key] = max(last_use_s, youngest_s)
            else:
                keys_here[key] = last_use_s
                self._heads_at_s = -math.inf  # a head that the heap does not know

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
        if now_s != self._heads_at_s:
            self._heads_at_s = now_s
            self._heads = [self._head(bucket) for bucket, keys in self._buckets.items() if keys]
            heapq.heapify(self._heads)
        return [self._evict_one() for _ in range(count)]

    def _evict_one(self) -> int:
        # A head that was removed since stands for its bucket until it is met: the next one is worth no less.
        while True:
            _, bucket, key = self._heads[0]
            keys = self._buckets[bucket]
            is_head = bool(keys) and next(iter(keys)) == key
            if is_head:
                del keys[key], self._bucket_of[key]
            if keys:
                heapq.heapreplace(self._heads, self._head(bucket))
            else:
                heapq.heappop(self._heads)
            if is_head:
                return key

    def _head(self, bucket: int) -> tuple[float, int, int]:
        key, last_use_s = next(iter(self._buckets[bucket].items()))
        return self._value(bucket, last_use_s, self._heads_at_s), bucket, key

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
        headed = {bucket for _, bucket, _ in self._heads}
        with_keys = {bucket for bucket, keys in self._buckets.items() if keys}
        assert with_keys <= headed or self._heads_at_s == -math.inf
        assert sum(map(len, self._buckets.values())) == len(self._bucket_of)
        for bucket, keys in self._buckets.items():
            assert all(self._bucket_of[key] == bucket for key in keys)
            times = list(keys.values())
            assert times == sorted(times), "a bucket is out of order"
