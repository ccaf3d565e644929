"""Users' own credentials: the bridge asks the auth service for them before it starts a process, and keeps none.

Imported only if users have credentials, as it loads the package that decrypts them.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from stdio_bridge.http.identity import Identity, Verifier
from stdio_bridge.io.event_loop import Loop
from stdio_bridge.io.http_post import Answer, Post
from stdio_bridge.io.log_handler import LimitedLog
from stdio_bridge.protocol.challenges import challenged
from stdio_bridge.protocol.errors import RETRY_SECONDS, HttpError, unavailable

from .start_limiter import StartLimiter, StartPermit

log = logging.getLogger(__name__)

AT_ONCE: Final = 16
"""How many questions may be under way; more wait."""
TOTAL_SECONDS: Final = 10.0
"""How long a process waits for its credentials. Less than `--keep-alive`, so that the refusal is an HTTP error."""
REPEATS: Final = 2
"""How often the bridge asks again within that time if the credentials change while a process waits for them."""
_ONE_SECONDS: Final = 8.0
_CONNECT_SECONDS: Final = 1.0
_LOGGED_PER_SECOND = 1
_MAX_RETRY_SECONDS = 600
# Python refuses to read thousands of digits.
_MAX_RETRY_DIGITS = 9
# A process ends, when it is idle, this long before its credential does, or after three quarters of a short time.
_AHEAD_SECONDS = 300.0
_MAX_TIME = 1e11


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The credentials of one user, as variables of the environment.

    `good_for` is after how many seconds a process with them should end; None means never.
    """

    environment: Mapping[str, str] = field(repr=False)
    good_for: float | None


Done = Callable[[Delivered | HttpError], None]


class UserCredentials:
    """Asks the auth service for users' credentials. If an address cannot be reached, it asks the next one."""

    def __init__(
        self,
        loop: Loop,
        urls: tuple[str, ...],
        verifier: Verifier,
        *,
        variables: frozenset[str],
        now: Callable[[], float],
    ) -> None:
        """An answer must have exactly these `variables`. `now` is in seconds since 1970."""
        self.loop = loop
        self._urls = urls
        self._verifier = verifier
        self._variables = variables
        self._now = now
        self._fernet = Fernet(base64.urlsafe_b64encode(verifier.key_for("credentials")))
        self.limiter = StartLimiter(AT_ONCE)
        self._log = LimitedLog(log, loop.clock, per_second=_LOGGED_PER_SECOND)

    def ask(self, identity: Identity, done: Done) -> Question:
        """Ask for the credentials of a user. `done` is called once, after this has returned, unless it is cancelled."""
        return Question(self, identity, done, deadline=self.loop.clock() + TOTAL_SECONDS, repeats=REPEATS)

    def send(
        self, url_number: int, identity: Identity, nonce: str, done: Callable[[Answer | str], None]
    ) -> Post | None:
        """Send a question to one of the addresses; None where there are no more."""
        if url_number >= len(self._urls):
            return None
        body = self._verifier.sign_credential_request(identity.assertion or "", nonce)
        return Post(
            self.loop, self._urls[url_number], body, done, seconds=_ONE_SECONDS, connect_seconds=_CONNECT_SECONDS
        )

    def read(self, answer: Answer | str, identity: Identity, nonce: str) -> Delivered | HttpError | None:
        """Return the credentials or the refusal that an answer means; None if the next address is to be asked."""
        if isinstance(answer, str):
            self._log.log(logging.WARNING, "the auth service cannot be asked for a user's credentials: %s", answer)
            return None
        if answer.status == HTTPStatus.OK:
            return self._open(answer.body, identity, nonce)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            text = "a credential that this server needs of you is missing: log in again"
            return challenged("invalid_token", text, resource=identity.resource, scopes=identity.scopes)
        if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
            self._log.log(logging.ERROR, "the auth service refused a question for credentials: HTTP %d", answer.status)
        return _unavailable(answer.headers.get("retry-after", ""))

    def _open(self, body: bytes, identity: Identity, nonce: str) -> Delivered | HttpError:
        """Decrypt an answer, and check that it is for this bridge, this question and this user, and is complete."""
        try:
            content = json.loads(self._fernet.decrypt(json.loads(body)["credentials"]))
            named, environment, expires_at = content["sub"], content["environment"], content["expires_at"]
            is_valid = (
                secrets.compare_digest(content["nonce"], nonce)
                and named == identity.user
                and _is_environment(environment)
                and (expires_at is None or (isinstance(expires_at, int | float) and 0 <= expires_at < _MAX_TIME))
            )
        except (InvalidToken, ValueError, TypeError, KeyError, RecursionError):
            is_valid, environment, expires_at = False, {}, None
        if not is_valid:
            self._log.log(logging.ERROR, "the auth service's answer to a question for credentials is not valid")
            return _unavailable("")
        if environment.keys() != self._variables:
            self._log_difference(environment.keys())
            return _unavailable("")
        if expires_at is None:
            return Delivered(environment=environment, good_for=None)
        left = expires_at - self._now()
        if left <= 0:
            self._log.log(logging.WARNING, "a user's credential has ended before a process could start with it")
            return _unavailable("")
        return Delivered(environment=environment, good_for=left - min(_AHEAD_SECONDS, left / 4))

    def _log_difference(self, delivered: Collection[str]) -> None:
        """Log which variables the auth service does not deliver, or delivers and should not."""
        missing = [f"without {name}" for name in sorted(self._variables.difference(delivered))]
        unknown = [f"with {name}" for name in sorted(set(delivered) - self._variables)]
        text = (
            "the auth service delivers a user's credentials %s: its settings are not this bridge's, so nothing starts"
        )
        self._log.log(logging.ERROR, text, ", ".join(missing + unknown))


