"""Texts: readable filler from a small word list, and texts of others made fit to be written as UTF-8."""

from __future__ import annotations

import random

WORD_LIST = """
the a one this that every some of in on at from with by for and but or when while after before
until under over near river stone house window garden letter market engine harbour lamp table
winter morning evening road bridge paper ship people child doctor teacher farmer sailor writer
neighbour question answer reason story number picture measure pattern small large old new
quiet bright heavy early late clear cold warm open long short simple strange careful common
walks stands turns finds keeps leaves brings carries opens closes writes reads counts builds
follows answers waits slowly often never always again almost perhaps together away back there
here still only very rather quite soon
"""
WORDS = WORD_LIST.split()


def write_text(rng: random.Random, characters: int) -> str:
    """Return exactly `characters` (at least 1) ASCII characters of sentences made of random words;
    no space at either end.
    """
    pieces: list[str] = []
    length = 0
    while length <= characters:  # the last sentence has no space after it
        sentence = " ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 14))).capitalize() + "."
        pieces.append(sentence)
        length += len(sentence) + 1
    text = " ".join(pieces)[:characters]
    return text[:-1] + "." if text.endswith(" ") else text


def whole_characters(text: str) -> str:
    """Return the text with the two halves of a surrogate pair joined, and U+FFFD in place of each lone half."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
