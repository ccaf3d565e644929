"""What counts as the credentials of a user, and processes that end before these do, by a clock that the test sets."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stdio_bridge.http.identity import AssertionVerifier, Identity
from stdio_bridge.io.child_process import Child
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.http_post import Answer
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import parse_options
from stdio_bridge.protocol.errors import HttpError, UsageError
from stdio_bridge.servers.handshake import EraCache
from stdio_bridge.servers.leases import Leases
from stdio_bridge.servers.pool import ServerPool
from stdio_bridge.servers.session_lease import SessionLease
from stdio_bridge.servers.suspended_calls import SuspendedCalls
from stdio_bridge.servers.user_credentials import (
    AT_ONCE,
    REPEATS,
    TOTAL_SECONDS,
    Delivered,
    Question,
    UserCredentials,
)
from tests.stdio_bridge.credential_service import WAIT_SECONDS, encrypt
from tests.stdio_bridge.running import ECHO, KEY

URL = "http://127.0.0.1:1/credentials/notes"
ASKED = ("--credentials-url", URL, "--user-credential", "TOKEN")
VARIABLES = frozenset({"TOKEN"})


class AuthService:
    """In place of the auth service: answers at once, with a token that lasts for an hour, and changes when a test says.

    While it is `silent`, it answers nothing. `repeats` is how often a question may be asked again.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.token = "first"
        self.is_silent = False
        self.repeats = 1
        self.asked = 0

    def ask(self, identity: Identity, taken: Callable[[Delivered | HttpError], None]) -> Asked:
        return Asked(self, taken, self.repeats)


class Asked:
    def __init__(self, service: AuthService, taken: Callable[[Delivered | HttpError], None], repeats: int) -> None:
        self._service = service
        self._taken = taken
        self._repeats = repeats
        self._is_over = False
        service.asked += 1
        delivered = Delivered(environment={"TOKEN": service.token}, good_for=3600.0)
        if not service.is_silent:
            service.loop.call_soon(lambda: None if self._is_over else taken(delivered))

    def cancel(self) -> None:
        self._is_over = True

    def repeat(self) -> Asked | None:
        self.cancel()
        return Asked(self._service, self._taken, self._repeats - 1) if self._repeats else None


class SessionOf:
    """A session without a call, whose client keeps its stream open."""

    idle_since = None
    seconds_in_use = 0.0

    def __init__(self, user: str) -> None:
        self.user = user
        self.has_ended = False

    def evict(self) -> None:
        self.has_ended = True

    lease_ended = evict

    def receive(self, message: Any) -> None:
        """Take no notice."""


class Site:
    def __init__(self, folder: Path, isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "key").write_text(KEY)
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        arguments = ["--listen", "127.0.0.1:0", "--require-identity", str(folder / "key"), *ASKED]
        arguments += ["--isolation", isolation, "--starts-at-once", "1"]
        options = parse_options([*arguments, "--", *ECHO], os.environ)
        self.service = AuthService(self.loop)
        self.pool = ServerPool(self.loop, options, Registry(), credentials=self.service)  # type: ignore[arg-type]
        self.started: list[tuple[str, str]] = []
        """The user and the token of each process that was started."""
        start_child = self.pool.start_child

        def start(user: str, credentials: Mapping[str, str]) -> Child:
            self.started.append((user, credentials["TOKEN"]))
            return start_child(user, credentials)

        monkeypatch.setattr(self.pool, "start_child", start)
        suspended = SuspendedCalls(b"k" * 32, seconds=60, clock=self.loop.clock)
        self.leases = Leases(self.pool, EraCache(versions=options.versions), suspended)

    def open(self, user: str) -> tuple[SessionLease, SessionOf]:
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
        lease = self.leases.of_session(Identity(user=user), initialize)
        session = SessionOf(user)
        lease.join(session, user=user, initialize=initialize)
        return lease, session

    def turn_until(self, condition: Callable[[], object]) -> None:
        for _ in range(3000):
            if condition():
                return
            self.loop.call_later(0.01, lambda: None)  # of real time, as nothing makes it due
            self.loop.turn()
        raise AssertionError("what the test waits for did not happen")


@pytest.fixture(params=["per-session", "per-user"])
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path, request.param, monkeypatch)
    yield site
    site.pool.stop("the test is over")
    while len(site.pool):
        site.now += 1  # what waits for a time need not wait for it
        site.loop.call_later(0.01, lambda: None)
        site.loop.turn()
    site.loop.close()


