"""The types that bodies are made of, by the names that PROTOCOL.md gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .faults import Class, Fault

Fields = dict[str, Any]
"""A body: its fields by name."""

Table = Sequence[tuple[str, str]]
"""What a body consists of: names and types, in their order."""

INTEGERS = {"u16": 16, "u32": 32, "u64": 64}
FIXED = {"[16]": 16, "[32]": 32}
FRESHNESS = {0: "fresh", 1: "stale"}


class Revision(NamedTuple):
    """A place in the order of all commits; compared by epoch, then by n."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.n}"


STRUCTS: dict[str, Table] = {
    "Limits": [("body", "u32"), ("streams", "u16"), ("requests", "u16"), ("credit", "u32"), ("batch", "u32")],
    "Listed": [("path", "text"), ("revision", "revision"), ("content_type", "text"), ("length", "u32")],
    "Header": [("name", "text"), ("value", "text")],
    "Document": [("kind", "text"), ("document", "text"), ("expires_in_ms", "u64"), ("expires_at_ms", "u64")],
    "Item": [("path", "text"), ("entry", "Mirrored?")],
    "Mirrored": [
        ("revision", "revision"),
        ("content_type", "text"),
        ("valid_for_ms", "u64?"),
        ("value", "bytes"),
    ],
    "Row": [
        ("path", "text"),
        ("revision", "revision"),
        ("content_type", "text"),
        ("secret", "bool"),
        ("value", "[32]"),
    ],
}


def encode(table: Table, fields: Fields) -> bytes:
    """A body of these fields. What isn't in the table is a `ValueError`: the mistake is the caller's."""
    if list(fields) != [name for name, _ in table]:
        raise ValueError(f"{list(fields)} are not the fields of this body")
    return b"".join(encode_value(of, fields[name]) for name, of in table)


def encode_value(of: str, value: Any) -> bytes:
    """A single value of the type that is named `of`."""
    if of.endswith("?"):
        return b"\0" if value is None else b"\1" + encode_value(of[:-1], value)
    if of.startswith("list of "):
        return _varint(len(value), 64) + b"".join(encode_value(of[8:], one) for one in value)
    if of in STRUCTS:
        return encode(STRUCTS[of], value)
    if of in INTEGERS:
        return _varint(value, INTEGERS[of])
    if of in FIXED:
        if len(value) != FIXED[of]:
            raise ValueError(f"{of} has no {len(value)} bytes")
        return bytes(value)
    match of:
        case "bool":
            return b"\1" if value else b"\0"
        case "text":
            return encode_value("bytes", value.encode())
        case "bytes":
            return _varint(len(value), 64) + value
        case "revision":
            return _varint(value[0], 64) + _varint(value[1], 64)
        case "freshness":
            return _varint({word: number for number, word in FRESHNESS.items()}[value], 32)
    raise ValueError(f"there is no type {of}")


def _varint(number: int, bits: int) -> bytes:
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{number} is no number of {bits} bits")
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(table: Table, body: bytes) -> Fields:
    """The fields of a whole body: a byte too few or too many is a `Fault`."""
    reader = Reader(body)
    fields = reader.fields(table)
    if not reader.at_end():
        raise Fault(Class.BODY, f"{len(body) - reader.at} bytes follow the last field")
    return fields


class Reader:
    """Takes values off some bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def at_end(self) -> bool:
        """Whether all bytes were taken."""
        return self.at == len(self.data)

    def fields(self, table: Table) -> Fields:
        """The fields of a table."""
        return {name: self.value(of) for name, of in table}

    def value(self, of: str) -> Any:
        """A value of the type that is named `of`."""
        if of.endswith("?"):
            return self.value(of[:-1]) if self._flag() else None
        if of.startswith("list of "):
            return [self.value(of[8:]) for _ in range(self._varint(64))]
        if of in STRUCTS:
            return self.fields(STRUCTS[of])
        if of in INTEGERS:
            return self._varint(INTEGERS[of])
        if of in FIXED:
            return self._take(FIXED[of])
        match of:
            case "bool":
                return self._flag()
            case "text":
                return self._text()
            case "bytes":
                return self._take(self._varint(64))
            case "revision":
                return Revision(self._varint(64), self._varint(64))
            case "freshness":
                return self._freshness()
        raise ValueError(f"there is no type {of}")

    def _take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise Fault(Class.BODY, "the body ends before its last field does")
        self.at += length
        return self.data[self.at - length : self.at]

    def _flag(self) -> bool:
        byte = self._take(1)[0]
        if byte > 1:
            raise Fault(Class.BODY, f"{byte} is neither 0 nor 1")
        return byte == 1

    def _varint(self, bits: int) -> int:
        number = 0
        for shift in range(0, bits, 7):
            byte = self._take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise Fault(Class.BODY, f"a number of {bits} bits has more bytes than it can have")
        if number >= 1 << bits:
            raise Fault(Class.BODY, f"{number} is no number of {bits} bits")
        return number

    def _text(self) -> str:
        try:
            return self._take(self._varint(64)).decode()
        except UnicodeDecodeError as error:
            raise Fault(Class.BODY, "a text is not UTF-8") from error

    def _freshness(self) -> str:
        number = self._varint(32)
        if number not in FRESHNESS:
            raise Fault(Class.BODY, f"{number} is neither fresh nor stale")
        return FRESHNESS[number]


SEGMENT = re.compile(r"[A-Za-z0-9_.:@+=-]{1,128}")


def is_path(text: str) -> bool:
    """Whether this names an entry."""
    segments = text.split("/")
    return len(text) <= 512 and len(segments) <= 16 and all(map(_is_segment, segments))


def is_prefix(text: str) -> bool:
    """Whether this stands for some entries, or all."""
    return not text or is_path(text)


def _is_segment(text: str) -> bool:
    return SEGMENT.fullmatch(text) is not None and not text.startswith("-") and text not in (".", "..")
