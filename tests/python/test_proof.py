"""Signed requests: the example of the document, byte for byte."""

from __future__ import annotations

import unittest

from moorline_guest.proof import Signer

SESSION = {"session": "s-1", "token": "mli_AAAA", "token_id": "t-1", "key": bytes(range(32)), "expires_in_ms": 1}


class Example(unittest.TestCase):
    """What PROTOCOL.md shows."""

    def test_example(self) -> None:
        signer = Signer("moorline", SESSION)
        headers = {"Idempotency-Key": "k-1", "if-match": '"1.2"'}
        target = "/v1/instances/i-0123456789abcdef0123456789abcdef/data/a"
        signed = signer.sign("PUT", target, headers, b'{"value":"x"}', 1_800_000_000, "nonce-of-16-chars")
        self.assertEqual(signed["content-digest"], "sha-256=:2h+kVMKz5BeSixJBSkcLEKXFFRUyqZCmxLGdgB1Cwlk=:")
        self.assertEqual(signed["signature"], "guest=:7GQkvCs3KW8dm17OqIdK52Th4T7elTpC+nY+5n+iaoU=:")


if __name__ == "__main__":
    unittest.main()
