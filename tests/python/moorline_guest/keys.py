"""The link key: what the guest proves itself by, kept from one connection to the next and from one boot to the next."""

from __future__ import annotations

import os
from pathlib import Path


class Keys:
    """The link key, in a file that only its owner reads, or in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._key = path.read_bytes() if path is not None and path.exists() else None
        self._proving = True

    def next(self) -> bytes | None:
        """What the proof of the next HELLO is made with."""
        return self._key if self._proving else None

    def denied(self) -> None:
        """The host didn't believe the last HELLO: the next one is the other way, with a proof or without."""
        self._proving = not self._proving

    def believed(self) -> None:
        """The host believed the last HELLO."""
        self._proving = True

    def take(self, key: bytes) -> None:
        """The host gave this key, in place of any other."""
        self._key, self._proving = key, True
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
