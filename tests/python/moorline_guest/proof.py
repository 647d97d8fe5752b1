"""Requests that are proven to be this instance's, signed with the key that came with its token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from .encoding import Fields

ALWAYS = ["@method", "@authority", "@path", "@query", "content-digest", "moorline-token", "idempotency-key"]
WHERE_PRESENT = ["if-match", "if-none-match"]


@dataclass(frozen=True)
class Signer:
    """What an instance signs with: what SESSION brought, and the deployment's name from HELLO_ACK."""

    authority: str
    session: Fields

    def sign(self, method: str, target: str, headers: dict[str, str], body: bytes, created: int, nonce: str) -> dict[str, str]:
        """The headers with those that prove the request. `created` is the control plane's time, in seconds."""
        signed = {name.lower(): value for name, value in headers.items()}
        signed.setdefault("idempotency-key", secrets.token_urlsafe(16))
        signed["content-digest"] = f"sha-256={written(hashlib.sha256(body).digest())}"
        signed["moorline-token"] = self.session["token"]
        path, _, query = target.partition("?")
        derived = {"@method": method, "@authority": self.authority, "@path": path, "@query": f"?{query}"}
        covered = ALWAYS + [name for name in WHERE_PRESENT if name in signed]
        components = " ".join(f'"{name}"' for name in covered)
        parameters = (
            f'({components});created={created};nonce="{nonce}";keyid="{self.session["token_id"]}"'
            ';alg="hmac-sha256";tag="moorline-instance"'
        )
        lines = [f'"{name}": {derived.get(name) or signed[name].strip()}' for name in covered]
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        signature = hmac.digest(self.session["key"], base.encode(), "sha256")
        signed["signature-input"] = f"guest={parameters}"
        signed["signature"] = f"guest={written(signature)}"
        return signed


def written(data: bytes) -> str:
    """Bytes as a structured field has them."""
    return f":{base64.b64encode(data).decode()}:"
