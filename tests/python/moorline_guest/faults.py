"""What ends a connection, told apart as `golden.json` does."""

from __future__ import annotations

from enum import StrEnum


class Class(StrEnum):
    """What is wrong."""

    FRAME = "frame"
    BODY = "body"
    PLACE = "place"
    TOO_MUCH = "too-much"
    DIGEST = "digest"


class Fault(Exception):
    """The other side said what it may not: close without a word, and dial again."""

    def __init__(self, found: Class, why: str) -> None:
        super().__init__(why)
        self.found = found


class Lost(Exception):
    """The connection is of no more use, though nothing was said wrongly: close, and dial again."""


class OutOfStep(Lost):
    """A batch doesn't go on from where the mirror or watch stands. A mirror is then asked for anew."""
