"""A router as there are several in the field: it hears KV events and predicts how much of a prompt an engine has."""

from collections.abc import Sequence
from typing import Any

import msgspec
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from vllm_pensieve.testing.world import World


class Router:
    """Hears everything the world publishes from now on.

    It keeps a set of blocks by medium, and refuses events that make no sense: a block whose parent it does not know,
    or the removal of one it never heard of. It also keeps a tree as Dynamo's router does, which forgets what stands
    behind a removed block.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: list[Any] = []
        self.known: dict[str, set[Any]] = {"GPU": set(), "CPU": set()}
        self.tree: dict[Any, tuple[Any, set[str]]] = {}  # block -> parent, media
        world.scheduler.kv_event_publisher.publish = self.hear

    def hear(self, batch: Any) -> None:
        batch = msgspec.msgpack.decode(
            msgspec.msgpack.encode(batch), type=KVEventBatch
        )  # as over ZMQ
        for event in batch.events:
            self.events.append(event)
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                for block in event.block_hashes:
                    self.known[event.medium].remove(block)
                    self._forget(block, event.medium)
            else:
                assert isinstance(event, AllBlocksCleared), event
                self.known = {"GPU": set(), "CPU": set()}
                self.tree.clear()

    def _stored(self, event: BlockStored) -> None:
        parent = event.parent_block_hash
        assert parent is None or parent in self.anywhere, "stored behind an unknown block"
        assert len(event.token_ids) == len(event.block_hashes) * event.block_size
        for block in event.block_hashes:
            self.known[event.medium].add(block)
            if parent is None or parent in self.tree:
                media = self.tree.get(block, (None, set()))[1]
                self.tree[block] = (parent, media | {event.medium})
            parent = block

    def _forget(self, block: Any, medium: str) -> None:
        if block not in self.tree:
            return
        parent, media = self.tree.pop(block)
        if media - {medium}:
            self.tree[block] = (parent, media - {medium})
            return
        for child in [b for b, (p, _) in self.tree.items() if p == block]:
            for of_child in list(self.tree[child][1]) if child in self.tree else ():
                self._forget(child, of_child)

    @property
    def anywhere(self) -> set[Any]:
        return self.known["GPU"] | self.known["CPU"]

    def blocks(self, prompt: Sequence[int], **identity: Any) -> list[Any]:
        """The full blocks of a prompt, as events name them, but for the one with its last token, which is computed."""
        hashes = self.world.request(list(prompt), **identity).block_hashes
        return [
            maybe_convert_block_hash(h)
            for h in hashes[: (len(prompt) - 1) // self.world.block_tokens]
        ]

    def predicts(self, prompt: Sequence[int], medium: str = "", **identity: Any) -> int:
        """Tokens of the prompt that the engine should find cached. medium: only there."""
        return self._leading(
            self.blocks(prompt, **identity), self.known[medium] if medium else self.anywhere
        )

    def tree_predicts(self, prompt: Sequence[int]) -> int:
        return self._leading(self.blocks(prompt), set(self.tree))

    def _leading(self, blocks: list[Any], known: set[Any]) -> int:
        count = next((i for i, block in enumerate(blocks) if block not in known), len(blocks))
        return count * self.world.block_tokens
