"""Fifty readers of a role's credentials while these change: each finds some every time, and all of one making."""

import http.client
import json
import sys
import threading
import time

HOST = "169.254.169.254"
PATH = "/latest/meta-data/iam/security-credentials/backup"
READERS = 50


def ask(connection, method, path, headers):
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    if answer.status != 200:
        raise SystemExit(f"{method} {path}: {answer.status} {body}")
    return body


def read(until, seen, failures):
    try:
        connection = http.client.HTTPConnection(HOST, timeout=20)
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "600"}
        token = ask(connection, "PUT", "/latest/api/token", ttl)
        headers = {"X-aws-ec2-metadata-token": token}
        while time.monotonic() < until and len(seen) < 3:
            document = json.loads(ask(connection, "GET", PATH, headers))
            making = document["AccessKeyId"].removeprefix("AKIA")
            parts = (document["SecretAccessKey"], document["Token"])
            if parts != (f"secret{making}", f"token{making}"):
                failures.append(f"mixed: {making} and {parts}")
            seen.add(making)
    except BaseException as failure:
        failures.append(repr(failure))


def main():
    seen, failures = set(), []
    until = time.monotonic() + 120
    readers = [threading.Thread(target=read, args=(until, seen, failures)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    print(json.dumps({"makings": len(seen), "failures": failures[:3]}))
    sys.exit(1 if failures else 0)


main()
