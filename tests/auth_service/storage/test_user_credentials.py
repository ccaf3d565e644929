"""Users' own credentials at rest: bound to server, user and variable, unreadable, and ended with the last grant."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import pytest
import redis

from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials
from auth_service.storage.key_names import CREDENTIAL_SERVERS, user_credentials_key
from auth_service.storage.user_credentials import KEPT_SECONDS, Secret, UserCredentials
from tests.conftest import RedisServer

ALICE, BOB = "github:1", "github:2"
TOKEN = "ghp_a-token-of-alice"
GRANT_LIFETIME = 30 * 24 * 3600
WIKI = ("tickets", "WIKI")
SOURCES = {WIKI: ("https://wiki.example.com/token", "app")}
KEY = user_credentials_key("tickets", ALICE)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def credentials(connection: redis.Redis) -> UserCredentials:
    return make(connection, master_key=b"m" * 32)


def make(
    connection: redis.Redis, *, master_key: bytes, sources: Mapping[tuple[str, str], Sequence[str]] = SOURCES
) -> UserCredentials:
    keys = Credentials(client_secret="", master_key=master_key)
    return UserCredentials(connection, derive_key=keys.derive_key, grant_lifetime=GRANT_LIFETIME, sources=sources)


def values(credentials: UserCredentials, resource_name: str, sub: str) -> dict[str, str]:
    return {name: stored.secret.value for name, stored in credentials.read_all(resource_name, sub).items()}


def test_a_user_has_what_the_user_has_set_at_that_server(credentials: UserCredentials) -> None:
    connected = Secret(value="access", refresh_token="refresh", expires_at=1_900_000_000)
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN), "WIKI": connected})
    found = credentials.read_all("tickets", ALICE)
    assert {name: stored.secret for name, stored in found.items()} == {"TOKEN": Secret(value=TOKEN), "WIKI": connected}
    assert credentials.read_all("tickets", BOB) == {}
    assert credentials.read_all("wiki", ALICE) == {}


def test_what_is_replaced_is_known(credentials: UserCredentials) -> None:
    secret = Secret(value=TOKEN)
    assert credentials.put("tickets", ALICE, {"TOKEN": secret}) == set()
    assert credentials.put("tickets", ALICE, {"WIKI": secret, "TOKEN": secret, "CHAT": secret}) == {"TOKEN"}
    assert credentials.put("tickets", ALICE, {"WIKI": secret, "CHAT": secret}) == {"WIKI", "CHAT"}
    assert credentials.put("tickets", BOB, {"TOKEN": secret}) == set()


def test_what_is_missing_is_named_in_the_order_asked_for(credentials: UserCredentials) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    assert credentials.find_missing("tickets", ALICE, ["WIKI", "TOKEN", "CHAT"]) == ["WIKI", "CHAT"]
    assert credentials.find_missing("tickets", ALICE, ["TOKEN"]) == []
    assert credentials.find_missing("tickets", BOB, ["TOKEN"]) == ["TOKEN"]
    assert credentials.find_missing("tickets", ALICE, []) == []


def test_what_has_ended_is_missing_unless_it_can_be_renewed(credentials: UserCredentials) -> None:
    over = Secret(value="x", expires_at=1)
    lasting = Secret(value="x", expires_at=10**11)
    secrets = {"OVER": over, "LASTING": lasting, "RENEWABLE": Secret(value="x", refresh_token="r", expires_at=1)}
    credentials.put("tickets", ALICE, secrets)
    assert credentials.find_missing("tickets", ALICE, list(secrets)) == ["OVER"]


@pytest.mark.parametrize(
    ("resource_name", "sub", "variable"),
    [
        pytest.param("tickets", BOB, "TOKEN", id="another user"),
        pytest.param("wiki", ALICE, "TOKEN", id="another server"),
        pytest.param("tickets", ALICE, "OTHER", id="another variable"),
    ],
)
def test_a_copied_record_does_not_decrypt(
    credentials: UserCredentials, connection: redis.Redis, resource_name: str, sub: str, variable: str
) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    record = connection.hget(KEY, "TOKEN")
    assert isinstance(record, str)
    copy = user_credentials_key(resource_name, sub)
    connection.hset(copy, variable, record)
    found = credentials.read_all(resource_name, sub)
    assert variable not in found
    assert credentials.find_missing(resource_name, sub, [variable]) == [variable]
    # The same record, where it belongs.
    assert values(credentials, "tickets", ALICE) == {"TOKEN": TOKEN}


def test_the_split_of_a_key_between_server_and_user_counts(
    credentials: UserCredentials, connection: redis.Redis
) -> None:
    credentials.put("a", "b:c", {"TOKEN": Secret(value=TOKEN)})
    connection.copy(user_credentials_key("a", "b:c"), user_credentials_key("ab", "c"))
    assert credentials.read_all("ab", "c") == {}


def test_a_changed_record_does_not_decrypt(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    record = json.loads(str(connection.hget(KEY, "TOKEN")))
    first = "A" if record["sealed"][40] != "A" else "B"
    changed = record["sealed"][:40] + first + record["sealed"][41:]
    connection.hset(KEY, "TOKEN", json.dumps({**record, "sealed": changed}))
    assert credentials.read_all("tickets", ALICE) == {}


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param({WIKI: ("https://other.example.com/token", "app")}, id="another service"),
        pytest.param({WIKI: ("https://wiki.example.com/token", "another app")}, id="another application there"),
        pytest.param({}, id="pasted"),
    ],
)
def test_what_is_from_another_source_is_missing(
    credentials: UserCredentials, connection: redis.Redis, sources: Mapping[tuple[str, str], Sequence[str]]
) -> None:
    secrets = {"WIKI": Secret(value="w", refresh_token="r"), "TOKEN": Secret(value=TOKEN)}
    credentials.put("tickets", ALICE, secrets)
    changed = make(connection, master_key=b"m" * 32, sources=sources)
    assert values(changed, "tickets", ALICE) == {"TOKEN": TOKEN}
    assert changed.find_missing("tickets", ALICE, ["WIKI", "TOKEN"]) == ["WIKI"]
    again = make(connection, master_key=b"m" * 32)
    assert values(again, "tickets", ALICE) == {"WIKI": "w", "TOKEN": TOKEN}
    assert changed.put("tickets", ALICE, {"WIKI": Secret(value="new")}) == {"WIKI"}, "processes may have the former one"
    assert again.find_missing("tickets", ALICE, ["WIKI"]) == ["WIKI"]


@pytest.mark.parametrize(
    "record",
    [
        *("rubbish", "", "{}", "[]", "7", "null", '{"sealed": "x", "set_at": 1}', '{"sealed": "", "set_at": "x"}'),
        *('{"sealed": 7, "set_at": []}', '{"sealed": "AAAA", "set_at": 1e400}', '{"sealed": "é"}', "[" * 100_000),
        '{"sealed": "AAAA", "set_at": 10000000000000000000}',
    ],
    ids=lambda record: record[:40],
)
def test_a_malformed_record_is_as_one_that_does_not_decrypt_and_hides_no_other(
    credentials: UserCredentials, connection: redis.Redis, record: str
) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    credentials.put("tickets", BOB, {"TOKEN": Secret(value=TOKEN)})
    connection.hset(KEY, mapping={"BROKEN": record, "used BROKEN": record, "used TOKEN": record})
    connection.set(user_credentials_key("tickets", "github:3"), record)
    assert values(credentials, "tickets", ALICE) == {"TOKEN": TOKEN}
    assert credentials.find_missing("tickets", ALICE, ["TOKEN", "BROKEN"]) == ["BROKEN"]
    states = credentials.find_states(ALICE, ["tickets"])
    assert [state.variable for state in states] == ["BROKEN", "TOKEN"]
    for state in states:
        datetime.fromtimestamp(state.set_at, UTC)  # pages and commands show it
    everyone = {(state.sub, state.variable) for state in credentials.find_all_states()}
    assert everyone == {(ALICE, "BROKEN"), (ALICE, "TOKEN"), (BOB, "TOKEN")}
    assert credentials.remove("tickets", ALICE, ["BROKEN"]) == {"BROKEN": None}
    assert values(credentials, "tickets", ALICE) == {"TOKEN": TOKEN}


def test_another_master_key_reads_nothing(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    assert make(connection, master_key=b"n" * 32).read_all("tickets", ALICE) == {}
    assert values(make(connection, master_key=b"m" * 32), "tickets", ALICE) == {"TOKEN": TOKEN}


def test_a_stolen_redis_shows_no_value(credentials: UserCredentials, connection: redis.Redis) -> None:
    secret = Secret(value=TOKEN, refresh_token="rt-of-alice", expires_at=1_912_345_678)
    credentials.put("tickets", ALICE, {"TOKEN": secret})
    credentials.note_use("tickets", ALICE, ["TOKEN"])
    stolen = "".join(repr(connection.hgetall(key)) for key in connection.scan_iter(_type="hash"))
    assert "TOKEN" in stolen
    assert connection.smembers(CREDENTIAL_SERVERS) == {"tickets"}
    for text in (TOKEN, "rt-of-alice", "1912345678", TOKEN.encode().hex()):
        assert text not in stolen


def test_equal_values_have_different_records(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    first = connection.hget(KEY, "TOKEN")
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    assert connection.hget(KEY, "TOKEN") != first


def test_no_repr_shows_a_value(credentials: UserCredentials) -> None:
    secret = Secret(value=TOKEN, refresh_token="rt-of-alice")
    credentials.put("tickets", ALICE, {"TOKEN": secret})
    shown = repr(secret) + repr(credentials.read_all("tickets", ALICE)) + repr(credentials)
    assert TOKEN not in shown
    assert "rt-of-alice" not in shown
    assert "sealed" not in shown


def test_a_new_value_replaces_the_former(credentials: UserCredentials) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN), "WIKI": Secret(value="w")})
    credentials.note_use("tickets", ALICE, ["TOKEN"])
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value="new")})
    assert values(credentials, "tickets", ALICE) == {"TOKEN": "new", "WIKI": "w"}
    assert [state.used_at for state in credentials.find_states(ALICE, ["tickets"])] == [None, None]


def test_what_is_removed_is_gone_and_named(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN), "WIKI": Secret(value="w")})
    credentials.put("tickets", BOB, {"TOKEN": Secret(value="b")})
    credentials.note_use("tickets", ALICE, ["TOKEN", "WIKI"])
    assert credentials.remove("tickets", ALICE, ["CHAT", "TOKEN"]) == {"TOKEN": Secret(value=TOKEN)}
    assert credentials.remove("tickets", ALICE, ["TOKEN"]) == {}
    assert values(credentials, "tickets", ALICE) == {"WIKI": "w"}
    assert credentials.remove("tickets", ALICE, ["WIKI"]) == {"WIKI": Secret(value="w")}
    assert not connection.exists(KEY)
    assert values(credentials, "tickets", BOB) == {"TOKEN": "b"}


def test_a_renewed_secret_keeps_the_time_at_which_it_was_set(
    credentials: UserCredentials, connection: redis.Redis
) -> None:
    credentials.put("tickets", ALICE, {"WIKI": Secret(value="a", refresh_token="r")})
    record = json.loads(str(connection.hget(KEY, "WIKI")))
    connection.hset(KEY, "WIKI", json.dumps({**record, "set_at": 1_700_000_000}))
    former = credentials.read_all("tickets", ALICE)["WIKI"]
    assert credentials.renew("tickets", ALICE, "WIKI", former, Secret(value="b", refresh_token="s"))
    assert credentials.read_all("tickets", ALICE)["WIKI"].secret == Secret(value="b", refresh_token="s")
    assert [state.set_at for state in credentials.find_states(ALICE, ["tickets"])] == [1_700_000_000]


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_neither_renewal_nor_refusal_touches_what_the_user_has_changed_meanwhile(
    credentials: UserCredentials, change: str
) -> None:
    credentials.put("tickets", ALICE, {"WIKI": Secret(value="a", refresh_token="r")})
    former = credentials.read_all("tickets", ALICE)["WIKI"]
    if change == "removed":
        credentials.remove("tickets", ALICE, ["WIKI"])
    else:
        credentials.put("tickets", ALICE, {"WIKI": Secret(value="of the user")})
    assert not credentials.renew("tickets", ALICE, "WIKI", former, Secret(value="b"))
    assert not credentials.discard("tickets", ALICE, "WIKI", former)
    expected = {} if change == "removed" else {"WIKI": "of the user"}
    assert values(credentials, "tickets", ALICE) == expected


def test_a_refused_secret_is_discarded_with_its_last_use(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"WIKI": Secret(value="a", refresh_token="r")})
    credentials.note_use("tickets", ALICE, ["WIKI"])
    assert credentials.discard("tickets", ALICE, "WIKI", credentials.read_all("tickets", ALICE)["WIKI"])
    assert not connection.exists(KEY)


def test_pages_and_operators_see_when_and_never_what(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("wiki", ALICE, {"B": Secret(value=TOKEN)})
    credentials.put("tickets", ALICE, {"A": Secret(value=TOKEN), "B": Secret(value=TOKEN)})
    credentials.put("tickets", BOB, {"A": Secret(value=TOKEN)})
    credentials.note_use("tickets", ALICE, ["B", "NOT-SET"])
    own = credentials.find_states(ALICE, ["tickets", "wiki", "empty"])
    assert [(state.resource_name, state.variable, state.used_at is not None) for state in own] == [
        ("tickets", "A", False),
        ("tickets", "B", True),
        ("wiki", "B", False),
    ]
    assert all(state.sub == ALICE and state.set_at > 1_700_000_000 for state in own)
    everyone = {(state.resource_name, state.sub, state.variable) for state in credentials.find_all_states()}
    assert everyone == {("wiki", ALICE, "B"), ("tickets", ALICE, "A"), ("tickets", ALICE, "B"), ("tickets", BOB, "A")}
    # Without the key as well.
    assert len(make(connection, master_key=b"n" * 32).find_states(ALICE, ["tickets"])) == 2


def test_the_name_of_the_user_is_shown_until_something_is_set_without_one(
    credentials: UserCredentials, connection: redis.Redis
) -> None:
    def names() -> dict[str, str | None]:
        return {state.variable: state.name for state in credentials.find_all_states()}

    secret = Secret(value="a", refresh_token="r")
    credentials.put("tickets", ALICE, {"TOKEN": secret, "WIKI": secret}, name="alice")
    former = credentials.read_all("tickets", ALICE)["WIKI"]
    assert credentials.renew("tickets", ALICE, "WIKI", former, Secret(value="b", refresh_token="r"))
    assert names() == {"TOKEN": "alice", "WIKI": "alice"}
    assert credentials.read_all("tickets", ALICE)["WIKI"].secret.value == "b"
    credentials.put("tickets", ALICE, {"TOKEN": secret})
    connection.hset(KEY, mapping={"NUMBER": '{"set_at": 1, "name": 7}', "LIST": "[]", "TEXT": "x"})
    assert names() == {"TOKEN": None, "WIKI": "alice", "NUMBER": None, "LIST": None, "TEXT": None}


def test_what_is_set_without_a_grant_ends_soon(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    assert KEPT_SECONDS - 60 < connection.ttl(KEY) <= KEPT_SECONDS


@pytest.mark.parametrize("means", ["grant", "use"])
def test_a_grant_and_each_use_keep_it_for_longer_than_the_grant(
    credentials: UserCredentials, connection: redis.Redis, means: str
) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    if means == "grant":
        credentials.keep("tickets", ALICE)
    else:
        credentials.note_use("tickets", ALICE, ["TOKEN"])
    assert connection.ttl(KEY) > GRANT_LIFETIME + KEPT_SECONDS - 60
    # Replacing it does not shorten that.
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value="new")})
    assert connection.ttl(KEY) > GRANT_LIFETIME + KEPT_SECONDS - 60


def test_it_ends_soon_after_the_last_grant_and_lives_on_after_a_new_one(
    credentials: UserCredentials, connection: redis.Redis
) -> None:
    credentials.put("tickets", ALICE, {"TOKEN": Secret(value=TOKEN)})
    credentials.keep("tickets", ALICE)
    credentials.end_soon("tickets", ALICE)
    assert KEPT_SECONDS - 60 < connection.ttl(KEY) <= KEPT_SECONDS
    connection.expire(KEY, 100)
    credentials.end_soon("tickets", ALICE)
    assert connection.ttl(KEY) <= 100, "ending it again must not prolong it"
    credentials.keep("tickets", ALICE)
    assert connection.ttl(KEY) > GRANT_LIFETIME


def test_no_key_is_made_for_a_user_who_has_set_nothing(credentials: UserCredentials, connection: redis.Redis) -> None:
    credentials.keep("tickets", ALICE)
    credentials.note_use("tickets", ALICE, ["TOKEN"])
    credentials.end_soon("tickets", ALICE)
    assert list(connection.scan_iter()) == []


def test_without_redis_no_credential_counts_as_missing(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    client = server.client()
    server.stop()
    with client, pytest.raises(ServiceUnavailable):
        make(client, master_key=b"m" * 32).find_missing("tickets", ALICE, ["TOKEN"])
