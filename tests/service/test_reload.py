"""New settings while the service runs: what the router leads to a worker, that worker knows."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jwt
import pytest
import redis
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from auth_service.app.worker_settings import WorkerSettings
from auth_service.protocol.clients import JWT_BEARER_GRANT
from auth_service.storage.key_names import grant_key

from .conftest import WAIT_SECONDS, Place, Service, eventually, sid_of


def change_settings(service: Service, change: Callable[[dict[str, Any]], object]) -> None:
    """Write other settings, and tell the service."""
    path = service.log.parent / "settings.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    service.process.send_signal(signal.SIGHUP)


def add_server(service: Service) -> None:
    """Add another server to the settings."""
    wiki = {"url": f"{service.issuer}/wiki/mcp", "backends": ["http://127.0.0.1:1/mcp"]}
    change_settings(service, lambda document: document["resources"].update(wiki=wiki))


def routes(service: Service) -> dict[str, Any] | None:
    """Ask for the routes as Traefik does; None for an answer that it would pay no attention to."""
    answer = requests.get(f"http://127.0.0.1:{service.port}/routes", timeout=WAIT_SECONDS)
    return dict(answer.json()["http"]["routers"]) if answer.status_code == 200 else None


def ask(connection: http.client.HTTPConnection, path: str) -> int | None:
    """Return the status of a GET request on a connection; None if the service has closed it."""
    try:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    except ConnectionError:
        return None


def test_routes_for_a_new_server_come_once_every_worker_knows_it(place: Place) -> None:
    service = place.start()
    metadata = "/.well-known/oauth-protected-resource/wiki/mcp"
    assert "mcp-wiki" not in (routes(service) or {})
    # As many as the router may keep: some lead to each worker.
    idle = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_SECONDS) for _ in range(60)]
    for connection in idle:
        assert ask(connection, "/verify/wiki") == 404
    add_server(service)
    eventually(lambda: "mcp-wiki" in (routes(service) or {}))
    # From the first moment on, whichever worker is asked, on an old connection or a new one.
    assert {ask(connection, "/verify/wiki") for connection in idle} <= {401, None}
    for _ in range(30):
        assert service.get(metadata) == 200
    for connection in idle:
        connection.close()


def test_while_a_worker_hangs_with_former_settings_there_are_no_new_routes(place: Place) -> None:
    service = place.start(workers=2)
    stuck, other = service.workers()
    service.connect(other).close()  # it serves by now
    os.kill(stuck, signal.SIGSTOP)
    try:
        add_server(service)
        eventually(lambda: len(service.workers()) == 3)  # both new ones, and the one that hangs
        answers = []
        for _ in range(3):
            try:
                answers.append(routes(service))
            except requests.Timeout:
                continue  # the worker that hangs was to answer
        assert all("mcp-wiki" not in (answer or {}) for answer in answers)
    finally:
        os.kill(stuck, signal.SIGCONT)
    eventually(lambda: "mcp-wiki" in (routes(service) or {}))


def test_the_tokens_of_a_workload_end_with_the_trust_in_its_issuer(place: Place) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    trusted = {
        "issuer": "https://ci.example.com",
        "audience": "mcp",
        "subjects": ["repo:acme/*"],
        "jwks": {"keys": [ECAlgorithm.to_jwk(key.public_key(), as_dict=True)]},
        "servers": ["time"],
    }
    service = place.start(trusted_issuers={"ci": trusted})
    now = int(time.time())
    claims = {"iss": trusted["issuer"], "aud": "mcp", "sub": "repo:acme/app", "iat": now, "exp": now + 300}
    form = {"grant_type": JWT_BEARER_GRANT, "assertion": jwt.encode(claims, key, "ES256")}
    token = service.post("/token", form).json()["access_token"]
    former = service.workers()
    with closing(service.connect(former[0])) as connection:
        assert connection.verify(token) == 200
    change_settings(service, lambda document: document.pop("trusted_issuers"))
    eventually(lambda: not set(former) & set(service.workers()) and service.is_ready(), service.log.read_text)
    with closing(service.connect(service.workers()[0])) as connection:
        assert connection.verify(token) == 401
    with redis.Redis.from_url(place.redis.url) as store:
        eventually(lambda: not store.exists(grant_key(sid_of(token))), service.log.read_text)


@pytest.mark.parametrize("count", [1, 600])
def test_settings_are_everywhere_once_no_worker_has_others(count: int) -> None:
    settings = WorkerSettings()
    settings.begin(0)
    settings.begin(1)
    assert settings.are_everywhere(0)
    for _ in range(count):
        settings.renew()
    settings.begin(2)
    assert not settings.are_everywhere(2)
    assert not settings.are_everywhere(0)
    settings.end(0)
    assert not settings.are_everywhere(2)
    settings.end(1)
    assert settings.are_everywhere(2)