class Question:
    """A question for the credentials of one user, for one process."""

    def __init__(
        self, credentials: UserCredentials, identity: Identity, done: Done, *, deadline: float, repeats: int
    ) -> None:
        """`deadline` is a time of the loop's clock. `repeats` is how often `repeat` may ask again."""
        self._credentials = credentials
        self._loop = loop = credentials.loop
        self._identity = identity
        self._done = done
        self._deadline = deadline
        self._repeats = repeats
        self._is_over = False
        self._nonce = secrets.token_urlsafe(24)
        self._post: Post | None = None
        self._url_number = 0
        self._timer = loop.call_later(deadline - loop.clock(), lambda: self._finish(_unavailable("")))
        self._permit: StartPermit | None = None
        # Not at once: nothing is answered before `ask` returns.
        loop.call_soon(self._begin)

    def cancel(self) -> None:
        """End it: no answer is used from now on. Does nothing if it is over."""
        self._is_over = True
        self._timer.cancel()
        if self._post is not None:
            self._post.cancel()
        if self._permit is not None:
            self._permit.release()

    def repeat(self) -> Question | None:
        """Cancel it and ask again for the same process, as the credentials have changed since it was asked.

        Returns None if it has been repeated too often, or if its time is over.
        """
        self.cancel()
        if not self._repeats or self._loop.clock() >= self._deadline:
            return None
        return Question(
            self._credentials, self._identity, self._done, deadline=self._deadline, repeats=self._repeats - 1
        )

    def _begin(self) -> None:
        if not self._is_over:
            self._permit = self._credentials.limiter.ask(self._send, user=self._identity.user)

    def _send(self) -> None:
        if self._is_over:
            return
        try:
            self._post = self._credentials.send(self._url_number, self._identity, self._nonce, self._read)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            # Not at once, as the permit is not known here before this returns.
            self._loop.call_soon(lambda: self._read(reason))
        else:
            if self._post is None:
                self._loop.call_soon(lambda: self._finish(_unavailable("")))

    def _read(self, answer: Answer | str) -> None:
        result = self._credentials.read(answer, self._identity, self._nonce)
        if result is None:
            self._url_number += 1
            self._send()
        else:
            self._finish(result)

    def _finish(self, result: Delivered | HttpError) -> None:
        if not self._is_over:
            self.cancel()
            self._done(result)


def _is_environment(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and name and "=" not in name and isinstance(text, str) and _can_be_passed(f"{name}{text}")
        for name, text in value.items()
    )


def _can_be_passed(text: str) -> bool:
    """Whether a process can get it: without NUL, and without half of a surrogate pair, which JSON can say."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _unavailable(retry_after: str) -> HttpError:
    is_number = retry_after.isdecimal() and len(retry_after) <= _MAX_RETRY_DIGITS
    seconds = min(int(retry_after), _MAX_RETRY_SECONDS) if is_number else RETRY_SECONDS
    return unavailable("the user's credentials cannot be had now: try again later", retry_seconds=max(1, seconds))
