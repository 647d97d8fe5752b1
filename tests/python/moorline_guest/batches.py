"""Batches, and the mirror that they keep up to date."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from .encoding import STRUCTS, Fields, Reader, Revision, encode, is_path
from .faults import Class, Fault, OutOfStep


@dataclass(frozen=True)
class Batch:
    """A whole batch whose digest is right."""

    base: Revision | None
    to: Revision
    items: list[tuple[str, Fields | None]]
    secrets: frozenset[str] = frozenset()

    @property
    def is_snapshot(self) -> bool:
        """Whether it replaces everything."""
        return self.base is None


def items_of(content: bytes) -> list[tuple[str, Fields | None]]:
    """The entries in a batch's content, in their order."""
    reader, items = Reader(content), {}
    while not reader.at_end():
        item = reader.fields(STRUCTS["Item"])
        if not is_path(item["path"]) or item["path"] in items:
            raise Fault(Class.BODY, "an item's path is malformed, or comes twice")
        items[item["path"]] = item["entry"]
    return list(items.items())


def is_marked(places: bytes, place: int) -> bool:
    """Whether SECRETS names the place."""
    return place >> 3 < len(places) and bool(places[place >> 3] >> (place & 7) & 1)


class Assembly:
    """The batches of one stream: BEGIN, PART and COMMIT put together, one after the other."""

    def __init__(self, bound: int, at: Revision | None) -> None:
        self.at = at
        self._bound = bound
        self._begin: Fields | None = None
        self._content = bytearray()
        self._places: bytes | None = None

    def mark(self, places: bytes) -> None:
        """SECRETS: which entries of the next batch are secret."""
        if self._begin is not None or self._places is not None:
            raise Fault(Class.PLACE, "what is secret is said once, before a batch")
        self._places = places

    def begin(self, fields: Fields) -> None:
        """BEGIN: what it builds on must be what was applied last, and it may not lead back."""
        if self._begin is not None:
            raise Fault(Class.PLACE, "a batch is under way on this stream")
        if fields["length"] > self._bound:
            raise Fault(Class.TOO_MUCH, f"a batch of {fields['length']} bytes")
        if fields["from"] is not None and fields["from"] != self.at:
            raise OutOfStep(f"a batch builds on {fields['from']}, and {self.at} was applied last")
        if self.at is not None and fields["to"] < self.at:
            raise OutOfStep(f"a batch leads back from {self.at} to {fields['to']}")
        self._begin, self._content = fields, bytearray()

    def part(self, piece: bytes) -> None:
        """PART: the next piece, never more than was announced."""
        if self._begin is None:
            raise Fault(Class.PLACE, "a piece of no batch")
        if len(self._content) + len(piece) > self._begin["length"]:
            raise Fault(Class.TOO_MUCH, "more than BEGIN announced")
        self._content += piece

    def commit(self, fields: Fields) -> Batch:
        """COMMIT: the batch, if it is whole and what the host sent."""
        begin = self._begin
        if begin is None or len(self._content) < begin["length"] or fields["to"] != begin["to"]:
            raise Fault(Class.PLACE, "the end of another batch, or of none, or before it is whole")
        content = bytes(self._content)
        if hashlib.sha256(content).digest() != fields["digest"]:
            raise Fault(Class.DIGEST, "the content is not what the host sent")
        items, places = items_of(content), self._places or b""
        self._begin, self._places, self.at = None, None, begin["to"]
        secrets = frozenset(path for place, (path, _) in enumerate(items) if is_marked(places, place))
        return Batch(begin["from"], begin["to"], items, secrets)


@dataclass(frozen=True)
class Entry:
    """An entry of the mirror. `until` is when it ceases to be valid, on the clock that counts suspend."""

    revision: Revision
    content_type: str
    value: bytes = field(repr=False)
    until: float | None
    secret: bool = False


@dataclass(frozen=True)
class Identity:
    """Whose data a mirror has: what a guest compares at each HELLO_ACK."""

    instance: bytes
    incarnation: int
    authority: str


@dataclass
class Mirror:
    """The guest's copy of its instance's data. It outlives connections.

    `known` is when it was last known to be the present state, if that is known.
    """

    identity: Identity | None = None
    revision: Revision | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    known: float | None = None

    def drop(self) -> None:
        """Forgets everything."""
        self.identity, self.revision, self.entries, self.known = None, None, {}, None

    def vouch(self, to: Revision | None, when: float) -> None:
        """The host's copy, which stands at `to`, was the present state at `when`. Is the mirror as far as that?"""
        if self.revision is not None and to is not None and self.revision >= to:
            self.known = when if self.known is None else max(self.known, when)

    def apply(self, batch: Batch, now: float) -> None:
        """Takes a batch over, whole."""
        if batch.is_snapshot:
            self.entries = {}
        for path, entry in batch.items:
            if entry is None:
                self.entries.pop(path, None)
            else:
                self.entries[path] = _entry(entry, now, path in batch.secrets)
        self.revision = batch.to

    def digest(self) -> bytes:
        """What all of it comes to, by which the host's copy and this one are compared."""
        rows = hashlib.sha256()
        for path in sorted(self.entries):
            one = self.entries[path]
            rows.update(encode(STRUCTS["Row"], {
                "path": path,
                "revision": one.revision,
                "content_type": one.content_type,
                "secret": one.secret,
                "value": hashlib.sha256(one.value).digest(),
            }))
        return rows.digest()

    def valid(self, now: float) -> dict[str, Entry]:
        """What may be given out."""
        return {path: one for path, one in self.entries.items() if one.until is None or now < one.until}


def _entry(fields: Fields, now: float, secret: bool) -> Entry:
    valid_for = fields["valid_for_ms"]
    until = None if valid_for is None else now + valid_for / 1_000
    return Entry(fields["revision"], fields["content_type"], fields["value"], until, secret)
