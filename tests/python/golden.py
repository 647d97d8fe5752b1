"""`shared/tests/golden.json`, with its values as the client has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moorline_guest import bodies, encoding
from moorline_guest.encoding import FRESHNESS, STRUCTS, Fields, Revision, Table
from moorline_guest.frames import Frame

GOLDEN = json.loads((Path(__file__).parents[2] / "shared/tests/golden.json").read_text())


def value(of: str, given: Any) -> Any:
    """A value of the type that is named `of`, from what JSON has for it."""
    if given is None:
        return None
    of = of.removesuffix("?")
    if of.startswith("list of "):
        return [value(of[8:], one) for one in given]
    if of in STRUCTS:
        return fields(STRUCTS[of], given)
    if of in encoding.FIXED or of == "bytes":
        return bytes.fromhex(given)
    return {"revision": lambda: Revision(*given), "freshness": lambda: FRESHNESS[given]}.get(of, lambda: given)()


def fields(table: Table, given: Fields) -> Fields:
    """The fields of a table."""
    return {name: value(of, given[name]) for name, of in table}


def frame(vector: Fields) -> Frame:
    """A frame of the vectors."""
    table = bodies.BY_NAME[vector["kind"]].table
    if table is None:
        return Frame(vector["kind"], vector["stream"], {"piece": bytes.fromhex(vector["hex"])[10:]}, vector["end"])
    return Frame(vector["kind"], vector["stream"], fields(table, vector["fields"]), vector["end"])


FRAMES = {vector["name"]: vector for vector in GOLDEN["frames"]}


def frame_bytes(name: str) -> bytes:
    """A frame's bytes, by its name."""
    return bytes.fromhex(FRAMES[name]["hex"])
