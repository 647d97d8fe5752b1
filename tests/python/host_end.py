"""As much of a host as it takes to say which frames of a guest are faults."""

from __future__ import annotations

from moorline_guest.bodies import BY_NAME, REQUESTS
from moorline_guest.faults import Class, Fault
from moorline_guest.frames import BODY, BODY_BEFORE_HELLO, Decoder, Frame


class HostEnd:
    """Judges frames as they come. It answers nothing, so no stream ever ends and no batch was ever sent whole."""

    def __init__(self, *, before_hello: bool) -> None:
        self._before_hello = before_hello
        self._decoder = Decoder(BODY_BEFORE_HELLO if before_hello else BODY)
        self._missing: dict[int, int] = {}

    def receive(self, data: bytes) -> None:
        """Takes some bytes, or raises a `Fault`."""
        for frame in self._decoder.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if BY_NAME[frame.kind].sender == "host":
            raise Fault(Class.PLACE, f"{frame.kind} is the host's to send")
        if self._before_hello != (frame.kind == "HELLO"):
            raise Fault(Class.PLACE, "HELLO comes first, and once")
        if frame.kind in REQUESTS:
            self._request(frame)
        elif frame.kind == "DATA" and frame.stream in self._missing:
            self._data(frame)
        elif frame.kind == "APPLIED" and (frame.stream == 0 or frame.stream in self._missing):
            raise Fault(Class.PLACE, "no batch was sent")
        elif frame.kind == "DIFFERS":
            raise Fault(Class.PLACE, "nothing was compared")
        elif frame.kind == "POLL":
            raise Fault(Class.PLACE, "everything is pushed")
        elif frame.kind == "HELLO" and frame.stream != 0:
            raise Fault(Class.PLACE, "HELLO is on stream 0")
        self._before_hello = False
        self._decoder.bound = BODY

    def _request(self, frame: Frame) -> None:
        if frame.stream % 2 == 0 or frame.stream in self._missing:
            raise Fault(Class.PLACE, f"stream {frame.stream} is not free")
        of_body = frame.fields["length"] - len(frame.fields["body"]) if frame.kind == "RELAY" else 0
        self._missing[frame.stream] = of_body

    def _data(self, frame: Frame) -> None:
        self._missing[frame.stream] -= len(frame.fields["piece"])
        if self._missing[frame.stream] < 0:
            raise Fault(Class.TOO_MUCH, "more than the RELAY announced")
