"""Sockets and the clock: connections one after the other, and how long to wait between them."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .batches import Mirror
from .faults import Fault, Lost
from .session import Dismissed, Event, Guest, Session

CONNECT_TIMEOUT = 5.0
FIRST_WAIT = 0.1
LONGEST_WAIT = 30.0
LONGEST_REQUESTED_WAIT = 3_600.0


def now() -> float:
    """Seconds on the clock that counts suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> bytes:
    """The kernel's boot id."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


class Backoff:
    """How long to wait before the next attempt: evenly from 0 to a bound that doubles."""

    def __init__(self) -> None:
        self._bound = FIRST_WAIT

    def next(self, ended: Session | None, reconnect_after: float) -> float:
        """The wait after a connection ended, or after none could be made."""
        if ended is not None and ended.progress:
            self._bound = FIRST_WAIT
        wait = random.uniform(0, self._bound)
        self._bound = min(self._bound * 2, LONGEST_WAIT)
        return wait + min(reconnect_after, LONGEST_REQUESTED_WAIT)


class Connection:
    """A socket and the session on it. Use it as a context; its end closes the socket."""

    def __init__(self, path: str, guest: Guest, mirror: Mirror) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT_TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._unsent = b""
        self.session = Session(guest, mirror, now())

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def turn(self, also: int) -> tuple[Iterator[Event], bool]:
        """Waits until something can be done and does it.

        Answers with what came, to be gone through to its end before the next turn, and with whether the descriptor
        `also` can be read. Both raise `Fault` and `Lost` as the session does, and `OSError`.
        """
        again = self.session.check_time(now())
        self._unsent = self._unsent or self.session.next_write()
        writers = [self._socket] if self._unsent else []
        readable, writable, _ = select.select([self._socket, also], writers, [], max(again - now(), 0))
        if writable:
            sent = self._socket.send(self._unsent)
            self._unsent = self._unsent[sent:]
        events = self._read() if self._socket in readable else iter(())
        return events, also in readable

    def _read(self) -> Iterator[Event]:
        data = self._socket.recv(65_536)
        if not data:
            raise Lost("the host closed the connection")
        yield from self.session.receive(data, now())


class Lines:
    """A descriptor's lines, as they come."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._rest = b""

    def read(self) -> Iterator[bytes]:
        """The lines that are whole once what is there was read."""
        data = os.read(self.descriptor, 65_536)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from lines


Handler = Callable[[Session, Event], None]


def serve(connection: Connection, commands: Lines, event: Handler, command: Callable[[Session, bytes], None]) -> float:
    """Keeps a connection until the host dismisses the guest, or the commands end.

    Answers with how long to wait in addition, in seconds. Raises what ends the connection otherwise.
    """
    while not commands.ended:
        events, readable = connection.turn(commands.descriptor)
        for one in events:
            event(connection.session, one)
            if isinstance(one, Dismissed):
                return one.reconnect_after_ms / 1_000
        if readable:
            for line in commands.read():
                command(connection.session, line)
    return 0.0


ENDS = (Fault, Lost, OSError)
"""What ends a connection, or keeps one from being made."""
