"""Frames: headers of ten bytes, and bodies behind them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import bodies
from .encoding import Fields
from .faults import Class, Fault

HEADER = struct.Struct("<IBBI")
END = 0x01
BODY = 16_384
BODY_BEFORE_HELLO = 1_024


@dataclass(frozen=True)
class Frame:
    """A frame, taken apart."""

    kind: str
    stream: int
    fields: Fields
    end: bool = False

    def encoded(self) -> bytes:
        """Its bytes."""
        body = bodies.encode(self.kind, self.fields)
        if not 1 <= len(body) <= BODY:
            raise ValueError(f"a body of {len(body)} bytes doesn't fit a frame")
        number = bodies.BY_NAME[self.kind].number
        return HEADER.pack(len(body), number, END if self.end else 0, self.stream) + body


class Decoder:
    """Cuts frames out of a stream of bytes. Headers are judged before a body is waited for."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._buffer = bytearray()

    @property
    def under_way(self) -> bool:
        """Whether a frame has begun that isn't whole."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole with `data`. One that breaks the rules is a `Fault`."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, number, flags, stream = HEADER.unpack_from(self._buffer)
            self._judge(length, number, flags)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            kind = bodies.BY_NUMBER[number].name
            yield Frame(kind, stream, bodies.decode(kind, body), bool(flags & END))

    def _judge(self, length: int, number: int, flags: int) -> None:
        if not 1 <= length <= self.bound:
            raise Fault(Class.FRAME, f"a body has no {length} bytes here")
        if number not in bodies.BY_NUMBER:
            raise Fault(Class.FRAME, f"no kind has the number {number}")
        if flags & ~END:
            raise Fault(Class.FRAME, f"the flags {flags:#04x} are unknown")