def test_a_process_ends_before_its_credential_once_no_call_needs_it(site: Site) -> None:
    lease, session = site.open("ann")
    site.turn_until(lambda: site.pool.spawns.value == 1)
    site.now += 3599
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended) == (False, False)
    site.now += 1
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended) == (True, True)


def test_a_process_with_a_running_call_goes_on_and_gets_no_new_session(site: Site) -> None:
    lease, session = site.open("ann")
    site.turn_until(lambda: site.pool.spawns.value == 1)
    replies: list[Any] = []

    class Reply:
        def send(self, message: Any) -> None:
            """Take no notice."""

        def finish(self, message: Any, outcome: Any = None) -> None:
            replies.append(message)

    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "never"}}
    lease.backend.request(session, call, Reply())
    site.now += 3600
    site.leases.tick(site.now)
    assert (lease.ending, session.has_ended, replies) == (True, False, [])
    assert site.open("ann")[0] is not lease


def test_a_process_that_waits_for_its_credentials_when_they_change_starts_with_the_new_ones(site: Site) -> None:
    site.service.is_silent = True
    lease, session = site.open("ann")
    site.service.is_silent, site.service.token = False, "second"
    site.leases.end_at_once("ann", "a change")
    site.turn_until(lambda: site.started)
    assert site.started == [("ann", "second")]
    assert (lease.ending, session.has_ended, site.service.asked) == (False, False, 2)


def test_a_process_that_waits_for_its_turn_when_its_credentials_change_starts_with_the_new_ones(site: Site) -> None:
    site.open("bob")
    site.turn_until(lambda: site.started)  # it starts for 10 s, in which no other one does
    lease, session = site.open("ann")
    site.turn_until(lambda: site.pool.start_limiter.waiting)
    site.service.token = "second"
    site.leases.end_at_once("ann", "a change")
    assert site.pool.start_limiter.waiting == 0
    site.turn_until(lambda: site.pool.start_limiter.waiting)
    site.now += 10
    site.turn_until(lambda: len(site.started) == 2)
    assert site.started == [("bob", "first"), ("ann", "second")]
    assert (lease.ending, session.has_ended, site.service.asked) == (False, False, 3)


def test_a_process_whose_credentials_change_too_often_is_not_started(site: Site) -> None:
    site.service.is_silent = True
    lease, session = site.open("ann")
    site.leases.end_at_once("ann", "a change")
    assert (lease.ending, session.has_ended) == (False, False)
    site.leases.end_at_once("ann", "a change")
    assert (lease.ending, session.has_ended) == (True, True)
    site.turn_until(lambda: len(site.pool) == 0)
    assert (site.started, site.service.asked) == ([], 2)


def test_a_credential_with_which_no_process_can_start_fails_its_user_alone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.service.token = "t" * 10**6  # more than a process may get
    lease, session = site.open("ann")
    site.turn_until(lambda: session.has_ended)
    assert lease.ending
    assert site.pool.failed_at == -math.inf
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("process 1 of ann: ")
    assert line.endswith("cannot be started: Argument list too long")
    site.service.token = "short"
    lease, session = site.open("bob")
    site.turn_until(lambda: site.pool.spawns.value == 1)
    assert (lease.ending, session.has_ended) == (False, False)


def test_nothing_starts_for_a_user_in_the_name_of_another_or_of_none(site: Site) -> None:
    occupant = SessionOf("ann")
    for identity in (None, Identity(user="bob")):
        with pytest.raises(HttpError):
            site.pool.start(occupant, lambda _: None, identity)
    assert len(site.pool) == 0


NONCE = "the nonce"
IDENTITY = Identity(user="ann", resource="https://mcp.example.com/notes/mcp", scopes=frozenset({"read", "write"}))


@pytest.fixture
def asking() -> Iterator[UserCredentials]:
    loop = Loop()
    verifier = AssertionVerifier(KEY.encode(), now=lambda: 1000.0)
    yield UserCredentials(loop, (URL,), verifier, variables=VARIABLES, now=lambda: 1000.0)
    loop.close()


def answered(changed: dict[str, Any], body: bytes | None = None, **headers: str) -> Answer:
    content = {"nonce": NONCE, "sub": "ann", "environment": {"TOKEN": "t"}, "expires_at": None}
    return Answer(status=200, headers=headers, body=body if body is not None else encrypt({**content, **changed}))


