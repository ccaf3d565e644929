"""Keys come and go while several workers serve: no good token is refused, and no token of a retired key passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
import redis
import requests

from auth_service.keys.signing_key_rotation import KeyInUseError, KeyRotation
from auth_service.keys.signing_keys import SigningKeys
from auth_service.settings import Credentials, Lifetimes
from tests.e2e.flow import Tokens, refresh

from .conftest import Place, Service, eventually, forward_auth_headers

MASTER_KEY = b"m" * 40


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def published(service: Service) -> list[str]:
    return [key["kid"] for key in requests.get(f"{service.issuer}/jwks", timeout=60).json()["keys"]]


class Traffic(threading.Thread):
    """A client that uses and renews its token all the time, at whichever worker answers."""

    def __init__(self, service: Service, tokens: Tokens) -> None:
        super().__init__()
        self._service = service
        self._tokens = tokens
        self._stopped = threading.Event()
        self.failures: list[str] = []
        self.kids: list[str] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            unpublished = set(published(self._service))
            answer = refresh(self._service.issuer, self._tokens)
            if answer.status_code != 200:
                self.failures.append(answer.text)
                return
            body = answer.json()
            self._tokens = Tokens(self._tokens.client_id, body["access_token"], body["refresh_token"])
            self.kids.append(kid_of(body["access_token"]))
            if self.kids[-1] not in unpublished:
                self.failures.append("signed before it was published")
            for _ in range(30):
                verified = requests.get(
                    f"http://127.0.0.1:{self._service.port}/verify/time",
                    headers=forward_auth_headers(body["access_token"]),
                    timeout=60,
                )
                if verified.status_code != 200:
                    self.failures.append(verified.text)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture
def rotation(place: Place, tmp_path: Path) -> Iterator[KeyRotation]:
    """The keys of another host with the same Redis and master key, as `mcp-gatewayctl` sees them."""
    keys = SigningKeys(tmp_path / "other-host", Credentials(client_secret="", master_key=MASTER_KEY))
    with redis.Redis.from_url(place.redis.url, decode_responses=True) as connection:
        yield KeyRotation(keys, connection, Lifetimes())


def test_a_rotation_refuses_no_token_and_a_retirement_all_of_that_key_on_every_worker(
    place: Place, rotation: KeyRotation
) -> None:
    service = place.start()
    tokens = service.log_in()
    (old,) = {kid_of(tokens.access_token)}
    traffic = Traffic(service, service.log_in())
    traffic.start()
    new = rotation.rotate(delay=4).kid
    eventually(lambda: new in published(service))
    eventually(lambda: new in traffic.kids[-3:] or traffic.failures)
    traffic.stop()
    assert traffic.failures == []
    assert set(traffic.kids) == {old, new}

    connections = service.connect_to_all()
    fresh = service.log_in().access_token
    for token in (tokens.access_token, fresh):
        assert [connection.verify(token) for connection in connections] == [200] * len(connections)
    rotation.synchronize()
    with pytest.raises(KeyInUseError):
        rotation.retire(old, force=False)
    rotation.retire(old, force=True)
    eventually(lambda: old not in published(service))
    time.sleep(0.1)  # the promise: a worker learns of a key's end within that of the file's
    assert [connection.verify(tokens.access_token) for connection in connections] == [401] * len(connections)
    assert [connection.verify(fresh) for connection in connections] == [200] * len(connections)
    for connection in connections:
        connection.close()
    written = service.log.read_text()
    assert written.count('"event": "key.retired"') <= 1, "one host's workers say it once"


def test_a_retired_key_is_taken_from_its_tokens_at_once_where_its_file_is_removed(place: Place) -> None:
    service = place.start()
    token = service.log_in().access_token
    connections = service.connect_to_all()
    assert [connection.verify(token) for connection in connections] == [200] * len(connections)
    folder = service.log.parent / "state/signing-keys"
    keys = SigningKeys(folder, Credentials(client_secret="", master_key=MASTER_KEY))
    with redis.Redis.from_url(place.redis.url, decode_responses=True) as connection:
        KeyRotation(keys, connection, Lifetimes()).retire(kid_of(token), force=True)
    time.sleep(0.1)
    assert [connection.verify(token) for connection in connections] == [401] * len(connections)
    for connection in connections:
        assert connection.verify(service.log_in().access_token) == 200
        connection.close()
