"""The sizes that are measured, whether they go together, and the memory they take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from benchmarks.attention.options import KernelOptions
from benchmarks.attention.reference import STEP_TOKENS
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import BYTES_BY_DTYPE

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Case:
    """One combination of sizes: a batch of equal requests. context_tokens stand before the new_tokens."""

    batch: int
    new_tokens: int
    context_tokens: int
    pieces: int
    dropped: tuple[tuple[int, int], ...]
    block_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def tokens(self) -> int:
        """Of a request."""
        return self.context_tokens + self.new_tokens

    @property
    def blocks_per_request(self) -> int:
        """The last one may be partial."""
        return -(-self.tokens // self.block_tokens)

    @property
    def blocks(self) -> int:
        """In the pool."""
        return self.batch * self.blocks_per_request

    @property
    def most_queries(self) -> int:
        """Queries of a request with all dropped runs."""
        return self.new_tokens + sum(stop - start for start, stop in self.dropped)

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values of that many tokens of each request."""
        per_token = 2 * self.kv_heads * self.head_dim * BYTES_BY_DTYPE[self.dtype]
        return self.batch * tokens * per_token

    def memory_bytes(self, device: str) -> dict[str, int]:
        """What is taken at once, by part."""
        paged = self.kv_bytes(self.blocks_per_request * self.block_tokens)
        queries = self.batch * self.most_queries * self.heads * self.head_dim
        longest = max(stop - start for start, stop in (*self.dropped, (0, self.new_tokens)))
        mask = longest * self.tokens * (self.heads // self.kv_heads) * (1 + FLOAT32_BYTES)
        one_request = 2 * self.tokens * self.heads * self.head_dim * 2 * FLOAT32_BYTES
        scores = self.heads * self.most_queries * self.tokens * FLOAT32_BYTES
        reference = (4 * self.head_dim + 2 * STEP_TOKENS) * queries // self.head_dim * FLOAT32_BYTES
        return {
            "contiguous KV": self.kv_bytes(self.tokens),
            "the same in blocks": paged,
            **({"the same in vLLM's layout": paged} if device == "cpu" else {}),
            "room to copy it out": paged,
            "queries, results, masks": queries * (8 * BYTES_BY_DTYPE[self.dtype])
            + 2 * mask
            + one_request
            + scores
            + reference
            + self.batch
            * self.blocks
            * (8 + 4 * (1 + self.most_queries // 128)),  # FlexAttention's tables
        }


def make_cases(options: KernelOptions) -> list[Case]:
    """All combinations of query_len and key_len. Raises UsageError if sizes do not go together."""
    if options.heads % options.kv_heads:
        raise UsageError(
            f"--heads {options.heads} must be a multiple of --kv-heads {options.kv_heads}: "
            "each key's head serves equally many query heads"
        )
    return [
        _case(options, new, context) for context, new in product(options.key_len, options.query_len)
    ]


def _case(options: KernelOptions, new_tokens: int, context_tokens: int) -> Case:
    blocks = -(-(context_tokens + new_tokens) // options.block_tokens)
    if options.chunks is not None and options.chunks > blocks:
        raise UsageError(
            f"--chunks {options.chunks}: {context_tokens} + {new_tokens} tokens of a request have only {blocks} "
            f"blocks of {options.block_tokens} tokens to lie apart; lower --chunks or --block-tokens"
        )
    return Case(
        batch=options.batch,
        new_tokens=new_tokens,
        context_tokens=context_tokens,
        pieces=options.chunks or blocks,
        dropped=_dropped_runs(options, context_tokens),
        block_tokens=options.block_tokens,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        dtype=options.dtype,
    )


def _dropped_runs(options: KernelOptions, context_tokens: int) -> tuple[tuple[int, int], ...]:
    """Runs of whole blocks, evenly spread over the context; the first one is its beginning."""
    runs, length, block_tokens = options.dropped_runs, options.dropped_len, options.block_tokens
    if runs == 0:
        return ()
    if length % block_tokens:
        raise UsageError(
            f"--dropped-len {length} must be a multiple of --block-tokens {block_tokens}: blocks are dropped whole"
        )
    full_blocks = context_tokens // block_tokens
    apart = full_blocks // runs * block_tokens
    if apart < length + (block_tokens if runs > 1 else 0):
        raise UsageError(
            f"--dropped-runs {runs} of {length} tokens with kept blocks between them do not fit into the "
            f"{full_blocks} full blocks of {context_tokens} tokens; lower --dropped-runs (0: none) or --dropped-len"
        )
    return tuple((run * apart, run * apart + length) for run in range(runs))
