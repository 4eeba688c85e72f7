"""How many tokens a block of a trace has: declared, usual for the format, or shown by the lengths of the prompts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.errors import TraceError

MOST = 0.5
"""A size fits a trace if it fits more than this share of its requests."""
POWERS_OF_TWO = [2**exponent for exponent in range(17)]
SIZES = sorted({*POWERS_OF_TWO, *range(16, 4097, 16)})
"""What blocks may have: powers of two, and as of models with state-space layers any multiple of 16."""
ONE_SIZE = "give each block size a file of its own"


class DeclaresSize(Protocol):
    """A record that may give its block size under one of these names."""

    block_size: int | None
    block_tokens: int | None
    trace_block_size: int | None


class HasPath(Protocol):
    """Where records come from."""

    path: Path


class DeclaredSize:
    """The block size that a file's records declare. TraceError if they contradict one another."""

    def __init__(self, source: HasPath) -> None:
        self.tokens: int | None = None
        self._source = source

    def add(self, number: int, record: DeclaresSize) -> None:
        """Note what a record declares, if it does."""
        told = record.block_size or record.block_tokens or record.trace_block_size
        if told is None:
            return
        if self.tokens not in (None, told):
            raise TraceError(
                f"{self._source.path}: record {number} has blocks of {told} tokens, earlier ones of {self.tokens}; "
                f"{ONE_SIZE}"
            )
        self.tokens = told


class BlockSize(NamedTuple):
    """tokens: of a block as it stands in the file; None if nothing says. merge_to: of the larger blocks asked for.

    notes: what a user must know of how this was found.
    """

    tokens: int | None
    merge_to: int | None = None
    notes: tuple[str, ...] = ()


def choose_block_size(
    prompts: NDArray[np.int64],
    blocks: NDArray[np.int64],
    declared: int | None,
    usual: int | None,
    asked: int | None,
) -> BlockSize:
    """Decide on the tokens of a block.

    prompts, blocks: [requests], tokens and number of block ids of each that has both. declared: by the file.
    usual: in this format. asked: by the user; blocks of a size that is known are merged to a multiple of it.

    Raises:
        TraceError: blocks of the size asked for cannot be made, or fit no trace like this.
    """
    fits = _Fits(prompts, blocks)
    if declared is None and asked is not None and fits.best(asked):
        return BlockSize(asked)
    notes = []
    if declared is not None:
        tokens: int | None = declared
        if not fits.most(declared):
            notes.append(
                f"the file declares blocks of {declared} tokens, but that fits {fits.share(declared):.0%} of its "
                f"requests{fits.hint()}: capacities in GiB and costs may be wrong"
            )
    elif usual is not None and fits.best(usual):
        tokens = usual
        if not len(prompts):
            notes.append(
                f"no record says how long its prompt is; blocks are taken to have {usual} tokens"
            )
    else:
        tokens = fits.shown()
        notes.append(_how_found(tokens, usual, fits, asked))
    if asked in (None, tokens):
        return BlockSize(tokens, notes=tuple(notes))
    assert asked is not None
    if tokens is None:
        return BlockSize(asked, notes=tuple(notes))
    if asked % tokens:
        source = "the file has" if declared else "lengths of prompts show"
        raise TraceError(
            f"--block-tokens {asked}: {source} blocks of {tokens} tokens; only multiples can be made of them"
        )
    return BlockSize(tokens, asked, tuple(notes))


def _how_found(tokens: int | None, usual: int | None, fits: _Fits, asked: int | None) -> str:
    if tokens is not None:
        unlike = f", not the usual {usual}" if usual else ""
        return (
            f"blocks of {tokens} tokens{unlike}: the file does not declare it, but lengths of prompts and numbers of "
            f"hash_ids show it for {fits.share(tokens):.0%} of requests"
        )
    if asked is not None:
        return (
            f"blocks of {asked} tokens fit only {fits.share(asked):.0%} of requests (in the others ceil(input_length / "
            f"{asked}) is not the number of hash_ids); they are taken as asked for"
        )
    return (
        "how many tokens a block has is not known: the file does not declare it, and lengths of prompts and numbers of "
        f"hash_ids agree on no size{fits.hint()}; give --block-tokens"
    )


class _Fits:
    """Which sizes agree with the lengths of prompts: the last block of a prompt may be partial, or be left out."""

    def __init__(self, prompts: NDArray[np.int64], blocks: NDArray[np.int64]) -> None:
        self._prompts = prompts
        self._blocks = blocks

    def share(self, tokens: int, partial_only: bool = False) -> float:
        """Of the requests, those whose number of blocks follows from their length."""
        if not len(self._prompts):
            return 1.0
        fitting = -(-self._prompts // tokens) == self._blocks
        if not partial_only:
            fitting |= self._prompts // tokens == self._blocks
        return float(fitting.mean())

    def most(self, tokens: int) -> bool:
        return self.share(tokens) > MOST

    def best(self, tokens: int) -> bool:
        """Whether it fits most requests, and no other size fits more of them."""
        share = self.share(tokens)
        return share > MOST and not any(self.share(size, True) > share for size in SIZES)

    def shown(self) -> int | None:
        """The size that fits best; None if none fits most requests, or several fit them equally well."""
        for partial_only in (True, False):
            sizes = self._best(partial_only)
            if len(sizes) == 1:
                return sizes[0]
            if sizes:
                powers = [size for size in sizes if size in POWERS_OF_TWO]
                return powers[0] if len(powers) == 1 else None
        return None

    def hint(self) -> str:
        """Which size would fit, as the end of a sentence's part."""
        sizes = [size for size in self._best(partial_only=True) if size in POWERS_OF_TWO]
        return f" ({' or '.join(map(str, sizes))} would fit)" if sizes else ""

    def _best(self, partial_only: bool) -> list[int]:
        """The sizes that fit most requests, and more than all others do."""
        if not len(self._prompts):
            return []
        shares = {size: self.share(size, partial_only) for size in SIZES}
        best = max(shares.values())
        return [size for size, share in shares.items() if share == best > MOST]
