"""A stand-in for a service at which users connect their accounts, which behaves as one of several real ones does.

- `standard`: as the RFCs say, with refresh tokens that are replaced at each use; a reused one ends all of them.
- `github`: a GitHub OAuth App. Errors come with status 200, tokens have no end, and answers are forms unless JSON is
  asked for.
- `google`: a refresh token only for `access_type=offline`, which is not replaced; `iss` in the answer.
- `slack`: `ok` in each answer, errors with status 200, `token_type` says whose token it is.

Its errors quote what was sent, as some services' do.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

from flask import Flask, Response, jsonify, make_response, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

ORIGIN = "https://drive.example.com"
CLIENT_ID = "gateway"
CLIENT_SECRET = "s3cret of the/application"


@dataclass
class StandIn:
    """What the service knows."""

    dialect: str = "standard"
    auth_method: str = "client_secret_basic"
    redirect_uris: list[str] = field(default_factory=list)
    origin: str = ORIGIN
    expires_in: object = 3600
    account: str = "ada"
    """The account that is signed in in the browser."""
    on_token: Callable[[], ResponseReturnValue | None] = lambda: None
    """Called at each request for tokens; what it returns is the answer."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    access_tokens: dict[str, str] = field(default_factory=dict)
    """The account of each."""
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    used_refresh_tokens: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The path and the form of each request of the gateway."""
    _numbers: Any = field(default_factory=itertools.count)
    _lock: Any = field(default_factory=threading.Lock)

    def make(self, kind: str) -> str:
        """Return a new secret of the service."""
        return f"{kind}-{next(self._numbers)}-of-{self.account}"

    def approve(self, url: str) -> str:
        """Let the user allow what the gateway asks for; return where the browser is sent."""
        with create_app(self).test_client() as browser:
            answer = browser.get(url.removeprefix(self.origin))
        assert answer.status_code == 302, answer.text
        return answer.location


def create_app(stand_in: StandIn) -> Flask:
    """Return the service."""
    app = Flask(__name__)

    @app.get("/authorize")
    def authorize() -> ResponseReturnValue:
        asked = request.args
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") not in stand_in.redirect_uris:
            return f"redirect_uri_mismatch: {asked.get('redirect_uri')}", 400
        answer = {"state": asked["state"]}
        if stand_in.dialect in {"standard", "google"}:
            answer["iss"] = stand_in.origin
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            return _back(asked, answer | {"error": "invalid_request"})
        code = stand_in.make("code")
        stand_in.codes[code] = asked.to_dict() | {"account": stand_in.account}
        return _back(asked, answer | {"code": code})

    @app.post("/token")
    def token() -> ResponseReturnValue:
        with stand_in._lock:
            stand_in.requests.append(("/token", request.form.to_dict()))
        if (answer := stand_in.on_token()) is not None:
            return answer
        if not _authenticates(stand_in):
            return _error(stand_in, "invalid_client", "incorrect_client_credentials", "bad_client_secret", status=401)
        with stand_in._lock:
            if request.form.get("grant_type") == "refresh_token":
                return _refresh(stand_in)
            return _redeem(stand_in)

    @app.post("/revoke")
    def revoke() -> ResponseReturnValue:
        stand_in.requests.append(("/revoke", request.form.to_dict()))
        if not _authenticates(stand_in):
            return jsonify(error="invalid_client"), 401
        with stand_in._lock:
            for kept in (stand_in.access_tokens, stand_in.refresh_tokens):
                kept.pop(request.form["token"], None)
        return "", 200

    return app


def _back(asked: MultiDict[str, str], answer: dict[str, str]) -> ResponseReturnValue:
    return redirect(f"{asked['redirect_uri']}?{urlencode(answer)}")


def _authenticates(stand_in: StandIn) -> bool:
    form, basic = request.form, request.authorization
    if stand_in.auth_method == "none":
        return basic is None and form.get("client_id") == CLIENT_ID and "client_secret" not in form
    if stand_in.auth_method == "client_secret_post":
        return basic is None and (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
    if basic is None or basic.username is None or basic.password is None or "client_secret" in form:
        return False
    return (unquote_plus(basic.username), unquote_plus(basic.password)) == (CLIENT_ID, CLIENT_SECRET)


def _redeem(stand_in: StandIn) -> ResponseReturnValue:
    asked = stand_in.codes.pop(request.form.get("code", ""), None)
    verifier = request.form.get("code_verifier", "")
    digest = hashlib.sha256(verifier.encode()).digest()
    if (
        asked is None
        or request.form.get("redirect_uri") != asked["redirect_uri"]
        or base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]
    ):
        return _error(stand_in, "invalid_grant", "bad_verification_code", "invalid_code")
    has_refresh_token = stand_in.dialect in {"standard", "slack"} or (
        stand_in.dialect == "google" and asked.get("access_type") == "offline"
    )
    return _issue(stand_in, asked["account"], has_refresh_token=has_refresh_token)


def _refresh(stand_in: StandIn) -> ResponseReturnValue:
    sent = request.form.get("refresh_token", "")
    if (account := stand_in.used_refresh_tokens.get(sent)) is not None:
        for kept in (stand_in.refresh_tokens, stand_in.access_tokens):
            for each in [token for token, owner in kept.items() if owner == account]:
                del kept[each]
    account = stand_in.refresh_tokens.get(sent)
    if account is None:
        return _error(stand_in, "invalid_grant", "bad_refresh_token", "invalid_refresh_token")
    if stand_in.dialect == "google":
        return _issue(stand_in, account, has_refresh_token=False)
    stand_in.used_refresh_tokens[sent] = stand_in.refresh_tokens.pop(sent)
    return _issue(stand_in, account, has_refresh_token=True)


def _issue(stand_in: StandIn, account: str, *, has_refresh_token: bool) -> ResponseReturnValue:
    access_token = stand_in.make("access")
    stand_in.access_tokens[access_token] = account
    answer: dict[str, object] = {"access_token": access_token, "token_type": "Bearer"}
    if has_refresh_token:
        refresh_token = stand_in.make("refresh")
        stand_in.refresh_tokens[refresh_token] = account
        answer["refresh_token"] = refresh_token
    if stand_in.dialect != "github" and stand_in.expires_in is not None:
        answer["expires_in"] = stand_in.expires_in
    if stand_in.dialect == "slack":
        answer |= {"ok": True, "token_type": "bot", "authed_user": {"id": "U1"}}
    return _respond(stand_in, answer)


def _error(stand_in: StandIn, standard: str, github: str, slack: str, *, status: int = 400) -> ResponseReturnValue:
    quoted = f"this was sent: {request.form.to_dict()}"
    match stand_in.dialect:
        case "github":
            return _respond(stand_in, {"error": github, "error_description": quoted})
        case "slack":
            return jsonify(ok=False, error=slack, needed=quoted)
        case _:
            return jsonify(error=standard, error_description=quoted), status


def _respond(stand_in: StandIn, answer: dict[str, object]) -> Response:
    if stand_in.dialect == "github" and request.headers.get("Accept") != "application/json":
        response = make_response(urlencode(answer))
        response.content_type = "application/x-www-form-urlencoded; charset=utf-8"
        return response
    return jsonify(answer)


def query_of(url: str) -> dict[str, str]:
    """Return the parameters of a URL, each of which is there once."""
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}
