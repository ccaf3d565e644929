"""Which users get and keep access: allow-lists, pins, and questions to the identity provider."""

from __future__ import annotations

import dataclasses
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
from auth_service.protocol.access import Profile
from auth_service.protocol.errors import LoginError, ServiceUnavailable
from auth_service.settings import Settings
from auth_service.storage.codes import Code, Redemption
from auth_service.storage.grants import Grant
from auth_service.storage.key_names import grant_key
from auth_service.storage.store import Store

URL = "https://time.example.com/mcp"
ALICE = Profile(subject="oidc:https://idp.example.com#1", login="alice")
MEMBER = Profile(subject=ALICE.subject, login="alice", groups=frozenset({"staff"}))


class Provider:
    """An identity provider of which a test decides what it answers."""

    name = "oidc:https://idp.example.com"
    title = "Test"

    def __init__(self, *, rechecks_names: bool = True) -> None:
        self.rechecks_names = rechecks_names
        self.asked_with: list[str] = []
        self.answer: Callable[[str], Login] = lambda token: Login(profile=MEMBER, token=token)

    def authorization_url(self, *, state: str, code_challenge: str) -> str:
        raise NotImplementedError

    def explain_refusal(self, parameters: Mapping[str, str]) -> LoginError | ServiceUnavailable:
        raise NotImplementedError

    def finish_login(self, *, code: str, code_verifier: str) -> Login:
        raise NotImplementedError

    def identify(self, token: str, *, replaced: Callable[[str], None]) -> Profile:
        self.asked_with.append(token)
        login = self.answer(token)
        if login.token not in {None, token}:
            replaced(str(login.token))
        return login.profile


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    made = Store(make_settings(redis_url))
    yield made
    made.close()


def revoke(store: Store, sid: str) -> None:
    Revocation(store, grants_per_client=1, notify=lambda _grant: None).revoke_grant(sid, by="test", reason="test")


def make_settings(redis_url: str, scopes: dict[str, Any] | None = None, **allowed: list[str]) -> Settings:
    return Settings.model_validate(
        {
            "issuer": "https://auth.example.com",
            "identity_provider": {"type": "oidc", "issuer": "https://idp.example.com", "client_id": "x"},
            "allowed": allowed,
            "redis_url": redis_url,
            "state_directory": "/unused",
            "router": {"entry_points": ["web"]},
            "resources": {
                "time": {
                    "url": URL,
                    "backends": ["http://127.0.0.1:9001/mcp"],
                    **({"scopes": scopes} if scopes else {}),
                }
            },
        }
    )


def make_users(
    store: Store, provider: Provider, scopes: dict[str, Any] | None = None, **allowed: list[str]
) -> UserAccess:
    settings = make_settings("redis://unused", scopes, **allowed)
    return UserAccess(settings, store, BoundedProvider(provider), token_key=b"0" * 64)


