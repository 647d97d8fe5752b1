"""The guest's session: the document's whole session byte for byte, and what it says in words."""

from __future__ import annotations

import hashlib
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from golden import FRAMES, GOLDEN, frame, frame_bytes
from moorline_guest.answers import Answer
from moorline_guest.batches import Mirror
from moorline_guest.encoding import STRUCTS, Revision, encode
from moorline_guest.faults import Fault, Lost, OutOfStep
from moorline_guest.frames import BODY, Decoder, Frame
from moorline_guest.keys import Keys
from moorline_guest.session import (
    SESSION,
    WRITE,
    Answered,
    Began,
    Denied,
    Dismissed,
    Event,
    Given,
    Guest,
    Session,
    Updated,
)

OTHER = bytes.fromhex("ffeeddccbbaa99887766554433221100")


class Peer:
    """A session, and the host that the test plays."""

    def __init__(self, mirror: Mirror | None = None) -> None:
        self.mirror = mirror or Mirror()
        boot_id = frame(FRAMES["hello-first"]).fields["boot_id"]
        self.session = Session(Guest("example/1.0", boot_id), self.mirror, 0.0)

    @classmethod
    def begun(cls, mirror: Mirror | None = None) -> Peer:
        """One that is past HELLO_ACK."""
        peer = cls(mirror)
        peer.hears("challenge", "hello-ack")
        peer.says()
        return peer

    def hears(self, *names: str) -> list[Event]:
        """Gives it frames of the vectors."""
        return self.takes(b"".join(map(frame_bytes, names)))

    def takes(self, data: bytes, now: float = 0.0) -> list[Event]:
        """Gives it bytes."""
        return list(self.session.receive(data, now))

    def batch(self, *, at: Revision | None, to: Revision, content: bytes, stream: int = SESSION) -> list[Event]:
        """Gives it a batch."""
        pieces = [content[at : at + BODY] for at in range(0, len(content), BODY)]
        frames = [
            Frame("BEGIN", stream, {"from": at, "to": to, "length": len(content)}),
            *(Frame("PART", stream, {"piece": piece}) for piece in pieces),
            Frame("COMMIT", stream, {"to": to, "digest": hashlib.sha256(content).digest()}),
        ]
        return self.takes(b"".join(one.encoded() for one in frames))

    def says(self) -> bytes:
        """All that it wants to send."""
        return b"".join(iter(self.session.next_write, b""))

    def frames(self) -> list[Frame]:
        """The same, taken apart."""
        return list(Decoder(BODY).feed(self.says()))


class WholeSession(unittest.TestCase):
    """The session that the document shows."""

    def test_every_byte(self) -> None:
        peer = Peer()
        relay = frame(FRAMES["relay-put"]).fields
        headers = {header["name"]: header["value"] for header in relay["headers"]}
        asks = {
            "get-own": lambda: peer.session.get(None, "net/name"),
            "watch-other": lambda: peer.session.watch(OTHER, "app"),
            "ping": lambda: peer.session.check_time(10.0),
            "cancel": lambda: peer.session.cancel(1),
            "relay-put": lambda: peer.session.relay("PUT", relay["target"], headers, relay["body"]),
            "get-missing": lambda: peer.session.get(None, "none"),
        }
        for name in GOLDEN["session"]:
            with self.subTest(name):
                if FRAMES[name]["from"] == "host" or name == "pong":
                    self.events = peer.hears(name)
                else:
                    asks.get(name, int)()
                    self.assertEqual(peer.says().hex(), FRAMES[name]["hex"])
        self.assertEqual(self.events, [Dismissed("the host daemon ends", 1_000)])
        self.assertEqual(peer.mirror.revision, Revision(1, 301))
        values = {path: one.value for path, one in peer.mirror.valid(0.0).items()}
        expected = {"net/key": b"\x00\xff\x80\xc3", "net/name": b"web-1", "app/state": b"ready"}
        self.assertEqual(values, expected)
        self.assertNotIn("net/key", peer.mirror.valid(60.0), "it was valid for a minute")


