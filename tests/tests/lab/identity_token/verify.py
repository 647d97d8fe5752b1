"""Verifies an identity token as a relying party does: by the issuer's discovery document and keys, and nothing else.

Prints the token's claims as JSON. Fails if the token is not good for the audience.
"""

import json
import sys

import requests
from authlib.jose import JsonWebKey, JsonWebToken
from authlib.oidc.discovery import OpenIDProviderMetadata


def claims_of(token, issuer, audience):
    """The claims of a token that is good for the audience."""
    document = requests.get(f"{issuer}/.well-known/openid-configuration", timeout=10)
    document.raise_for_status()
    metadata = OpenIDProviderMetadata(document.json())
    metadata.validate_issuer()
    metadata.validate_jwks_uri()
    assert metadata["issuer"] == issuer, f"the issuer calls itself {metadata['issuer']}"

    keys = requests.get(metadata["jwks_uri"], timeout=10)
    keys.raise_for_status()

    claims = JsonWebToken(metadata["id_token_signing_alg_values_supported"]).decode(
        token,
        JsonWebKey.import_key_set(keys.json()),
        claims_options={
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": audience},
            "exp": {"essential": True},
        },
    )
    claims.validate()
    return claims


if __name__ == "__main__":
    issuer, audience, token = sys.argv[1:]
    print(json.dumps(claims_of(token, issuer, audience)))