def add_grant(store: Store, users: UserAccess, login: Login, **changes: Any) -> Grant:
    usual: dict[str, Any] = {
        "sid": "sid",
        "sub": login.profile.subject,
        "name": login.profile.login,
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
    add_grant(store, users, Login(profile=MEMBER, token="upstream-token"))
    kept = store.last_logins.find(MEMBER.subject)
    assert kept is not None
    assert "upstream-token" not in kept
    assert "staff" not in kept


def test_a_member_keeps_access_as_long_as_the_provider_confirms_it(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    assert users.recheck_scopes(grant)
    provider.answer = lambda token: Login(profile=ALICE, token=token)
    assert not users.recheck_scopes(grant)


def test_a_named_user_of_a_directory_is_asked_about_as_well(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, users=["alice"])
    grant = add_grant(store, users, Login(profile=ALICE, token="t"))
    assert users.recheck_scopes(grant)

    def refuse(_token: str) -> Login:
        raise LoginError("gone")

    provider.answer = refuse
    assert not users.recheck_scopes(grant)


def test_a_named_user_of_github_is_not_asked_about_and_members_are(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    users = make_users(store, provider, users=["alice"], groups=["staff"])
    assert users.may_use(ALICE, "time")
    grant = add_grant(store, users, Login(profile=ALICE, token="t"))
    assert users.recheck_scopes(grant)
    assert provider.asked_with == []
    assert make_users(store, provider, groups=["staff"]).recheck_scopes(grant)
    assert provider.asked_with == ["t"]


def test_an_answer_about_another_user_ends_the_grant(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    other = Profile(subject="oidc:https://idp.example.com#2", login="alice", groups=MEMBER.groups)
    provider.answer = lambda token: Login(profile=other, token=token)
    assert not users.recheck_scopes(grant)


def test_a_provider_that_cannot_say_neither_keeps_nor_ends_it(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))

    def fail(_token: str) -> Login:
        raise ServiceUnavailable("Test")

    provider.answer = fail
    with pytest.raises(ServiceUnavailable):
        users.recheck_scopes(grant)
    assert store.grants.find(grant.sid) == grant


def test_without_anything_to_ask_with_the_last_login_counts_for_a_day(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        grant = add_grant(store, users, Login(profile=MEMBER, token=None))
        clock.shift(24 * 3600 - 1)
        assert users.recheck_scopes(grant)
        assert not make_users(store, provider, groups=["admins"]).recheck_scopes(grant)
        clock.shift(1)
        assert not users.recheck_scopes(grant)
    assert provider.asked_with == []


def start_session(store: Store, users: UserAccess, profile: Profile) -> str:
    return store.sessions.start(
        sub=profile.subject, name=profile.login, sealed_profile=users.seal_profile(profile), lifetime=3600
    )


def find_shown(users: UserAccess) -> list[str] | None:
    return users.find_usable_when_signed_in(ALICE.subject, "alice")


def test_pages_show_what_the_present_lists_open_after_the_last_grant_has_ended(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    assert find_shown(users) is None
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    start_session(store, users, MEMBER)
    revoke(store, grant.sid)
    assert store.last_logins.find(ALICE.subject) is None
    assert find_shown(users) == ["time"]
    closed = {"mcp": {"description": "All", "required": True, "allowed": {"users": ["someone-else"]}}}
    assert find_shown(make_users(store, Provider(), closed, groups=["staff"])) == []
    assert find_shown(make_users(store, Provider(), groups=["admins"])) is None, "the provider was not asked about it"


def test_the_profile_for_pages_is_encrypted_and_has_no_token(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    start_session(store, users, MEMBER)
    kept = store.sessions.find_profile(ALICE.subject)
    assert kept is not None
    assert "staff" not in kept
    assert (users._open(kept) or {}).keys() == {"asked", "organizations", "teams", "groups"}


def test_the_profile_for_pages_ends_with_the_last_session(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    first, second = (start_session(store, users, MEMBER) for _ in range(2))
    assert store.redis.ttl(f"profile-of-user:{ALICE.subject}") > 0
    store.sessions.end(first)
    assert find_shown(users) == ["time"]
    store.sessions.end(second)
    assert find_shown(users) is None
    start_session(store, users, MEMBER)
    store.sessions.end_all(ALICE.subject)
    assert find_shown(users) is None


def test_a_user_who_may_use_nothing_has_no_profile_for_pages(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    start_session(store, users, MEMBER)
    start_session(store, users, ALICE)
    assert store.sessions.find_profile(ALICE.subject) is None
    assert find_shown(users) is None


def test_pages_go_by_what_the_provider_says_at_a_refresh(store: Store) -> None:
    provider = Provider()
    scopes = {"mcp": {"description": "All", "required": True, "allowed": {"groups": ["staff"]}}}
    users = make_users(store, provider, scopes, users=["alice"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    start_session(store, users, MEMBER)
    store.redis.expire(f"profile-of-user:{ALICE.subject}", 60)
    assert users.recheck_scopes(grant)
    assert find_shown(users) == ["time"]
    provider.answer = lambda token: Login(profile=ALICE, token=token)
    assert not users.recheck_scopes(grant)
    revoke(store, grant.sid)
    assert find_shown(users) == []
    assert 0 < store.redis.ttl(f"profile-of-user:{ALICE.subject}") <= 60, "a refresh prolongs nothing"


def test_pages_forget_a_user_whom_the_provider_refuses(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, users=["alice"])
    grant = add_grant(store, users, Login(profile=ALICE, token="t"))
    start_session(store, users, ALICE)

    def refuse(_token: str) -> Login:
        raise LoginError("gone")

    provider.answer = refuse
    assert not users.recheck_scopes(grant)
    revoke(store, grant.sid)
    assert find_shown(users) is None


def test_pages_forget_a_user_of_whom_nothing_was_said_for_a_day(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        grant = add_grant(store, users, Login(profile=MEMBER, token=None))
        start_session(store, users, MEMBER)
        clock.shift(24 * 3600 - 1)
        assert users.recheck_scopes(grant)
        assert find_shown(users) == ["time"]
        clock.shift(1)
        assert not users.recheck_scopes(grant)
        revoke(store, grant.sid)
        assert find_shown(users) is None


def test_a_refresh_does_not_replace_what_a_later_sign_in_has_said(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    start_session(store, users, MEMBER)

    def answer(token: str) -> Login:
        start_session(store, users, ALICE)
        return Login(profile=MEMBER, token=token)

    provider.answer = answer
    assert users.recheck_scopes(grant)
    assert find_shown(users) == []


def test_a_sign_in_counts_for_pages_more_than_the_login_of_the_grants(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(profile=MEMBER, token="t"))
    assert find_shown(users) == ["time"]
    start_session(store, users, ALICE)
    assert find_shown(users) == []
    start_session(store, users, MEMBER)
    assert find_shown(users) == ["time"]


def test_a_replaced_token_is_the_one_to_ask_with_next(store: Store) -> None:
    provider = Provider()
    provider.answer = lambda token: Login(profile=MEMBER, token=token + "+")
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    assert users.recheck_scopes(grant)
    assert users.recheck_scopes(grant)  # as read before the token was replaced
    assert provider.asked_with == ["t", "t+"]


@pytest.mark.parametrize("error", [ServiceUnavailable("Test"), LoginError("nonsense")])
def test_a_replaced_token_is_kept_although_asking_fails_after_that(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    identify = provider.identify

    def replace_and_fail(token: str, *, replaced: Callable[[str], None]) -> Profile:
        provider.asked_with.append(token)
        replaced(token + "+")
        raise error

    monkeypatch.setattr(provider, "identify", replace_and_fail)
    if isinstance(error, LoginError):
        assert not users.recheck_scopes(grant)
    else:
        with pytest.raises(ServiceUnavailable):
            users.recheck_scopes(grant)
    assert provider.asked_with == ["t"]
    monkeypatch.setattr(provider, "identify", identify)
    assert users.recheck_scopes(grant)
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
        return Login(profile=MEMBER, token=token + "+")

    provider.answer = rotate
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: users.recheck_scopes(grant), range(8)))


def test_those_who_wait_for_a_users_other_request_are_counted_as_waiting_for_the_provider(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MAX_CONCURRENT", 2)
    provider, asked, goes_on = Provider(), threading.Event(), threading.Event()

    def dawdle(token: str) -> Login:
        asked.set()
        assert goes_on.wait(100)
        return Login(profile=MEMBER, token=token)

    provider.answer = dawdle
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(users.recheck_scopes, grant)]
        assert asked.wait(60)
        answers += [pool.submit(users.recheck_scopes, grant) for _ in range(2)]
        try:
            refused = next(as_completed(answers, timeout=60))
            assert isinstance(refused.exception(), ServiceUnavailable)
        finally:
            goes_on.set()
    answers.remove(refused)
    assert all(answer.result() for answer in answers)
    assert users.recheck_scopes(grant)


def test_a_login_that_finishes_while_its_users_token_is_replaced_is_not_overwritten(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))

    def log_in_meanwhile(token: str) -> Login:
        users.remember(Login(profile=MEMBER, token="new"))
        return Login(profile=MEMBER, token=token + "+")

    provider.answer = log_in_meanwhile
    assert users.recheck_scopes(grant)
    provider.answer = lambda token: Login(profile=MEMBER, token=token)
    assert users.recheck_scopes(grant)
    assert provider.asked_with == ["t", "new"]


def grant_that_ends_while_the_provider_is_asked(store: Store) -> Grant:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))

    def revoke_meanwhile(token: str) -> Login:
        revoke(store, grant.sid)
        return Login(profile=MEMBER, token=token + "+")

    provider.answer = revoke_meanwhile
    users.recheck_scopes(grant)
    return grant


def test_nothing_is_kept_of_a_login_whose_grant_ended_while_its_token_was_replaced(store: Store) -> None:
    grant_that_ends_while_the_provider_is_asked(store)
    assert store.last_logins.find(MEMBER.subject) is None


@pytest.mark.parametrize("moment", range(5))
def test_a_login_that_finishes_while_the_users_last_grant_ends_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(profile=MEMBER, token="t"), sid="one")
    execute: Any = redis.Redis.execute_command
    commands = itertools.count()

    def log_in_between(connection: redis.Redis, *arguments: Any, **options: Any) -> Any:
        if next(commands) == moment:
            add_grant(store, users, Login(profile=MEMBER, token="t"), sid="two")
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
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    store.last_logins.keep(MEMBER.subject, sealed)
    assert not users.recheck_scopes(grant)


def test_a_provider_that_ends_a_users_oldest_tokens_ends_no_grant(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grants = [add_grant(store, users, Login(profile=MEMBER, token=f"t{n}"), sid=f"sid-{n}") for n in range(12)]

    def remember_only_the_last(token: str) -> Login:
        if token != "t11":
            raise LoginError("ended")
        return Login(profile=MEMBER, token=token)

    provider.answer = remember_only_the_last
    assert all(users.recheck_scopes(grant) for grant in grants)


def test_a_login_that_ends_the_token_being_asked_with_is_asked_with_instead(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))

    def log_in_meanwhile(token: str) -> Login:
        if token == "t":
            users.remember(Login(profile=MEMBER, token="new"))
            raise LoginError("ended")
        return Login(profile=MEMBER, token=token)

    provider.answer = log_in_meanwhile
    assert users.recheck_scopes(grant)
    assert provider.asked_with == ["t", "new"]


def test_the_kept_token_ends_with_the_users_last_grant(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    for sid in ("one", "two"):
        add_grant(store, users, Login(profile=MEMBER, token="t"), sid=sid)
    revoke(store, "one")
    assert store.last_logins.find(MEMBER.subject) is not None
    revoke(store, "two")
    assert store.last_logins.find(MEMBER.subject) is None


def test_a_resource_that_is_gone_ends_it(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    login = Login(profile=MEMBER, token="t")
    assert not users.recheck_scopes(add_grant(store, users, login, resource="https://gone.example.com/mcp"))


def test_a_name_belongs_to_whoever_used_it_first(store: Store) -> None:
    users = make_users(store, Provider(), users=["Alice"])
    assert users.may_use(ALICE, "time")
    thief = Profile(subject="oidc:https://idp.example.com#2", login="alice")
    assert not users.may_use(thief, "time")
    renamed = Profile(subject=ALICE.subject, login="alice2")
    assert users.may_use(renamed, "time")


def test_a_name_put_on_the_list_does_not_admit_its_former_user(store: Store) -> None:
    """A member called alice is renamed, and the operator admits the user who has that name now."""
    provider = Provider(rechecks_names=False)
    grant = add_grant(store, make_users(store, provider, groups=["staff"]), Login(profile=MEMBER, token="t"))
    users = make_users(store, provider, users=["alice"])
    provider.answer = lambda token: Login(profile=Profile(subject=ALICE.subject, login="alice2"), token=token)
    assert not users.recheck_scopes(grant)
    assert users.may_use(Profile(subject="oidc:https://idp.example.com#2", login="alice"), "time")
    assert not users.recheck_scopes(grant)


def test_a_member_whose_name_is_put_on_the_list_is_asked_about_once(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    grant = add_grant(store, make_users(store, provider, groups=["staff"]), Login(profile=MEMBER, token="t"))
    users = make_users(store, provider, users=["alice"])
    assert users.recheck_scopes(grant)
    assert users.recheck_scopes(grant)
    assert provider.asked_with == ["t"]


@pytest.mark.parametrize("login", ["\u0430lice", "al\u0131ce", "ALICE\u200b", "alic\u00e9", "alice ", ""])
def test_a_name_that_only_looks_the_same_is_another(store: Store, login: str) -> None:
    users = make_users(store, Provider(), users=["alice"])
    assert not users.may_use(Profile(subject="oidc:https://idp.example.com#3", login=login), "time")


def test_subjects_that_differ_in_case_alone_are_two_users(store: Store) -> None:
    named, other = "oidc:https://idp.example.com#AbC", "oidc:https://idp.example.com#aBc"
    users = make_users(store, Provider(), users=[named])
    assert not users.may_use(Profile(subject=other, login=other), "time")
    assert users.may_use(Profile(subject=named, login=named), "time")


def test_a_kelvin_sign_is_no_k(store: Store) -> None:
    users = make_users(store, Provider(), users=["kim"])
    assert not users.may_use(Profile(subject="oidc:https://idp.example.com#3", login="\u212aim"), "time")


def test_empty_lists_admit_no_user(store: Store) -> None:
    assert not make_users(store, Provider()).may_use(MEMBER, "time")


def scopes_with(*, read: dict[str, Any] | None = None, **optional: dict[str, Any]) -> dict[str, Any]:
    """Return a required scope `read` and optional ones, each with its allow-list."""
    return {
        "read": {"description": "Read", **({} if read is None else {"allowed": read})},
        **{name: {"description": name, "required": False, "allowed": allowed} for name, allowed in optional.items()},
    }


BOB = Profile(subject="oidc:https://idp.example.com#2", login="bob")
ADMIN = Profile(subject=BOB.subject, login="bob", groups=frozenset({"staff", "admins"}))


@pytest.mark.parametrize(
    ("profile", "allowed", "is_granted"),
    [
        (ADMIN, {"groups": ["admins"]}, True),
        (MEMBER, {"groups": ["admins"]}, False),
        (MEMBER, {"groups": ["admins"], "users": ["ALICE"]}, True),
        (ADMIN, {"users": ["alice"]}, False),
        (MEMBER, {}, False),
    ],
)
def test_a_scope_is_for_those_on_its_own_list(
    store: Store, profile: Profile, allowed: dict[str, Any], is_granted: bool
) -> None:
    users = make_users(store, Provider(), scopes_with(write=allowed), groups=["staff"])
    expected = {"read", "write"} if is_granted else {"read"}
    assert users.expect_scopes(profile, "time") == expected
    assert users.find_scopes(profile, "time") == expected


def test_a_scope_without_a_list_is_for_everyone_who_may_use_the_server(store: Store) -> None:
    scopes = {"read": {"description": "r"}, "write": {"description": "w", "required": False}}
    users = make_users(store, Provider(), scopes, groups=["staff"])
    assert users.find_scopes(ALICE, "time") == {"read", "write"}


def test_a_name_on_a_scopes_list_is_pinned_to_its_first_user_and_a_page_pins_none(store: Store) -> None:
    users = make_users(store, Provider(), scopes_with(write={"users": ["alice"]}), groups=["staff"])
    assert users.expect_scopes(MEMBER, "time") == {"read", "write"}
    assert store.pins.find(Provider.name) == {}
    assert users.find_scopes(MEMBER, "time") == {"read", "write"}
    thief = Profile(subject=BOB.subject, login="alice", groups=MEMBER.groups)
    assert users.find_scopes(thief, "time") == {"read"}
    assert users.expect_scopes(thief, "time") == {"read"}
    renamed = Profile(subject=ALICE.subject, login="alicia", groups=MEMBER.groups)
    assert users.find_scopes(renamed, "time") == {"read", "write"}


def test_each_refresh_finds_the_scopes_by_what_the_provider_says_now(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, scopes_with(write={"groups": ["admins"]}), groups=["staff"])
    grant = add_grant(store, users, Login(profile=ADMIN, token="t"))
    for groups, expected in (
        ({"staff", "admins"}, {"read", "write"}),
        ({"staff"}, {"read"}),
        ({"admins"}, set()),
        ({"staff", "admins"}, {"read", "write"}),
    ):
        now = Profile(subject=BOB.subject, login="bob", groups=frozenset(groups))
        provider.answer = lambda token, now=now: Login(profile=now, token=token)  # type: ignore[misc]
        assert users.recheck_scopes(grant) == expected
        # A code that is redeemed, and a page, go by the same.
        assert users.find_listed_scopes(grant) == expected
        assert users.find_last_profile(BOB.subject, "bob") == now


def test_a_user_without_a_required_scope_may_not_use_the_server(store: Store) -> None:
    provider = Provider()
    scopes = scopes_with(read={"groups": ["admins"]}, write={"groups": ["staff"]})
    users = make_users(store, provider, scopes, groups=["staff"])
    grant = add_grant(store, users, Login(profile=ADMIN, token="t"))
    provider.answer = lambda token: Login(profile=ADMIN, token=token)
    assert users.recheck_scopes(grant) == {"read", "write"}
    staff = Profile(subject=BOB.subject, login="bob", groups=frozenset({"staff"}))
    provider.answer = lambda token: Login(profile=staff, token=token)
    assert users.recheck_scopes(grant) == frozenset()


def test_a_page_knows_nothing_of_a_user_whom_the_provider_was_asked_less_about(store: Store) -> None:
    before = make_users(store, Provider(), groups=["staff"])
    add_grant(store, before, Login(profile=MEMBER, token="t"))
    assert before.find_last_profile(MEMBER.subject, "alice") == MEMBER
    after = make_users(store, Provider(), scopes_with(write={"groups": ["admins"]}), groups=["staff"])
    assert after.find_last_profile(MEMBER.subject, "alice") is None
    after.remember(Login(profile=MEMBER, token="t"))
    assert after.find_last_profile(MEMBER.subject, "alice") == MEMBER


def test_what_an_earlier_version_kept_of_a_login_still_decides_and_shows_nothing(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, scopes_with(write={"groups": ["staff"]}), groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    earlier = {"at": 1_900_000_000, "token": "t", "organizations": [], "teams": [], "groups": ["staff"]}
    store.last_logins.keep(grant.sub, users._seal(earlier))
    assert users.find_last_profile(grant.sub, "alice") is None
    assert users.find_listed_scopes(grant) == {"read", "write"}
    assert users.recheck_scopes(grant) == {"read", "write"}
    assert users.find_last_profile(grant.sub, "alice") == MEMBER, "the refresh has asked"


def test_a_pinned_user_of_github_is_asked_about_only_for_scopes_of_others(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    provider.answer = lambda token: Login(profile=ALICE, token=token)
    names = {"users": ["alice"]}
    own = make_users(store, provider, scopes_with(write=names), **names)
    grant = add_grant(store, own, Login(profile=ALICE, token="t"))
    assert own.may_use(ALICE, "time")
    assert own.find_scopes(ALICE, "time") == {"read", "write"}
    assert own.recheck_scopes(grant) == {"read", "write"}
    assert provider.asked_with == []

    mixed = make_users(store, provider, scopes_with(write=names, admin={"groups": ["staff"]}), **names)
    assert mixed.recheck_scopes(grant) == {"read", "write"}
    provider.answer = lambda token: Login(profile=MEMBER, token=token)
    assert mixed.recheck_scopes(grant) == {"read", "write", "admin"}
    assert provider.asked_with == ["t", "t"]

    def refuse(_token: str) -> Login:
        raise LoginError("gone")

    provider.answer = refuse
    assert mixed.recheck_scopes(grant) == {"read", "write"}

    def fail(_token: str) -> Login:
        raise ServiceUnavailable(provider.title)

    provider.answer = fail
    assert mixed.recheck_scopes(grant) == {"read", "write"}, "the grant has nothing that depends on the provider"
    with pytest.raises(ServiceUnavailable):
        mixed.recheck_scopes(dataclasses.replace(grant, scope="read admin"))
    needed = make_users(store, provider, scopes_with(read={"groups": ["staff"]}, write=names), **names)
    for scope in ("read", "write"):
        with pytest.raises(ServiceUnavailable):
            needed.recheck_scopes(dataclasses.replace(grant, scope=scope))
    provider.answer = lambda token: Login(profile=ALICE, token=token)
    assert needed.recheck_scopes(grant) == frozenset()


def test_a_former_login_name_of_a_pinned_user_gets_no_scope_that_was_given_to_its_new_owner(store: Store) -> None:
    provider = Provider(rechecks_names=False)
    renamed = Profile(subject=ALICE.subject, login="alicia")
    provider.answer = lambda token: Login(profile=renamed, token=token)
    users = make_users(store, provider, users=["al", "alice"])
    store.pins.pin(provider.name, "al", ALICE.subject)
    grant = add_grant(store, users, Login(profile=ALICE, token="t"))
    tightened = make_users(store, provider, scopes_with(write={"users": ["alice"]}), users=["al"])
    assert tightened.recheck_scopes(grant) == {"read"}
    assert "alice" not in store.pins.find(provider.name)


def test_without_a_token_of_the_provider_the_login_counts_for_a_while(store: Store) -> None:
    users = make_users(store, Provider(), scopes_with(write={"groups": ["admins"]}), groups=["staff"])
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        grant = add_grant(store, users, Login(profile=ADMIN, token=None))
        assert users.recheck_scopes(grant) == {"read", "write"}
        clock.shift(make_settings("redis://unused").lifetimes.unconfirmed_user)
        assert users.recheck_scopes(grant) == frozenset()


def test_memberships_of_a_refresh_do_not_replace_those_of_a_login_meanwhile(store: Store) -> None:
    provider = Provider()
    users = make_users(store, provider, scopes_with(write={"groups": ["admins"]}), groups=["staff"])
    grant = add_grant(store, users, Login(profile=MEMBER, token="t"))
    newer = Profile(subject=ALICE.subject, login="alice", groups=frozenset({"staff", "admins"}))

    def log_in_meanwhile(token: str) -> Login:
        users.remember(Login(profile=newer, token="newer"))
        return Login(profile=ALICE, token=token)

    provider.answer = log_in_meanwhile
    assert users.recheck_scopes(grant) == frozenset()
    assert users.find_listed_scopes(grant) == {"read", "write"}


def test_scopes_that_are_removed_from_a_grant_at_once_are_all_gone(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(profile=MEMBER, token="t"), scope="read write admin")
    with ThreadPoolExecutor(2) as pool:
        for lost in ("write", "admin"):
            pool.submit(store.grants.remove_scopes, "sid", [lost])
    found = store.queries.find_grant("sid")
    assert found is not None
    assert found.grant.scope == "read"
    assert found.expires_at > 0
    assert 0 < store.redis.ttl(grant_key("sid")) <= 3600


def test_removing_scopes_does_not_bring_back_a_grant_that_has_ended(store: Store) -> None:
    users = make_users(store, Provider(), groups=["staff"])
    add_grant(store, users, Login(profile=MEMBER, token="t"), scope="read write")
    revoke(store, "sid")
    assert store.grants.remove_scopes("sid", ["write"]) is None
    assert store.grants.find("sid") is None


def test_a_server_is_shown_to_those_who_may_have_every_scope_that_it_requires(store: Store) -> None:
    optional = make_users(store, Provider(), scopes_with(write={"groups": ["admins"]}), groups=["staff"])
    assert optional.find_usable(MEMBER) == ["time"]
    required = make_users(store, Provider(), scopes_with(read={"groups": ["admins"]}), groups=["staff"])
    assert required.find_usable(MEMBER) == []
    assert required.find_usable(ADMIN) == ["time"]
    assert required.find_usable(dataclasses.replace(ADMIN, groups=frozenset({"admins"}))) == []
