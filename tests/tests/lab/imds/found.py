"""What a program on botocore finds that was told nothing."""

import json
import time

import botocore.session

begun = time.monotonic()
found = botocore.session.Session().get_credentials()
whole = found.get_frozen_credentials()
took_ms = int((time.monotonic() - begun) * 1000)
print(json.dumps({"key": whole.access_key, "secret": whole.secret_key, "token": whole.token, "took_ms": took_ms}))
