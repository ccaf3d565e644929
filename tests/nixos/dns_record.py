"""`set-dns-record`: what Traefik's DNS provider `exec` runs, for the test server of names."""

from __future__ import annotations

import sys

import requests

MANAGEMENT = "http://127.0.0.1:8055"


def main() -> int:
    """Take `present NAME VALUE` or `cleanup NAME VALUE`."""
    action, name, value = sys.argv[1:]
    if action == "present":
        answer = requests.post(f"{MANAGEMENT}/set-txt", json={"host": name, "value": value}, timeout=5)
    else:
        answer = requests.post(f"{MANAGEMENT}/clear-txt", json={"host": name}, timeout=5)
    answer.raise_for_status()
    return 0


if __name__ == "__main__":
    sys.exit(main())
