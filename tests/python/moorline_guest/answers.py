"""What came on a request's stream so far: answers, whole or in pieces, and a watch's batches."""

from __future__ import annotations

from dataclasses import dataclass, field

from .batches import Assembly
from .encoding import Fields
from .faults import Class, Fault

ANSWER_OF = {"GET": "FOUND", "LIST": "LISTING", "RELAY": "RELAYED"}
"""What answers a request, if nothing stands in the way."""

PIECE_OF = {"FOUND": "value", "RELAYED": "body"}
"""The field with the first piece of a long answer."""

BOUNDS = {"FOUND": 262_144, "RELAYED": 4_194_304}
"""How long a long answer may be."""


@dataclass(frozen=True)
class Answer:
    """A whole answer: its kind and its fields, the value or body in one."""

    kind: str
    fields: Fields


class LongAnswer:
    """A FOUND or RELAYED whose value or body comes in pieces."""

    def __init__(self, kind: str, fields: Fields) -> None:
        if fields["length"] > BOUNDS[kind]:
            raise Fault(Class.TOO_MUCH, f"an answer of {fields['length']} bytes")
        self.kind = kind
        self._fields = fields
        self._content = bytearray()

    def take(self, piece: bytes, end: bool) -> Answer | None:
        """The next piece. It has END if, and only if, it is the last; then the answer is whole."""
        self._content += piece
        missing = self._fields["length"] - len(self._content)
        if missing < 0:
            raise Fault(Class.TOO_MUCH, "more than the answer announced")
        if end != (missing == 0):
            raise Fault(Class.PLACE, f"END is wrong where {missing} bytes are missing")
        return Answer(self.kind, {**self._fields, PIECE_OF[self.kind]: bytes(self._content)}) if end else None


@dataclass
class Upload:
    """The rest of a RELAY's body, which follows in DATA as the host's credit allows."""

    rest: bytes
    credit: int

    def next_piece(self, bound: int) -> bytes:
        """What may be sent now; empty without credit. It counts as sent."""
        length = min(bound, self.credit, len(self.rest))
        piece, self.rest = self.rest[:length], self.rest[length:]
        self.credit -= length
        return piece


@dataclass
class Account:
    """What came on a stream since its last CREDIT."""

    granted: int
    came: int = 0

    def take(self, length: int) -> int:
        """Counts some bytes. Answers with the credit to give for them and those before, or 0 if it isn't time."""
        self.came += length
        if self.came * 2 < self.granted:
            return 0
        came, self.came = self.came, 0
        return came


@dataclass
class Stream:
    """A request of the guest that the host hasn't ended."""

    request: str
    account: Account
    cancelled: bool = False
    upload: Upload | None = None
    long_answer: LongAnswer | None = None
    batches: Assembly | None = field(default=None)
    secrets: bytes | None = None
