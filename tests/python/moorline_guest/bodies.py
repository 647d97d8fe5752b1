"""The kinds of frames: their numbers, who sends them, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass

from . import encoding
from .encoding import Fields, Table
from .faults import Class, Fault


@dataclass(frozen=True)
class Kind:
    """A kind of frame. Without a table its body is a piece of something longer, as it is."""

    number: int
    name: str
    sender: str
    table: Table | None


KINDS = [
    Kind(0x01, "HELLO", "guest", [
        ("kinds", "[32]"), ("build", "text"), ("boot_id", "[16]"), ("vmgenid", "[16]?"), ("incarnation", "u64?"),
        ("applied", "revision?"), ("journal", "u64"), ("proof", "[32]?"),
    ]),
    Kind(0x02, "HELLO_ACK", "host", [
        ("kinds", "[32]"), ("session", "u64"), ("instance", "[16]"), ("incarnation", "u64"), ("authority", "text"),
        ("limits", "Limits"), ("boottime_ms", "u64"), ("heartbeat_ms", "u32"),
    ]),
    Kind(0x03, "PING", "either", [("number", "u64")]),
    Kind(0x04, "PONG", "either", [("number", "u64")]),
    Kind(0x05, "GOAWAY", "either", [("reason", "text"), ("reconnect_after_ms", "u32")]),
    Kind(0x06, "BUSY", "host", [("retry_after_ms", "u32")]),
    Kind(0x07, "CREDIT", "either", [("bytes", "u32")]),
    Kind(0x08, "CANCEL", "guest", [("code", "u16")]),
    Kind(0x09, "RESET", "either", [("code", "u16")]),
    Kind(0x0A, "CHALLENGE", "host", [("nonce", "[16]")]),
    Kind(0x10, "BEGIN", "host", [("from", "revision?"), ("to", "revision"), ("length", "u32")]),
    Kind(0x11, "PART", "host", None),
    Kind(0x12, "COMMIT", "host", [("to", "revision"), ("digest", "[32]")]),
    Kind(0x13, "APPLIED", "guest", [("revision", "revision")]),
    Kind(0x14, "STANDING", "host", [("revision", "revision?"), ("age_ms", "u32"), ("freshness", "freshness")]),
    Kind(0x15, "SESSION", "host", [
        ("session", "text"), ("token", "text"), ("token_id", "text"), ("key", "[32]"), ("expires_in_ms", "u64"),
    ]),
    Kind(0x16, "CREDENTIAL", "host", [("role", "text"), ("current", "Document?")]),
    Kind(0x17, "LINK_KEY", "host", [("incarnation", "u64"), ("key", "[32]")]),
    Kind(0x18, "SECRETS", "host", [("places", "bytes")]),
    Kind(0x19, "SESSION_OVER", "host", [("reason", "text")]),
    Kind(0x1A, "DIGEST", "host", [("revision", "revision"), ("digest", "[32]")]),
    Kind(0x1B, "DIFFERS", "guest", [("revision", "revision?")]),
    Kind(0x1C, "PULL", "host", [("every_ms", "u32")]),
    Kind(0x1D, "POLL", "guest", [("number", "u64")]),
    Kind(0x1E, "AS_OF", "host", [("revision", "revision?"), ("age_ms", "u32"), ("fresh_for_ms", "u32")]),
    Kind(0x20, "GET", "guest", [("instance", "[16]?"), ("path", "text"), ("max_age_ms", "u32?")]),
    Kind(0x21, "LIST", "guest", [("instance", "[16]?"), ("prefix", "text"), ("after", "text?")]),
    Kind(0x22, "WATCH", "guest", [("instance", "[16]?"), ("prefix", "text")]),
    Kind(0x28, "FOUND", "host", [
        ("revision", "revision"), ("age_ms", "u32"), ("freshness", "freshness"), ("content_type", "text"),
        ("length", "u32"), ("value", "bytes"),
    ]),
    Kind(0x29, "DATA", "either", None),
    Kind(0x2A, "LISTING", "host", [
        ("revision", "revision"), ("age_ms", "u32"), ("freshness", "freshness"), ("entries", "list of Listed"),
        ("more", "bool"),
    ]),
    Kind(0x2B, "REFUSED", "host", [("code", "u16"), ("message", "text"), ("retry_after_ms", "u32?")]),
    Kind(0x30, "RELAY", "guest", [
        ("method", "text"), ("target", "text"), ("headers", "list of Header"), ("length", "u32"), ("body", "bytes"),
    ]),
    Kind(0x31, "RELAYED", "host", [
        ("status", "u16"), ("headers", "list of Header"), ("length", "u32"), ("body", "bytes"),
    ]),
]

BY_NUMBER = {kind.number: kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in KINDS}
REQUESTS = ("GET", "LIST", "WATCH", "RELAY")

CODES = {
    1: "Internal", 2: "Invalid", 3: "NotFound", 4: "Denied", 5: "TooMuch", 6: "Unavailable", 7: "Cancelled", 8: "Unsettled",
}
DENIED = 4
CANCELLED = 7


def encode(kind: str, fields: Fields) -> bytes:
    """The body of a frame of this kind; for PART and DATA, `fields` has only the `piece`."""
    table = BY_NAME[kind].table
    return fields["piece"] if table is None else encoding.encode(table, fields)


def decode(kind: str, body: bytes) -> Fields:
    """The fields of a body, with the rules that belong to the body checked."""
    table = BY_NAME[kind].table
    if table is None:
        return {"piece": body}
    fields = encoding.decode(table, body)
    _check_paths(kind, fields)
    _check_lengths(kind, fields)
    return fields


def _check_paths(kind: str, fields: Fields) -> None:
    if kind in ("LIST", "WATCH") and not encoding.is_prefix(fields["prefix"]):
        raise Fault(Class.BODY, "the prefix is malformed")
    if kind == "LIST" and fields["after"] is not None and not encoding.is_path(fields["after"]):
        raise Fault(Class.BODY, "what the page comes after is no path")


def _check_lengths(kind: str, fields: Fields) -> None:
    if kind == "HELLO" and len(fields["build"].encode()) > 128:
        raise Fault(Class.BODY, "the build is longer than 128 bytes")


def kind_set(names: list[str]) -> bytes:
    """A set of kinds as HELLO has it."""
    bits = bytearray(32)
    for name in names:
        number = BY_NAME[name].number
        bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)


def understands(kinds: bytes, name: str) -> bool:
    """Whether a kind is in a set of kinds."""
    number = BY_NAME[name].number
    return bool(kinds[number >> 3] >> (number & 7) & 1)


def code_name(code: int) -> str:
    """What a code says; an unknown one is read as 1."""
    return CODES.get(code, CODES[1])


def instance_text(instance: bytes) -> str:
    """An instance's id as text."""
    return f"i-{instance.hex()}"


def instance_bytes(text: str) -> bytes:
    """An instance's id from its text."""
    if not text.startswith("i-") or len(text) != 34:
        raise ValueError(f"{text} is no instance's id")
    return bytes.fromhex(text[2:])
