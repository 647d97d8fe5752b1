"""The byte vectors of the guest link: every one both ways, and every fault refused."""

from __future__ import annotations

import hashlib
import hmac
import unittest
from collections.abc import Callable

from golden import FRAMES, GOLDEN, fields, frame, frame_bytes, value
from host_end import HostEnd
from moorline_guest import bodies, encoding
from moorline_guest.batches import Mirror, items_of
from moorline_guest.encoding import STRUCTS, Fields, Reader
from moorline_guest.faults import Fault
from moorline_guest.frames import BODY, Decoder
from moorline_guest.session import Event, Guest, Session


class Tables(unittest.TestCase):
    """What was written down from the document is what the vectors say."""

    def test_structs(self) -> None:
        ours = {name: [list(field) for field in table] for name, table in STRUCTS.items()}
        self.assertEqual(ours, GOLDEN["structs"])

    def test_kinds(self) -> None:
        ours = [
            {
                "number": kind.number,
                "name": kind.name,
                "from": kind.sender,
                "body": None if kind.table is None else [list(field) for field in kind.table],
            }
            for kind in bodies.KINDS
        ]
        self.assertEqual(ours, GOLDEN["kinds"])


class Vectors(unittest.TestCase):
    """Values, frames and contents."""

    def test_values(self) -> None:
        for vector in GOLDEN["values"]:
            with self.subTest(**vector):
                data, ours = bytes.fromhex(vector["hex"]), value(vector["type"], vector["value"])
                self.assertEqual(encoding.encode_value(vector["type"], ours), data)
                reader = Reader(data)
                self.assertEqual(reader.value(vector["type"]), ours)
                self.assertTrue(reader.at_end())

    def test_frames(self) -> None:
        for name, vector in FRAMES.items():
            with self.subTest(name):
                self.assertEqual(frame(vector).encoded(), frame_bytes(name))
                self.assertEqual(list(Decoder(BODY).feed(frame_bytes(name))), [frame(vector)])

    def test_frames_cut_anywhere(self) -> None:
        data = b"".join(map(frame_bytes, FRAMES))
        decoder = Decoder(BODY)
        frames = [one for byte in data for one in decoder.feed(bytes([byte]))]
        self.assertEqual(frames, [frame(vector) for vector in FRAMES.values()])
        self.assertFalse(decoder.under_way)

    def test_contents(self) -> None:
        for vector in GOLDEN["contents"]:
            with self.subTest(vector["name"]):
                data = bytes.fromhex(vector["hex"])
                items = [fields(STRUCTS["Item"], item) for item in vector["items"]]
                self.assertEqual(items_of(data), [(item["path"], item["entry"]) for item in items])
                self.assertEqual(b"".join(encoding.encode(STRUCTS["Item"], item) for item in items), data)
                self.assertEqual(hashlib.sha256(data).hexdigest(), vector["sha256"])

    def test_views(self) -> None:
        for vector in GOLDEN["views"]:
            with self.subTest(vector["name"]):
                rows = [fields(STRUCTS["Row"], row) for row in vector["rows"]]
                data = b"".join(encoding.encode(STRUCTS["Row"], row) for row in rows)
                self.assertEqual(data, bytes.fromhex(vector["hex"]))
                self.assertEqual(hashlib.sha256(data).hexdigest(), vector["sha256"])

    def test_proof(self) -> None:
        proof = {name: bytes.fromhex(text) for name, text in GOLDEN["proof"].items() if name != "frame"}
        made = hmac.digest(proof["key"], proof["nonce"], hashlib.sha256)
        self.assertEqual(made, proof["hmac"])
        self.assertEqual(frame(FRAMES[GOLDEN["proof"]["frame"]]).fields["proof"], made)


class Faults(unittest.TestCase):
    """Frames that end a connection: the last one does, those before it are taken."""

    def test_every_one(self) -> None:
        for vector in GOLDEN["faults"]:
            with self.subTest(vector["name"]):
                takes = _host(vector) if vector["to"] == "host" else _guest(vector)
                *taken, last = map(bytes.fromhex, vector["frames"])
                for data in taken:
                    takes(data)
                with self.assertRaises(Fault) as caught:
                    takes(last)
                self.assertEqual(caught.exception.found, vector["class"], caught.exception)


def _host(vector: Fields) -> Callable[[bytes], object]:
    return HostEnd(before_hello=vector["before_hello"]).receive


def _guest(vector: Fields) -> Callable[[bytes], object]:
    session = Session(Guest("example/1.0", bytes(16)), Mirror(), 0.0)

    def takes(data: bytes) -> list[Event]:
        return list(session.receive(data, 0.0))

    if not vector["before_hello"]:
        takes(frame_bytes("challenge") + frame_bytes("hello-ack"))
    return takes


if __name__ == "__main__":
    unittest.main()
