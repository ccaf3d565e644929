"""The answers of the service while a dependency does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auth_service.settings import Settings
from tests.conftest import RedisServer

from .conftest import OAuthTestClient


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that this test may stop."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(settings: Settings, own_redis: RedisServer) -> Settings:
    """The usual settings on that Redis."""
    return Settings.model_validate({**settings.model_dump(), "redis_url": own_redis.url})


def test_nothing_is_granted_without_redis_and_clients_register_anew_once_it_is_back_empty(
    oauth: OAuthTestClient, own_redis: RedisServer
) -> None:
    client_id = oauth.register()["client_id"]
    code = oauth.obtain_code(client_id)
    own_redis.stop()
    response = oauth.redeem(client_id, code)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.get_json()["error"] == "temporarily_unavailable"
    assert oauth.authorize(client_id).status_code == 503
    own_redis.start()
    assert oauth.redeem(client_id, code).get_json()["error"] == "invalid_client"
    assert oauth.authorize(client_id).status_code == 400
    assert oauth.register()["client_id"] != client_id
