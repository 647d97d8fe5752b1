"""One connection of a guest, as a pure core: bytes and the time go in, bytes and events come out.

Times are seconds of a clock that counts suspend. Nothing here waits or touches a socket.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from . import bodies
from .answers import ANSWER_OF, Account, Answer, LongAnswer, Stream, Upload
from .batches import Assembly, Batch, Identity, Mirror
from .encoding import Fields, Revision
from .faults import Class, Fault, Lost, OutOfStep
from .frames import BODY, Decoder, Frame

WRITE = 32_768
PATIENCE = 10.0
DEAD = 30.0
SESSION = 0


@dataclass(frozen=True)
class Began:
    """HELLO_ACK came. `applied` is what HELLO had said, and `kept` whether the mirror still holds."""

    ack: Fields
    applied: Revision | None
    kept: bool


@dataclass(frozen=True)
class Updated:
    """The mirror (stream 0) or a watch has taken a batch."""

    stream: int
    batch: Batch


@dataclass(frozen=True)
class Answered:
    """A request has ended, or a watch."""

    stream: int
    answer: Answer


@dataclass(frozen=True)
class Dismissed:
    """GOAWAY came: close, and dial again."""

    reason: str
    reconnect_after_ms: int


@dataclass(frozen=True)
class Given:
    """The host gave something secret: the fields of a SESSION, a CREDENTIAL or a LINK_KEY."""

    kind: str
    fields: Fields = field(repr=False)


@dataclass(frozen=True)
class TakenBack:
    """SESSION_OVER: what the last SESSION gave is worth nothing any more."""

    reason: str


@dataclass(frozen=True)
class Denied:
    """The host doesn't believe HELLO: its proof is wrong, or missing. `Dismissed` follows."""


Event = Began | Updated | Answered | Dismissed | Given | TakenBack | Denied


@dataclass(frozen=True)
class Guest:
    """What a guest says of itself."""

    build: str
    boot_id: bytes
    vmgenid: bytes | None = None
    link_key: bytes | None = None


class State(Enum):
    """How far the session is."""

    CHALLENGE = auto()
    HELLO_ACK = auto()
    OPEN = auto()
    OVER = auto()


