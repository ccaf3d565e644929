"""Which users get and keep access: allow-lists, pins, and questions to the identity provider."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
import redis
import time_machine

from auth_service.idp import Login, bounded
from auth_service.idp.bounded import BoundedProvider
from auth_service.oauth.revocation import Revocation
from auth_service.oauth.user_access import UserAccess
from auth_service.protocol.access import Identity
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.settings import Settings
from auth_service.storage.codes import Code, Redemption
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store

URL = "https://time.example.com/mcp"
ALICE = Identity(subject="oidc:https://idp.example.com#1", login="alice")
MEMBER = Identity(subject=ALICE.subject, login="alice", groups=frozenset({"staff"}))


class Provider:
    """An identity provider of which a test decides what it answers."""

    name = "oidc:https://idp.example.com"
    title = "Test"

    def __init__(self, *, rechecks_names: bool = True) -> None:
        self.rechecks_names = rechecks_names
        self.asked_with: list[str] = []
        self.answer: Callable[[str], Login] = lambda token: Login(identity=MEMBER, token=token)

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        raise NotImplementedError

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        raise NotImplementedError

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        raise NotImplementedError

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Identity:
        self.asked_with.append(token)
        login = self.answer(token)
        if login.token not in {None, token}:
            replaced(str(login.token))
        return login.identity


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    made = Store(make_settings(redis_url))
    yield made
    made.close()


def revoke(store: Store, sid: str) -> None:
    Revocation(store, grants_per_client=1, notify=lambda _grant: None).revoke_grant(sid, by="test", reason="test")


def make_settings(redis_url: str, **allowed: list[str]) -> Settings:
    return Settings.model_validate(
        {
            "issuer": "https://auth.example.com",
            "identity_provider": {"type": "oidc", "issuer": "https://idp.example.com", "client_id": "x"},
            "allowed": allowed,
            "redis_url": redis_url,
            "state_directory": "/unused",
            "router": {"entry_points": ["web"]},
            "resources": {"time": {"url": URL, "backends": ["http://127.0.0.1:9001/mcp"]}},
        }
    )


def make_users(store: Store, provider: Provider, **allowed: list[str]) -> UserAccess:
    settings = make_settings("redis://unused", **allowed)
    return UserAccess(settings, store, BoundedProvider(provider), token_key=b"0" * 64)


def add_grant(store: Store, users: UserAccess, login: Login, **changes: Any) -> Grant:
    usual: dict[str, Any] = {
        "sid": "sid",
        "sub": login.identity.subject,
        "name": login.identity.login,
        "client_id": "c",
        "client_name": "C",
        "resource": URL,
        "scope": "mcp",
        "redirect": "r",
        "created_at": 1_900_000_000,
    }
    grant = Grant(**(usual | changes))
    code = Code(
        sid=grant.sid, client_id="c", redirect_uri="r", code_challenge="x", resource=URL, expires_at=2_000_000_000
    )
    store.codes.add(f"code-{grant.sid}", code, grant)
    users.remember(login)
    done = store.codes.redeem(f"code-{grant.sid}", code, grant, with_refresh_token=True, grant_lifetime=3600)
    assert done is Redemption.DONE
    return grant


def test_the_kept_token_is_encrypted(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(identity=MEMBER, token="upstream-token"))
    kept = store.last_logins.find(MEMBER.subject)
    assert kept is not None
    assert "upstream-token" not in kept
    assert "staff" not in kept


def test_a_member_keeps_access_as_long_as_the_provider_confirms_it(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    assert users.recheck_access(grant)
    provider.answer = lambda token: Login(identity=ALICE, token=token)
    assert not users.recheck_access(grant)


def test_a_named_user_of_a_directory_is_asked_about_as_well(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, users=["alice"])
    grant = add_grant(store, users, Login(identity=ALICE, token="t"))
    assert users.recheck_access(grant)

    def refuse(_token: str) -> Login:
        raise LoginError("gone")

    provider.answer = refuse
    assert not users.recheck_access(grant)


def test_a_named_user_of_github_is_not_asked_about_and_members_are(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    users = make_users(store, provider, users=["alice"], groups=["staff"])
    assert users.may_use(ALICE, "time")
    grant = add_grant(store, users, Login(identity=ALICE, token="t"))
    assert users.recheck_access(grant)
    assert provider.asked_with == []
    assert make_users(store, provider, groups=["staff"]).recheck_access(grant)
    assert provider.asked_with == ["t"]


def test_an_answer_about_another_user_ends_the_grant(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    other = Identity(subject="oidc:https://idp.example.com#2", login="alice", groups=MEMBER.groups)
    provider.answer = lambda token: Login(identity=other, token=token)
    assert not users.recheck_access(grant)


def test_a_provider_that_cannot_say_neither_keeps_nor_ends_it(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))

    def fail(_token: str) -> Login:
        raise ServiceUnavailable("Test")

    provider.answer = fail
    with pytest.raises(ServiceUnavailable):
        users.recheck_access(grant)
    assert store.grants.find(grant.sid) == grant


def test_without_anything_to_ask_with_the_last_login_counts_for_a_day(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        grant = add_grant(store, users, Login(identity=MEMBER, token=None))
        clock.shift(24 * 3600 - 1)
        assert users.recheck_access(grant)
        assert not make_users(store, provider, groups=["admins"]).recheck_access(grant)
        clock.shift(1)
        assert not users.recheck_access(grant)
    assert provider.asked_with == []


def test_a_replaced_token_is_the_one_to_ask_with_next(store: Store) -> None:
    provider = Provider()
    provider.answer = lambda token: Login(identity=MEMBER, token=token + "+")
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    assert users.recheck_access(grant)
    assert users.recheck_access(grant)  # as read before the token was replaced
    assert provider.asked_with == ["t", "t+"]


@pytest.mark.parametrize("error", [ServiceUnavailable("Test"), LoginError("nonsense")])
def test_a_replaced_token_is_kept_although_asking_fails_after_that(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    identify = provider.identify

    def replace_and_fail(token: str, *, replaced: Callable[[str], None]) -> Identity:
        provider.asked_with.append(token)
        replaced(token + "+")
        raise error

    monkeypatch.setattr(provider, "identify", replace_and_fail)
    if isinstance(error, LoginError):
        assert not users.recheck_access(grant)
    else:
        with pytest.raises(ServiceUnavailable):
            users.recheck_access(grant)
    assert provider.asked_with == ["t"]
    monkeypatch.setattr(provider, "identify", identify)
    assert users.recheck_access(grant)
    assert provider.asked_with == ["t", "t+"]


def test_of_many_who_refresh_at_once_none_uses_a_token_that_another_has_replaced(store: Store) -> None:
    provider = Provider()
    spent: set[str] = set()
    lock = threading.Lock()

    def rotate(token: str) -> Login:
        with lock:
            if token in spent:
                raise LoginError("reused")
            spent.add(token)
        return Login(identity=MEMBER, token=token + "+")

    provider.answer = rotate
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: users.recheck_access(grant), range(8)))


def test_those_who_wait_for_a_users_other_request_are_counted_as_waiting_for_the_provider(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MAX_CONCURRENT", 2)
    provider, asked, goes_on = Provider(), threading.Event(), threading.Event()

    def dawdle(token: str) -> Login:
        asked.set()
        assert goes_on.wait(10)
        return Login(identity=MEMBER, token=token)

    provider.answer = dawdle
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(users.recheck_access, grant)]
        assert asked.wait(5)
        answers += [pool.submit(users.recheck_access, grant) for _ in range(2)]
        try:
            refused = next(as_completed(answers, timeout=2))
            assert isinstance(refused.exception(), ServiceUnavailable)
        finally:
            goes_on.set()
    answers.remove(refused)
    assert [answer.result() for answer in answers] == [True, True]
    assert users.recheck_access(grant)


def test_a_login_that_finishes_while_its_users_token_is_replaced_is_not_overwritten(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))

    def log_in_meanwhile(token: str) -> Login:
        users.remember(Login(identity=MEMBER, token="new"))
        return Login(identity=MEMBER, token=token + "+")

    provider.answer = log_in_meanwhile
    assert users.recheck_access(grant)
    provider.answer = lambda token: Login(identity=MEMBER, token=token)
    assert users.recheck_access(grant)
    assert provider.asked_with == ["t", "new"]


def grant_that_ends_while_the_provider_is_asked(store: Store) -> Grant:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))

    def revoke_meanwhile(token: str) -> Login:
        revoke(store, grant.sid)
        return Login(identity=MEMBER, token=token + "+")

    provider.answer = revoke_meanwhile
    users.recheck_access(grant)
    return grant


def test_nothing_is_kept_of_a_login_whose_grant_ended_while_its_token_was_replaced(store: Store) -> None:
    grant_that_ends_while_the_provider_is_asked(store)
    assert store.last_logins.find(MEMBER.subject) is None


@pytest.mark.parametrize("moment", range(5))
def test_a_login_that_finishes_while_the_users_last_grant_ends_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(identity=MEMBER, token="t"), sid="one")
    execute: Any = redis.Redis.execute_command
    commands = itertools.count()

    def log_in_between(connection: redis.Redis, *arguments: Any, **options: Any) -> Any:
        if next(commands) == moment:
            add_grant(store, users, Login(identity=MEMBER, token="t"), sid="two")
        return execute(connection, *arguments, **options)

    monkeypatch.setattr(redis.Redis, "execute_command", log_in_between)
    revoke(store, "one")
    monkeypatch.undo()
    assert (store.grants.find("two") is None) or (store.last_logins.find(MEMBER.subject) is not None)


def test_a_grant_that_ended_meanwhile_is_not_brought_back(store: Store) -> None:
    grant = grant_that_ends_while_the_provider_is_asked(store)
    assert store.grants.find(grant.sid) is None


@pytest.mark.parametrize("sealed", ["", "nonsense"])
def test_what_this_master_key_has_not_sealed_proves_nothing(store: Store, sealed: str) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))
    store.last_logins.keep(MEMBER.subject, sealed)
    assert not users.recheck_access(grant)


def test_a_provider_that_ends_a_users_oldest_tokens_ends_no_grant(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grants = [add_grant(store, users, Login(identity=MEMBER, token=f"t{n}"), sid=f"sid-{n}") for n in range(12)]

    def remember_only_the_last(token: str) -> Login:
        if token != "t11":
            raise LoginError("ended")
        return Login(identity=MEMBER, token=token)

    provider.answer = remember_only_the_last
    assert all(users.recheck_access(grant) for grant in grants)


def test_a_login_that_ends_the_token_being_asked_with_is_asked_with_instead(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(identity=MEMBER, token="t"))

    def log_in_meanwhile(token: str) -> Login:
        if token == "t":
            users.remember(Login(identity=MEMBER, token="new"))
            raise LoginError("ended")
        return Login(identity=MEMBER, token=token)

    provider.answer = log_in_meanwhile
    assert users.recheck_access(grant)
    assert provider.asked_with == ["t", "new"]


def test_the_kept_token_ends_with_the_users_last_grant(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    for sid in ("one", "two"):
        add_grant(store, users, Login(identity=MEMBER, token="t"), sid=sid)
    revoke(store, "one")
    assert store.last_logins.find(MEMBER.subject) is not None
    revoke(store, "two")
    assert store.last_logins.find(MEMBER.subject) is None


def test_a_resource_that_is_gone_ends_it(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    login = Login(identity=MEMBER, token="t")
    assert not users.recheck_access(add_grant(store, users, login, resource="https://gone.example.com/mcp"))


def test_a_name_belongs_to_whoever_used_it_first(store: Store) -> None:
    users = make_users(store, Provider(), users=["Alice"])
    assert users.may_use(ALICE, "time")
    thief = Identity(subject="oidc:https://idp.example.com#2", login="alice")
    assert not users.may_use(thief, "time")
    renamed = Identity(subject=ALICE.subject, login="alice2")
    assert users.may_use(renamed, "time")


def test_a_name_put_on_the_list_does_not_admit_its_former_user(store: Store) -> None:
    """A member called alice is renamed, and the operator admits the user who has that name now."""
    provider = Provider(rechecks_names=False)
    grant = add_grant(store, make_users(store, provider, groups=["staff"]), Login(identity=MEMBER, token="t"))
    users = make_users(store, provider, users=["alice"])
    provider.answer = lambda token: Login(identity=Identity(subject=ALICE.subject, login="alice2"), token=token)
    assert not users.recheck_access(grant)
    assert users.may_use(Identity(subject="oidc:https://idp.example.com#2", login="alice"), "time")
    assert not users.recheck_access(grant)


def test_a_member_whose_name_is_put_on_the_list_is_asked_about_once(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    grant = add_grant(store, make_users(store, provider, groups=["staff"]), Login(identity=MEMBER, token="t"))
    users = make_users(store, provider, users=["alice"])
    assert users.recheck_access(grant)
    assert users.recheck_access(grant)
    assert provider.asked_with == ["t"]


@pytest.mark.parametrize("login", ["\u0430lice", "al\u0131ce", "ALICE\u200b", "alic\u00e9", "alice ", ""])
def test_a_name_that_only_looks_the_same_is_another(store: Store, login: str) -> None:
    users = make_users(store, Provider(), users=["alice"])
    assert not users.may_use(Identity(subject="oidc:https://idp.example.com#3", login=login), "time")


def test_subjects_that_differ_in_case_alone_are_two_users(store: Store) -> None:
    named, other = "oidc:https://idp.example.com#AbC", "oidc:https://idp.example.com#aBc"
    users = make_users(store, Provider(), users=[named])
    assert not users.may_use(Identity(subject=other, login=other), "time")
    assert users.may_use(Identity(subject=named, login=named), "time")


def test_a_kelvin_sign_is_no_k(store: Store) -> None:
    users = make_users(store, Provider(), users=["kim"])
    assert not users.may_use(Identity(subject="oidc:https://idp.example.com#3", login="\u212aim"), "time")


def test_empty_lists_admit_no_user(store: Store) -> None:
    assert not make_users(store, Provider()).may_use(MEMBER, "time")