@pytest.mark.parametrize(
    ("changed", "delivered"),
    [
        ({}, Delivered(environment={"TOKEN": "t"}, good_for=None)),
        ({"environment": {"TOKEN": "\U0001f511"}}, Delivered(environment={"TOKEN": "\U0001f511"}, good_for=None)),
        ({"expires_at": 4600}, Delivered(environment={"TOKEN": "t"}, good_for=3300.0)),
        ({"expires_at": 1400}, Delivered(environment={"TOKEN": "t"}, good_for=300.0)),
    ],
)
def test_an_answer_to_the_question_is_taken(
    asking: UserCredentials, changed: dict[str, Any], delivered: Delivered
) -> None:
    assert asking.read(answered(changed), IDENTITY, NONCE) == delivered


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        pytest.param({"nonce": "another"}, None, id="an answer to another question"),
        pytest.param({"nonce": None}, None, id="an answer to none"),
        pytest.param({"sub": "bob"}, None, id="about another user"),
        pytest.param({"sub": None}, None, id="about no user"),
        pytest.param({"environment": {"TOKEN": 1}}, None, id="a value that is no text"),
        pytest.param({"environment": {"TOKEN": "a\0b"}}, None, id="a value with NUL"),
        pytest.param({"environment": {"TOKEN": "\ud800"}}, None, id="a value with half of a surrogate pair"),
        pytest.param({"environment": {"\ud800": "c"}}, None, id="a name with half of a surrogate pair"),
        pytest.param({"environment": {"A=B": "c"}}, None, id="a name with an equals sign"),
        pytest.param({"environment": ["TOKEN"]}, None, id="variables that are no object"),
        pytest.param({"expires_at": "never"}, None, id="an end that is no time"),
        pytest.param({"expires_at": float("nan")}, None, id="an end that is no number"),
        pytest.param({"expires_at": 10**400}, None, id="an end that no clock can show"),
        pytest.param({"expires_at": 1}, None, id="an end that is over"),
        pytest.param({}, b"{}", id="nothing"),
        pytest.param({}, b"[", id="no JSON"),
        pytest.param({}, b'{"credentials": 7}', id="no text"),
        pytest.param({}, b'{"credentials": "rubbish"}', id="not encrypted"),
        pytest.param({}, encrypt({}, key="6" * 64), id="encrypted for another server"),
    ],
)
def test_an_answer_that_is_not_for_this_question_and_user_is_refused(
    asking: UserCredentials, changed: dict[str, Any], body: bytes | None
) -> None:
    refused = asking.read(answered(changed, body), IDENTITY, NONCE)
    assert isinstance(refused, HttpError)
    assert refused.status == "503 Service Unavailable"
    assert "t" not in str(refused).split()


