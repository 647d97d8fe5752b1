"""The guest's end of the guest link, written from `shared/PROTOCOL.md` alone and from Python's standard library.

It stands for every agent in another language: whatever the document left open would show here. From the bottom:

* `faults` - what ends a connection.
* `encoding` - the types that bodies are made of.
* `bodies` - the tables of the kinds.
* `frames` - headers, and frames cut out of a stream of bytes.
* `batches` - the content of batches, and the mirror that they keep up to date.
* `answers` - what came on a request's stream so far.
* `session` - one connection as a pure core: bytes and the time go in, bytes and events come out.
* `keys` - the link key: kept, and left out when the host doesn't believe it.
* `link` - the socket, the clock, and when to dial again.
* `python3 -m moorline_guest --link SOCKET` - a guest that a test can drive: see `__main__`.

Bodies are dictionaries whose keys are the names in the document's tables. Ids, digests and sets of kinds are `bytes`,
a revision is a `Revision`, none is `None`.
"""
