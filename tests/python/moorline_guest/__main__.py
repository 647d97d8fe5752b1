"""A guest that is driven by lines of JSON.

It dials the unix socket of a hybrid vsock in the VMM's place, and again whenever a connection ends. What happens comes
out on standard output, an object a line, told apart by `event`:

* `session`: HELLO_ACK came; `applied` is what HELLO had said, `kept` whether the mirror still holds.
* `batch`: the mirror, or the watch with this `id`, took a batch; `changes` has an object for each entry.
* `answer`: the request with this `id` has ended; `kind` is FOUND, LISTING, RELAYED, REFUSED, BUSY or RESET.
* `denied`: the host doesn't believe the proof in HELLO, or misses one.
* `given`: a SESSION, CREDENTIAL (with its `role`) or LINK_KEY came; what is in it stays secret.
* `taken_back`: SESSION_OVER came, and `why`; nothing is signed any more.
* `mirror`: every entry that is valid, as asked for, and the mirror's `age_ms`, if it is known.
* `error`: a command that can't be carried out now.
* `closed`: the connection has ended, and why. Requests under way have failed with it.

Standard input takes commands, an object a line, and its end ends the program:

    {"id": 1, "do": "get", "path": "net/name", "instance": "i-...", "max_age_ms": 5000}
    {"id": 2, "do": "list", "prefix": "net", "instance": "i-...", "after": "net/key"}
    {"id": 3, "do": "watch", "prefix": "net", "instance": "i-..."}
    {"id": 4, "do": "relay", "method": "PUT", "target": "/v1/...", "headers": {}, "body": "..."}
    {"id": 3, "do": "cancel"}
    {"do": "mirror"}
    {"do": "redial"}

Once SESSION came, what is relayed and changes something is signed. A value comes out as its `length`, its `sha256`, and its `text` if it is short and UTF-8.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import select
import sys
import time
from pathlib import Path
from typing import Any

from . import bodies
from .batches import Batch, Mirror
from .encoding import Fields, Revision
from .faults import Lost
from .keys import Keys
from .link import ENDS, Backoff, Connection, Lines, boot_id, now, serve
from .proof import Signer
from .session import Answered, Began, Denied, Dismissed, Event, Given, Guest, Session, TakenBack, Updated

BUILD = "moorline-python/1"
SHORT = 1_024


class Driver:
    """What the lines mean, and the mirror that outlives connections."""

    def __init__(self, keys: Keys) -> None:
        self.mirror = Mirror()
        self.keys = keys
        self._asked: dict[int, Any] = {}
        self._authority = ""
        self._signer: Signer | None = None

    def on_event(self, session: Session, event: Event) -> None:
        """Tells of an event."""
        match event:
            case Began(ack, applied, kept):
                self.keys.believed()
                self._authority = ack["authority"]
                tell(
                    "session",
                    number=ack["session"],
                    instance=bodies.instance_text(ack["instance"]),
                    incarnation=ack["incarnation"],
                    authority=ack["authority"],
                    applied=shown(applied),
                    kept=kept,
                )
            case Updated(stream, batch):
                tell("batch", id=self._asked.get(stream), **shown_batch(batch))
            case Answered(stream, answer):
                tell("answer", id=self._asked.pop(stream), kind=answer.kind, **shown_answer(answer.fields))
            case Denied():
                self.keys.denied()
                tell("denied")
            case Given(kind, fields):
                if kind == "LINK_KEY":
                    self.keys.take(fields["key"])
                if kind == "SESSION":
                    self._signer = Signer(self._authority, fields)
                role = {"role": fields["role"]} if kind == "CREDENTIAL" else {}
                tell("given", kind=kind, **role)
            case TakenBack(reason):
                self._signer = None
                tell("taken_back", why=reason)
            case Dismissed(reason):
                self.closed(reason)

    def closed(self, why: object) -> None:
        """Tells that a connection has ended."""
        self._asked.clear()
        tell("closed", why=str(why))

    def on_command(self, session: Session | None, line: bytes) -> None:
        """Does what a line says."""
        command = json.loads(line)
        try:
            if command["do"] == "mirror":
                entries, known = self.mirror.valid(now()), self.mirror.known
                age_ms = None if known is None else round((now() - known) * 1_000)
                tell("mirror", age_ms=age_ms, entries={path: shown_value(one.value) for path, one in entries.items()})
            elif session is None:
                raise ValueError("there is no session")
            else:
                self._ask(session, command)
        except (ValueError, KeyError) as error:
            tell("error", id=command.get("id"), why=str(error))

    def _ask(self, session: Session, command: Fields) -> None:
        instance = bodies.instance_bytes(command["instance"]) if "instance" in command else None
        match command["do"]:
            case "get":
                stream = session.get(instance, command["path"], command.get("max_age_ms"))
            case "list":
                stream = session.list(instance, command["prefix"], command.get("after"))
            case "watch":
                stream = session.watch(instance, command["prefix"])
            case "relay":
                body = command.get("body", "").encode()
                method, target, headers = command["method"], command["target"], command.get("headers", {})
                if self._signer is not None and method != "GET":
                    nonce = secrets.token_urlsafe(16)
                    headers = self._signer.sign(method, target, headers, body, round(time.time()), nonce)
                stream = session.relay(method, target, headers, body)
            case "cancel":
                session.cancel(next(one for one, asked in self._asked.items() if asked == command["id"]))
                return
            case "redial":
                raise Lost("it was told to dial again")
            case other:
                raise ValueError(f"there is no command {other}")
        self._asked[stream] = command["id"]


def shown(revision: Revision | None) -> str | None:
    """A revision as text."""
    return None if revision is None else str(revision)


def shown_value(value: bytes) -> Fields:
    """What is told of a value."""
    told: Fields = {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    try:
        if len(value) <= SHORT:
            told["text"] = value.decode()
    except UnicodeDecodeError:
        pass  # It is no text.
    return told


def shown_batch(batch: Batch) -> Fields:
    """What is told of a batch."""
    changes = [
        {"path": path, "gone": True} if entry is None else {"path": path, **shown_answer(entry)}
        for path, entry in batch.items
    ]
    return {"from": shown(batch.base), "to": shown(batch.to), "changes": changes}


def shown_answer(fields: Fields) -> Fields:
    """What is told of an answer's fields, or an entry's."""
    told: Fields = {}
    for name, value in fields.items():
        match name, value:
            case _, Revision():
                told[name] = str(value)
            case _, bytes():
                told[name] = shown_value(value)
            case "entries", _:
                told[name] = [shown_answer(entry) for entry in value]
            case "code", _:
                told[name] = bodies.code_name(value)
            case _:
                told[name] = value
    return told


def tell(event: str, **fields: Any) -> None:
    """Writes a line of JSON."""
    print(json.dumps({"event": event, **fields}), flush=True)


def wait(seconds: float, commands: Lines, driver: Driver) -> None:
    """Lets time pass between two connections, in which only what needs none can be commanded."""
    until = now() + seconds
    while not commands.ended and (left := until - now()) > 0:
        if select.select([commands.descriptor], [], [], left)[0]:
            for line in commands.read():
                driver.on_command(None, line)


def main() -> None:
    """Runs until standard input ends."""
    parser = argparse.ArgumentParser(prog="moorline_guest", description="A guest that is driven by lines of JSON.")
    parser.add_argument("--link", required=True, metavar="SOCKET", help="the unix socket that the host listens at")
    parser.add_argument("--link-key", type=Path, metavar="FILE", help="where the link key is kept, for its owner alone")
    options = parser.parse_args()
    driver, commands, backoff = Driver(Keys(options.link_key)), Lines(sys.stdin.fileno()), Backoff()
    while not commands.ended:
        session, after = None, 0.0
        try:
            guest = Guest(BUILD, boot_id(), link_key=driver.keys.next())
            with Connection(options.link, guest, driver.mirror) as connection:
                session = connection.session
                after = serve(connection, commands, driver.on_event, driver.on_command)
        except ENDS as error:
            driver.closed(error)
        wait(backoff.next(session, after), commands, driver)


if __name__ == "__main__":
    main()