class Reconnecting(unittest.TestCase):
    """What a guest says of itself the next time."""

    def setUp(self) -> None:
        self.mirror = Mirror()
        Peer.begun(self.mirror).hears("begin-snapshot", "part-snapshot", "commit-snapshot")

    def hello(self) -> tuple[int | None, Revision | None]:
        """What the next HELLO says."""
        peer = Peer(self.mirror)
        peer.hears("challenge")
        fields = peer.frames()[0].fields
        return fields["incarnation"], fields["applied"]

    def test_it_says_where_its_mirror_stands(self) -> None:
        self.assertEqual(self.hello(), (1, Revision(1, 12)))
        [began] = Peer(self.mirror).hears("challenge", "hello-ack")
        assert isinstance(began, Began)
        self.assertEqual((began.applied, began.kept), (Revision(1, 12), True))

    def test_another_life_drops_the_mirror(self) -> None:
        peer = Peer(self.mirror)
        ack = frame(FRAMES["hello-ack"])
        again = Frame("HELLO_ACK", 0, {**ack.fields, "incarnation": 2})
        peer.takes(frame_bytes("challenge") + again.encoded())
        self.assertEqual((self.mirror.entries, self.mirror.revision), ({}, None))

    def test_another_instance_in_the_same_incarnation_is_left_at_once(self) -> None:
        peer = Peer(self.mirror)
        ack = frame(FRAMES["hello-ack"])
        other = Frame("HELLO_ACK", 0, {**ack.fields, "instance": OTHER})
        with self.assertRaises(Lost):
            peer.takes(frame_bytes("challenge") + other.encoded())
        self.assertEqual(self.hello(), (None, None))

    def test_a_change_from_elsewhere_asks_for_a_snapshot(self) -> None:
        peer = Peer.begun(self.mirror)
        with self.assertRaises(OutOfStep):
            peer.batch(at=Revision(1, 11), to=Revision(1, 13), content=b"")
        self.assertEqual(self.hello(), (None, None))

    def test_a_revision_never_goes_back(self) -> None:
        with self.assertRaises(OutOfStep):
            Peer.begun(self.mirror).batch(at=None, to=Revision(1, 11), content=b"")


class Standing(unittest.TestCase):
    """How old the mirror is."""

    SNAPSHOT = ("begin-snapshot", "part-snapshot", "commit-snapshot")

    def test_a_fresh_mirror_is_as_young_as_the_last_frame(self) -> None:
        peer = Peer.begun()
        peer.hears("standing-first")
        self.assertIsNone(peer.mirror.known, "the snapshot has not come")
        peer.takes(b"".join(map(frame_bytes, self.SNAPSHOT)), now=2.0)
        self.assertEqual(peer.mirror.known, 2.0)
        peer.takes(frame_bytes("pong"), now=7.0)
        self.assertEqual(peer.mirror.known, 7.0)

    def test_a_stale_mirror_grows_older(self) -> None:
        peer = Peer.begun()
        peer.hears(*self.SNAPSHOT)
        self.assertIsNone(peer.mirror.known, "nothing was said of it")
        stale = {"revision": Revision(1, 12), "age_ms": 3_000, "freshness": "stale"}
        peer.takes(Frame("STANDING", SESSION, stale).encoded(), now=10.0)
        peer.takes(frame_bytes("pong"), now=20.0)
        self.assertEqual(peer.mirror.known, 7.0)

    def test_a_mirror_behind_the_host_is_as_old_as_it_was(self) -> None:
        peer = Peer.begun()
        peer.hears(*self.SNAPSHOT)
        peer.takes(frame_bytes("standing-first"), now=5.0)
        further = {"revision": Revision(1, 13), "age_ms": 0, "freshness": "fresh"}
        peer.takes(Frame("STANDING", SESSION, further).encoded(), now=9.0)
        self.assertEqual(peer.mirror.known, 5.0)


class Comparing(unittest.TestCase):
    """What the host says of the mirror."""

    def test_a_right_mirror_is_silent(self) -> None:
        peer = Peer.begun()
        peer.hears(*Standing.SNAPSHOT)
        peer.says()
        peer.hears("digest-snapshot")
        self.assertEqual(peer.says(), b"")

    def test_a_damaged_one_says_so(self) -> None:
        peer = Peer.begun()
        peer.hears(*Standing.SNAPSHOT)
        peer.says()
        entry = peer.mirror.entries["net/name"]
        peer.mirror.entries["net/name"] = replace(entry, value=b"web-2")
        peer.hears("digest-snapshot")
        self.assertEqual(peer.says(), frame_bytes("differs"))

    def test_none_says_so(self) -> None:
        peer = Peer.begun()
        peer.hears("digest-snapshot")
        self.assertEqual(peer.says(), frame_bytes("differs-empty"))


class Asking(unittest.TestCase):
    """A host that has the mirror asked for."""

    def test_it_asks_after_each_answer(self) -> None:
        peer = Peer.begun()
        peer.hears("pull", "as-of")
        self.assertEqual(peer.says(), b"")
        self.assertEqual(peer.session.check_time(9.0), 10.0)
        peer.session.check_time(10.0)
        self.assertTrue(peer.says().endswith(frame_bytes("poll")))
        peer.session.check_time(15.0)
        self.assertEqual(peer.says(), b"", "one question at a time")
        peer.takes(frame_bytes("as-of"), now=16.0)
        peer.session.check_time(26.0)
        self.assertIn("POLL", [frame.kind for frame in peer.frames()])

    def test_only_an_answer_makes_the_mirror_younger(self) -> None:
        peer = Peer.begun()
        peer.hears("pull", *Standing.SNAPSHOT)
        peer.takes(frame_bytes("as-of"), now=10.0)
        self.assertEqual(peer.mirror.known, 6.0)
        peer.takes(frame_bytes("pong"), now=12.0)
        self.assertEqual(peer.mirror.known, 6.0)
        peer.takes(frame_bytes("as-of"), now=20.0)
        self.assertEqual(peer.mirror.known, 16.0)