class Session:
    """The guest's end. `receive` and `check_time` raise `Fault` or `Lost`, and the connection is to be closed then."""

    def __init__(self, guest: Guest, mirror: Mirror, now: float) -> None:
        self.state = State.CHALLENGE
        self.progress = False
        self.streams: dict[int, Stream] = {}
        self._guest = guest
        self._mirror = mirror
        self._decoder = Decoder(BODY)
        self._urgent: deque[bytes] = deque()
        self._requests: deque[bytes] = deque()
        self._since = self._heard = self._pinged = now
        self._frame_began: float | None = None
        self._heartbeat = 0.0
        self._pings = 0
        self._said: Identity | None = None
        self._standing: tuple[Fields, float] | None = None
        self._questions = 0
        self._every: float | None = None
        self._ask_at: float | None = None
        self._batches = Assembly(0, None)
        self._account = Account(0)
        self.kinds = bytes(32)
        self.limits: Fields = {}

    # What comes in.

    def receive(self, data: bytes, now: float) -> Iterator[Event]:
        """Takes some bytes of the host, and answers with what they mean."""
        for frame in self._decoder.feed(data):
            if self.state is State.OVER:
                return
            self._heard, self._frame_began = now, None
            yield from self._take(frame, now)
        if not self._decoder.under_way:
            self._frame_began = None
        elif self._frame_began is None:
            self._frame_began = now

    def _take(self, frame: Frame, now: float) -> Iterator[Event]:
        match self.state, frame.kind:
            case State.CHALLENGE, "CHALLENGE" if frame.stream == SESSION:
                self._hello(frame.fields["nonce"], now)
            case State.HELLO_ACK, "HELLO_ACK" if frame.stream == SESSION:
                yield self._begin(frame.fields, now)
            case State.HELLO_ACK, "RESET" if frame.stream == SESSION and frame.fields["code"] == bodies.DENIED:
                # What was mirrored may be another instance's, so that the next HELLO claims nothing.
                self._mirror.revision = None
                yield Denied()
            case _, "GOAWAY" if frame.stream == SESSION:
                self.state = State.OVER
                yield Dismissed(**frame.fields)
            case State.OPEN, _:
                self.progress = True
                yield from self._on_session(frame, now) if frame.stream == SESSION else self._on_stream(frame)
                self._vouch(now)
            case _:
                raise Fault(Class.PLACE, f"{frame.kind} has no place here")

    def _hello(self, nonce: bytes, now: float) -> None:
        mirror, key = self._mirror, self._guest.link_key
        self._said = None if mirror.revision is None else mirror.identity
        self._send_urgent("HELLO", SESSION, {
            "kinds": bodies.kind_set(list(bodies.BY_NAME)),
            "build": self._guest.build,
            "boot_id": self._guest.boot_id,
            "vmgenid": self._guest.vmgenid,
            "incarnation": self._said.incarnation if self._said else None,
            "applied": mirror.revision if self._said else None,
            "journal": 0,
            "proof": hmac.digest(key, nonce, hashlib.sha256) if key is not None else None,
        })
        self.state, self._since = State.HELLO_ACK, now

    def _begin(self, ack: Fields, now: float) -> Began:
        applied = self._mirror.revision if self._said else None
        identity = Identity(ack["instance"], ack["incarnation"], ack["authority"])
        kept = identity == self._mirror.identity
        if not kept:
            self._mirror.drop()
            self._mirror.identity = identity
            if self._said and self._said.incarnation == identity.incarnation:
                raise Lost("another instance with the same incarnation: the host may think the mirror in step")
        self.kinds, self.limits = ack["kinds"], ack["limits"]
        self._heartbeat = max(ack["heartbeat_ms"], 1_000) / 1_000
        self._batches = Assembly(self.limits["batch"], self._mirror.revision)
        self._account = Account(self.limits["credit"])
        self.state, self._pinged = State.OPEN, now
        return Began(ack, applied, kept)

    def _on_session(self, frame: Frame, now: float) -> Iterator[Event]:
        match frame.kind:
            case "PING":
                self._send_urgent("PONG", SESSION, frame.fields)
            case "PONG" | "CREDIT":
                pass  # That something came is all that a PONG says; nothing is sent on stream 0 that costs credit.
            case "STANDING" | "AS_OF":
                self._standing = (frame.fields, now)
                if frame.kind == "AS_OF" and self._every is not None:
                    self._ask_at = now + self._every
            case "PULL":
                self._every = frame.fields["every_ms"] / 1_000
            case "SESSION" | "CREDENTIAL" | "LINK_KEY":
                yield Given(frame.kind, frame.fields)
            case "SESSION_OVER":
                yield TakenBack(frame.fields["reason"])
            case "DIGEST":
                self._compare(frame.fields)
            case "SECRETS":
                self._batches.mark(frame.fields["places"])
            case "BEGIN" | "PART" | "COMMIT":
                yield from self._on_mirror(frame, now)
            case _:
                raise Fault(Class.PLACE, f"{frame.kind} has no place on stream 0")

    def _compare(self, right: Fields) -> None:
        """DIGEST: what the mirror is if nothing went wrong."""
        if (self._mirror.revision, self._mirror.digest()) != (right["revision"], right["digest"]):
            self._send_urgent("DIFFERS", SESSION, {"revision": self._mirror.revision})

    def _vouch(self, now: float) -> None:
        """What the host's last STANDING or AS_OF says of the mirror, now that a frame has come."""
        if self._standing is None:
            return
        standing, since = self._standing
        fresh = standing.get("freshness") == "fresh"
        self._mirror.vouch(standing["revision"], now if fresh else since - standing["age_ms"] / 1_000)

    def _on_mirror(self, frame: Frame, now: float) -> Iterator[Event]:
        try:
            batch = self._on_batch(frame, self._batches, self._account)
        except OutOfStep:
            # Without a revision the next HELLO asks for a snapshot. The entries may be read until it comes.
            self._mirror.revision = None
            raise
        if batch is not None:
            self._mirror.apply(batch, now)
            self._send_urgent("APPLIED", SESSION, {"revision": batch.to})
            yield Updated(SESSION, batch)

    def _on_stream(self, frame: Frame) -> Iterator[Event]:
        stream = self.streams.get(frame.stream)
        if stream is None:
            if frame.kind != "CREDIT":
                raise Fault(Class.PLACE, f"{frame.kind} on stream {frame.stream}, on which nobody asked")
            return
        if stream.cancelled:
            event = Answered(frame.stream, Answer("RESET", {"code": bodies.CANCELLED})) if frame.end else None
        else:
            event = self._on_request(frame, stream)
        if frame.end:
            del self.streams[frame.stream]
        if event is not None:
            yield event

    def _on_request(self, frame: Frame, stream: Stream) -> Event | None:
        answer = None
        match frame.kind:
            case "CREDIT" if not frame.end:
                if stream.upload is not None:
                    stream.upload.credit += frame.fields["bytes"]
                return None
            case "SECRETS" if stream.batches is not None and not frame.end:
                stream.batches.mark(frame.fields["places"])
                return None
            case "SECRETS" if stream.request in ("GET", "LIST") and stream.secrets is None and not frame.end:
                stream.secrets = frame.fields["places"]
                return None
            case ("BEGIN" | "PART" | "COMMIT") if stream.batches is not None and not frame.end:
                return self._on_watch(frame, stream)
            case ("REFUSED" | "BUSY" | "RESET") if frame.end:
                return Answered(frame.stream, Answer(frame.kind, frame.fields))
            case "LISTING" if stream.request == "LIST" and frame.end:
                return Answered(frame.stream, Answer(frame.kind, frame.fields))
            case ("FOUND" | "RELAYED") as kind if ANSWER_OF.get(stream.request) == kind and not stream.long_answer:
                # The host answers before the whole body came: it wants no more of it.
                stream.upload = None
                stream.long_answer = LongAnswer(kind, frame.fields)
                answer = stream.long_answer.take(frame.fields["value" if kind == "FOUND" else "body"], frame.end)
            case "DATA" if stream.long_answer is not None:
                answer = stream.long_answer.take(frame.fields["piece"], frame.end)
                self._grant(frame, stream.account)
            case _:
                raise Fault(Class.PLACE, f"{frame.kind} has no place as an answer to {stream.request}")
        return Answered(frame.stream, answer) if answer is not None else None

    def _on_watch(self, frame: Frame, stream: Stream) -> Event | None:
        assert stream.batches is not None
        batch = self._on_batch(frame, stream.batches, stream.account)
        if batch is None:
            return None
        self._send_urgent("APPLIED", frame.stream, {"revision": batch.to})
        return Updated(frame.stream, batch)

    def _on_batch(self, frame: Frame, batches: Assembly, account: Account) -> Batch | None:
        match frame.kind:
            case "BEGIN":
                batches.begin(frame.fields)
            case "PART":
                batches.part(frame.fields["piece"])
                self._grant(frame, account)
            case "COMMIT":
                return batches.commit(frame.fields)
        return None

    def _grant(self, frame: Frame, account: Account) -> None:
        credit = account.take(len(frame.fields["piece"]))
        if credit and not frame.end:
            self._send_urgent("CREDIT", frame.stream, {"bytes": credit})

    # What time does.

    def check_time(self, now: float) -> float:
        """Sends PING and POLL when it is time. Answers with the time at which to look again."""
        if self._frame_began is not None and now >= self._frame_began + PATIENCE:
            raise Lost("a frame has begun and doesn't go on")
        if self.state is not State.OPEN:
            if now >= self._since + PATIENCE:
                raise Lost(f"no {self.state.name} came")
            return self._since + PATIENCE
        dead = self._heard + max(DEAD, 3 * self._heartbeat)
        if now >= dead:
            raise Lost("nothing is heard of the host")
        if now >= self._pinged + self._heartbeat:
            self._pings, self._pinged = self._pings + 1, now
            self._send_urgent("PING", SESSION, {"number": self._pings})
        if self._ask_at is not None and now >= self._ask_at:
            self._questions, self._ask_at = self._questions + 1, None
            self._send_urgent("POLL", SESSION, {"number": self._questions})
        times = [dead, self._pinged + self._heartbeat]
        if self._ask_at is not None:
            times.append(self._ask_at)
        return min(times if self._frame_began is None else [*times, self._frame_began + PATIENCE])

    # What goes out.

    def get(self, instance: bytes | None, path: str, max_age_ms: int | None = None) -> int:
        """Asks for an entry; answers with the stream on which the answer comes."""
        return self._request("GET", {"instance": instance, "path": path, "max_age_ms": max_age_ms})

    def list(self, instance: bytes | None, prefix: str, after: str | None = None) -> int:
        """Asks for a page of a listing."""
        return self._request("LIST", {"instance": instance, "prefix": prefix, "after": after})

    def watch(self, instance: bytes | None, prefix: str) -> int:
        """Asks for batches."""
        return self._request("WATCH", {"instance": instance, "prefix": prefix})

    def relay(self, method: str, target: str, headers: dict[str, str], body: bytes) -> int:
        """Has a request passed on to the control plane."""
        named = [{"name": name, "value": value} for name, value in headers.items()]
        fields = {"method": method, "target": target, "headers": named, "length": len(body), "body": b""}
        # The length before the first piece takes up to two bytes more than that of an empty one.
        room = min(BODY, self.limits["body"]) - len(bodies.encode("RELAY", fields)) - 2
        fields["body"] = body[: max(room, 0)]
        return self._request("RELAY", fields, body[max(room, 0) :])

    def cancel(self, number: int) -> None:
        """Gives a request up. Its stream is in use until the host has ended it."""
        stream = self.streams[number]
        if not stream.cancelled:
            stream.cancelled, stream.upload = True, None
            frame = Frame("CANCEL", number, {"code": bodies.CANCELLED}, end=True)
            self._requests.append(frame.encoded())

    def next_write(self) -> bytes:
        """What is to be written next, at most as much as one write may have; empty when there is nothing."""
        out = bytearray()
        while len(out) + BODY + 10 <= WRITE and (frame := self._next_frame()):
            out += frame
        return bytes(out)

    def _request(self, kind: str, fields: Fields, rest: bytes = b"") -> int:
        if self.state is not State.OPEN or not bodies.understands(self.kinds, kind):
            raise ValueError(f"the host takes no {kind} now")
        number = next(number for number in range(1, 1 << 32, 2) if number not in self.streams)
        stream = Stream(kind, Account(self.limits["credit"]))
        if rest:
            stream.upload = Upload(rest, self.limits["credit"])
        if kind == "WATCH":
            stream.batches = Assembly(self.limits["batch"], None)
        self._requests.append(Frame(kind, number, fields, end=not rest).encoded())
        self.streams[number] = stream
        return number

    def _send_urgent(self, kind: str, stream: int, fields: Fields) -> None:
        self._urgent.append(Frame(kind, stream, fields).encoded())

    def _next_frame(self) -> bytes | None:
        for queue in (self._urgent, self._requests):
            if queue:
                return queue.popleft()
        return self._next_data()

    def _next_data(self) -> bytes | None:
        for number, stream in self.streams.items():
            if stream.upload is not None and (piece := stream.upload.next_piece(min(BODY, self.limits["body"]))):
                end = not stream.upload.rest
                # At the end of the row, so that the streams take turns.
                self.streams[number] = self.streams.pop(number)
                if end:
                    stream.upload = None
                return Frame("DATA", number, {"piece": piece}, end).encoded()
        return None
