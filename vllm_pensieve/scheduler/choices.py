"""Which of vLLM's requests are choices of one request: with `n` above 1, and the beams of a beam search."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.request import Request

SUFFIX_CHARACTERS = 9
"""What vLLM adds to an id that it was given: a hyphen and eight random characters."""
CHOICE = re.compile(r"\d+_(.*)", re.DOTALL)
BEAM = re.compile(r"(.+)-[0-9a-f]{16,32}-beam-\d+", re.DOTALL)


def parent_of(request: Request) -> str | None:
    """The id of the request whose choice or beam this is; None if it stands for itself."""
    return parent_id(request.request_id, getattr(request, "external_req_id", None))


def parent_id(request_id: str, external_id: str | None) -> str | None:
    """As `parent_of`, from vLLM's id of a request and the one that it was given.

    vLLM calls the choices of x `0_x`, `1_x`, ..., where x ends in the suffix already, and the beams of x
    `x-RANDOM-beam-0`, ...
    """
    if external_id is None:
        return None
    if len(request_id) - len(external_id) in (
        0,
        SUFFIX_CHARACTERS,
    ):  # the suffix can be switched off
        beam = BEAM.fullmatch(external_id)
        return beam[1] if beam else None
    choice = CHOICE.fullmatch(request_id)
    return choice[1] if choice else None