class Streams(unittest.TestCase):
    """Requests and their ends."""

    def test_a_value_in_pieces(self) -> None:
        peer = Peer.begun()
        streams = [peer.session.get(None, "a") for _ in range(4)]
        self.assertEqual(streams, [1, 3, 5, 7])
        [answered] = peer.hears("found-first", "data-middle", "data-last")
        assert isinstance(answered, Answered)
        self.assertEqual((answered.stream, answered.answer.fields["value"]), (7, b"0123456789"))
        self.assertEqual(peer.session.get(None, "a"), 7, "the number is free again")

    def test_a_value_that_ends_too_early_is_a_fault(self) -> None:
        peer = Peer.begun()
        for _ in range(4):
            peer.session.get(None, "a")
        with self.assertRaises(Fault):
            peer.hears("found-first", "data-last")

    def test_a_cancelled_number_is_in_use_until_the_hosts_end(self) -> None:
        peer = Peer.begun()
        self.assertEqual(peer.session.get(None, "net/name"), 1)
        peer.session.cancel(1)
        self.assertEqual(peer.session.get(None, "other"), 3)
        self.assertEqual(peer.hears("found-own"), [Answered(1, Answer("RESET", {"code": 7}))])
        self.assertEqual(peer.session.get(None, "other"), 1)

    def test_a_watch_takes_batches_and_grants_credit(self) -> None:
        peer = Peer.begun()
        peer.session.watch(None, "")
        peer.says()
        value = {"revision": Revision(1, 1), "content_type": "a/b", "valid_for_ms": None, "value": bytes(200_000)}
        content = encode(STRUCTS["Item"], {"path": "large", "entry": value})
        [updated] = peer.batch(at=None, to=Revision(1, 1), content=content, stream=1)
        assert isinstance(updated, Updated)
        self.assertEqual(updated.batch.items, [("large", value)])
        credit, applied = peer.frames()
        self.assertEqual((credit.kind, credit.stream, credit.fields), ("CREDIT", 1, {"bytes": 8 * BODY}))
        self.assertEqual((applied.kind, applied.fields), ("APPLIED", {"revision": Revision(1, 1)}))

    def test_a_long_body_waits_for_credit(self) -> None:
        peer = Peer.begun()
        body = bytes(300_000)
        peer.session.relay("POST", "/v1/instances/i-00/batch", {}, body)
        relay, *data = peer.frames()
        sent = sum(len(one.fields["piece"]) for one in data)
        self.assertEqual(sent, 262_144)
        self.assertFalse(relay.end or any(one.end for one in data))
        peer.takes(Frame("CREDIT", 1, {"bytes": 131_072}).encoded())
        rest = peer.frames()
        self.assertTrue(rest[-1].end)
        whole = relay.fields["body"] + b"".join(one.fields["piece"] for one in [*data, *rest])
        self.assertEqual(whole, body)

    def test_no_write_is_larger_than_the_kernel_may_be_given(self) -> None:
        peer = Peer.begun()
        peer.session.relay("POST", "/v1/instances/i-00/batch", {}, bytes(200_000))
        sizes = [len(data) for data in iter(peer.session.next_write, b"")]
        self.assertLessEqual(max(sizes), WRITE)


class Time(unittest.TestCase):
    """What silence does."""

    def test_a_ping_each_heartbeat_and_an_end_without_an_answer(self) -> None:
        peer = Peer.begun()
        for now in (10.0, 20.0):
            self.assertEqual(peer.session.check_time(now), now + 10.0)
            self.assertEqual([one.kind for one in peer.frames()], ["PING"])
        with self.assertRaises(Lost):
            peer.session.check_time(30.0)

    def test_a_frame_that_has_begun_must_go_on(self) -> None:
        peer = Peer.begun()
        peer.takes(frame_bytes("pong")[:3], now=1.0)
        peer.takes(frame_bytes("pong")[3:4], now=9.0)
        with self.assertRaises(Lost):
            peer.session.check_time(11.0)

    def test_a_host_that_never_greets(self) -> None:
        with self.assertRaises(Lost):
            Peer().session.check_time(10.0)



class Proving(unittest.TestCase):
    """What a guest's root shows itself by."""

    def test_a_key_is_given_and_kept_for_its_owner_alone(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "key"
            [given] = Peer.begun().hears("link-key")
            assert isinstance(given, Given)
            self.assertNotIn(given.fields["key"].hex(), repr(given))
            Keys(path).take(given.fields["key"])
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            self.assertEqual(Keys(path).next(), given.fields["key"])

    def test_who_is_not_believed_comes_the_other_way(self) -> None:
        mirror = Mirror()
        mirror.revision = Revision(1, 7)
        peer = Peer(mirror)
        denied = Frame("RESET", 0, {"code": 4}).encoded() + frame_bytes("goaway")
        peer.hears("challenge")
        self.assertEqual(peer.takes(denied), [Denied(), Dismissed("the host daemon ends", 1_000)])
        self.assertIsNone(mirror.revision, "what it mirrored may be another instance's")
        keys = Keys()
        keys.take(bytes(32))
        keys.denied()
        self.assertIsNone(keys.next())
        keys.denied()
        self.assertEqual(keys.next(), bytes(32))


if __name__ == "__main__":
    unittest.main()