@pytest.mark.parametrize(
    ("environment", "difference"),
    [
        ({}, "without TOKEN"),
        ({"TOKEN": "secret", "OLD_TOKEN": "secret"}, "with OLD_TOKEN"),
        ({"token": "secret", "A": "secret"}, "without TOKEN, with A, with token"),
    ],
)
def test_a_process_starts_with_the_variables_that_the_bridge_names_or_not_at_all(
    asking: UserCredentials, caplog: pytest.LogCaptureFixture, environment: dict[str, str], difference: str
) -> None:
    refused = asking.read(answered({"environment": environment}), IDENTITY, NONCE)
    assert isinstance(refused, HttpError)
    assert (refused.status, dict(refused.headers)) == ("503 Service Unavailable", {"Retry-After": "5"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"delivers a user's credentials {difference}: its settings are not this bridge's" in line
    assert "secret" not in line + str(refused)


@pytest.mark.parametrize(
    ("status", "headers", "refusal", "retry_after"),
    [
        (503, {"retry-after": "7"}, "503 Service Unavailable", "7"),
        (503, {"retry-after": "0"}, "503 Service Unavailable", "1"),
        (503, {"retry-after": "1e9"}, "503 Service Unavailable", "5"),
        (503, {"retry-after": "99999999"}, "503 Service Unavailable", "600"),
        (503, {"retry-after": "9" * 5000}, "503 Service Unavailable", "5"),
        (503, {}, "503 Service Unavailable", "5"),
        (400, {}, "503 Service Unavailable", "5"),
        (404, {}, "503 Service Unavailable", "5"),
        (500, {}, "503 Service Unavailable", "5"),
    ],
)
def test_a_refusal_says_when_to_try_again(
    asking: UserCredentials, status: int, headers: dict[str, str], refusal: str, retry_after: str
) -> None:
    refused = asking.read(Answer(status=status, headers=headers, body=b""), IDENTITY, NONCE)
    assert isinstance(refused, HttpError)
    assert (refused.status, dict(refused.headers)) == (refusal, {"Retry-After": retry_after})


def test_without_a_socket_questions_are_answered_and_hinder_no_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_open(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    loop = Loop()
    answers: list[Delivered | HttpError] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/credentials/notes"
        verifier = AssertionVerifier(KEY.encode(), now=lambda: 1000.0)
        credentials = UserCredentials(loop, (url, url), verifier, variables=VARIABLES, now=lambda: 1000.0)
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", fail_to_open)
            for _ in range(2 * AT_ONCE):
                credentials.ask(IDENTITY, answers.append)
            while len(answers) < 2 * AT_ONCE:
                loop.call_later(0.01, lambda: None)
                loop.turn()
        assert [str(answer) for answer in answers] == ["the user's credentials cannot be had now: try again later"] * (
            2 * AT_ONCE
        )
        question = credentials.ask(IDENTITY, answers.append)
        loop.call_later(0.01, lambda: None)
        loop.turn()
        listener.accept()[0].close()
        question.cancel()
        loop.close()


def test_what_is_missing_leads_to_a_login_that_asks_for_the_scopes_that_the_token_has(asking: UserCredentials) -> None:
    refused = asking.read(Answer(status=401, headers={}, body=b""), IDENTITY, NONCE)
    assert isinstance(refused, HttpError)
    challenge = dict(refused.headers)["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="invalid_token"')
    assert challenge.endswith('/.well-known/oauth-protected-resource/notes/mcp", scope="read write"')


def test_an_address_that_cannot_be_reached_says_nothing(asking: UserCredentials) -> None:
    assert asking.read("Connection refused", IDENTITY, NONCE) is None


class Sent:
    """In place of a request that is under way: what it asks, and who gets the answer."""

    def __init__(self, url_number: int, identity: Identity, nonce: str, done: Callable[[Answer | str], None]) -> None:
        self.nonce = nonce
        self.done = done
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def answer(self, token: str) -> None:
        self.done(answered({"nonce": self.nonce, "environment": {"TOKEN": token}}))


class Asking:
    """A question, by a clock that the test sets, and the requests that were sent for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.sent: list[Sent] = []
        self.answers: list[str] = []
        self.loop = Loop(lambda: self.now)
        verifier = AssertionVerifier(KEY.encode(), now=lambda: 1000.0)
        credentials = UserCredentials(self.loop, (URL,), verifier, variables=VARIABLES, now=lambda: 1000.0)
        monkeypatch.setattr(credentials, "send", self._send)
        self.question = credentials.ask(IDENTITY, self._take)
        self.turn()

    def _send(self, *values: Any) -> Sent:
        self.sent.append(Sent(*values))
        return self.sent[-1]

    def _take(self, answer: Delivered | HttpError) -> None:
        self.answers.append(answer.status if isinstance(answer, HttpError) else answer.environment["TOKEN"])

    def turn(self) -> None:
        self.loop.stop()  # it waits for nothing
        self.loop.turn()


@pytest.fixture
def asking_slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    asking = Asking(monkeypatch)
    yield asking
    asking.question.cancel()
    asking.loop.close()


def test_of_a_question_that_is_asked_anew_only_the_last_answer_is_used(asking_slowly: Asking) -> None:
    again = asking_slowly.question.repeat()
    assert again is not None
    asking_slowly.turn()
    first, second = asking_slowly.sent
    assert (first.is_cancelled, second.is_cancelled, first.nonce != second.nonce) == (True, False, True)
    first.answer("first")
    assert asking_slowly.answers == []
    second.answer("second")
    second.answer("third")
    assert asking_slowly.answers == ["second"]


def test_a_question_whose_answer_is_not_used_yet_can_be_asked_anew(asking_slowly: Asking) -> None:
    asking_slowly.sent[0].answer("first")
    assert asking_slowly.question.repeat() is not None
    asking_slowly.turn()
    asking_slowly.sent[1].answer("second")
    assert asking_slowly.answers == ["first", "second"]


def test_a_question_is_asked_anew_a_few_times_alone(asking_slowly: Asking) -> None:
    question: Question | None = asking_slowly.question
    for _ in range(REPEATS):
        assert question is not None
        question = question.repeat()
        asking_slowly.turn()
    assert question is not None
    assert question.repeat() is None
    assert [sent.is_cancelled for sent in asking_slowly.sent] == [True] * (1 + REPEATS)
    asking_slowly.sent[-1].answer("last")
    assert asking_slowly.answers == []


def test_a_question_that_is_asked_anew_has_no_more_time_than_the_first(asking_slowly: Asking) -> None:
    asking_slowly.now += TOTAL_SECONDS - 1
    again = asking_slowly.question.repeat()
    assert again is not None
    asking_slowly.turn()
    asking_slowly.now += 1
    asking_slowly.turn()
    assert asking_slowly.answers == ["503 Service Unavailable"]
    assert again.repeat() is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--no-identity",), "needs --require-identity"),
        (("--require-identity", "KEY", "--isolation", "shared"), "not with --isolation shared"),
        (("--require-identity", "KEY", "--warm-spares", "1"), "not with --warm-spares"),
    ],
)
def test_credentials_are_refused_with_what_would_give_them_to_others(options: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_options(["--listen", "127.0.0.1:0", *ASKED, *options, "--", *ECHO], os.environ)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (ASKED[:2], "--credentials-url: needs --user-credential NAME"),
        (ASKED[2:], "--user-credential: needs --credentials-url"),
        ((*ASKED, "--env", "TOKEN=t"), "--user-credential TOKEN: --env sets the same variable"),
        ((*ASKED, "--user-credential", "A-B"), "'A-B' is not the name of a variable"),
        ((*ASKED, "--user-credential", ""), "'' is not the name of a variable"),
    ],
)
def test_the_variables_that_are_asked_for_are_named_and_set_by_nothing_else(
    options: tuple[str, ...], complaint: str
) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--require-identity", "KEY", *options, "--", *ECHO]
    with pytest.raises(UsageError, match=complaint):
        parse_options(arguments, os.environ)


def test_a_lock_file_is_printed_with_the_options_of_a_bridge_whose_users_have_credentials() -> None:
    options = parse_options(["--print-tools-lock", "--require-identity", "KEY", *ASKED, "--", *ECHO], os.environ)
    assert (options.credentials_urls, options.user_credentials) == ((), ())


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x", "http://localhost/x", "http://auth.example/x", "http://127.0.0.1", "http://127.0.0.1/x?y",
        "http://127.0.0.1/x#y", "http://u@127.0.0.1/x", "http://999.0.0.1/x", "http://127.0.0.1:0/x",
        "http://127.0.0.1:65536/x", "http://[::1/x", "http://::1/x", "http://127.0.0.1/x y", "",
    ],
)  # fmt: skip
def test_an_address_that_would_have_to_be_looked_up_or_means_two_things_is_refused(url: str) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--require-identity", "KEY", *ASKED, "--credentials-url", url, "--", *ECHO]
    with pytest.raises(UsageError, match="--credentials-url"):
        parse_options(arguments, os.environ)


@pytest.mark.parametrize("url", [URL, "http://[::1]:9000/credentials/notes", "http://10.0.0.1/x"])
def test_an_address_with_a_path_is_taken(url: str) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--require-identity", "KEY", *ASKED, "--credentials-url", url, "--", *ECHO]
    assert parse_options(arguments, os.environ).credentials_urls == (URL, url)


def test_the_file_of_a_bridge_names_several_addresses_and_variables(tmp_path: Path) -> None:
    urls, variables = [URL, "http://10.0.0.1:9000/credentials/notes"], ["API_TOKEN", "API_USER"]
    members: dict[str, object] = {"listen": "127.0.0.1:0", "require-identity": "KEY", "command": ["true"]}
    members |= {"credentials-url": urls, "user-credential": variables}
    (tmp_path / "bridge.json").write_text(json.dumps(members))
    options = parse_options(["--config", str(tmp_path / "bridge.json")], os.environ)
    assert (options.credentials_urls, options.user_credentials) == (tuple(urls), tuple(variables))
