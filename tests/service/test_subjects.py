"""Users of an Enterprise Server whom an earlier version knew without it, when several hosts start with this one."""

from __future__ import annotations

from auth_service.storage.subject_renaming import MARKER

from .conftest import Place, eventually

SERVER = {
    "type": "github",
    "client_id": "app",
    "url": "https://github.example.net",
    "api_url": "https://github.example.net",
}


def test_hosts_that_start_at_once_rename_them_once_and_end_no_grant(place: Place) -> None:
    before = place.start()  # at a stand-in for github.com, whose users are called as everyone's were
    tokens = before.log_in()
    before.stop()
    with place.redis.client() as redis:
        assert redis.exists(MARKER), "a later change of the server renames no user"
        assert redis.hvals("pins:github") == ["github:583231"]
        redis.delete(MARKER)
        services = [place.start(host=host, ready=False, identity_provider=SERVER) for host in ("a", "b")]
        eventually(lambda: redis.exists(MARKER))
        assert redis.hvals("pins:github:github.example.net") == ["github:github.example.net:583231"]
        assert not list(redis.scan_iter("*github:5*"))
        grants = [redis.get(key) or "" for key in redis.scan_iter("grant:*")]
        assert len(grants) == 1
        assert '"sub": "github:github.example.net:583231"' in grants[0]
        for service in services:
            eventually(service.is_ready, service.log.read_text)
            service.stop()
        logs = "".join(service.log.read_text() for service in services)
        assert logs.count("users are called github:github.example.net:ID now") == 1
        assert tokens.access_token not in logs
        after = place.start(host="c")
        redis.set("grants-of-user:github:7", "untouched")
        after.stop()
        assert redis.get("grants-of-user:github:7") == "untouched"
