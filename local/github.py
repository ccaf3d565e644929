"""A stand-in for GitHub on loopback: its OAuth login, and the part of its REST API that a gateway uses.

Answers and errors have GitHub's form. There is a fixed list of users and no password: the person in front of the page
chooses a user. So the stand-in must never be reachable from another machine, and refuses to listen there. Codes and
tokens are signed instead of stored, so that a restart ends no login.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import waitress
from flask import (
    Blueprint,
    Flask,
    Response,
    jsonify,
    make_response,
    redirect,
    render_template_string,
    request,
)
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException

CODE_LIFETIME = 600  # seconds, as GitHub's
SESSION_COOKIE = "stand_in_session"

CHOOSER_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in to the stand-in for GitHub</title>
<style>
  :root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
  main { max-width: 24rem; margin: 4rem auto; padding: 0 1rem; }
  button { display: block; width: 100%; margin: .5rem 0; padding: .75rem; font: inherit; text-align: left; }
</style>
<main>
  <h1>Who are you?</h1>
  <p>This is a stand-in for GitHub, on this machine only. It asks for no password.</p>
  <form method="post" action="{{ action }}">
    {% for user in users %}
    <button name="login" value="{{ user.login }}">{{ user.login }}</button>
    {% endfor %}
    <button name="login" value="">Cancel</button>
  </form>
</main>
</html>
"""


@dataclass(frozen=True)
class User:
    """One account: `organizations` are names, `teams` are `organization/team-slug`."""

    login: str
    id: int
    organizations: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """The answer of a path after `delay` seconds: the usual one if `status` is None, else this status."""

    status: int | None = 500
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0


@dataclass
class StandIn:
    """The state of the stand-in. Tests change `users` and `faults` (path → fault) while it serves."""

    client_id: str
    client_secret: str
    callback_url: str
    users: list[User]
    faults: dict[str, Fault] = field(default_factory=dict)

    def find_user(self, login: str) -> User | None:
        """Find an account by login, whose case does not matter on GitHub."""
        return next((user for user in self.users if user.login.lower() == login.lower()), None)

    def find_user_by_id(self, user_id: int) -> User | None:
        """Find an account by its id, which a rename does not change."""
        return next((user for user in self.users if user.id == user_id), None)


DEFAULT_USERS = (
    User("octocat", 583231, ("acme",), ("acme/platform",)),
    User("hubot", 480938, ("acme",)),
    User("stranger", 9999999),
)


class _ApiError(Exception):
    """An answer of the REST API in GitHub's error shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def create_app(stand_in: StandIn) -> Flask:
    """Build the WSGI application that serves the login pages and the API under one origin."""
    app = Flask(__name__)
    app.register_blueprint(_login_pages(stand_in))
    app.register_blueprint(_rest_api(stand_in))

    @app.before_request
    def apply_fault() -> Response | None:
        fault = stand_in.faults.get(request.path)
        if fault is None:
            return None
        time.sleep(fault.delay)
        if fault.status is None:
            return None
        return Response(fault.body, fault.status, dict(fault.headers))

    @app.errorhandler(_ApiError)
    def render_api_error(error: _ApiError) -> Response:
        body = {
            "message": error.message,
            "documentation_url": "https://docs.github.com/rest",
            "status": str(error.status),
        }
        return make_response(jsonify(body), error.status)

    @app.errorhandler(HTTPException)
    def render_http_error(error: HTTPException) -> Response:
        return render_api_error(_ApiError(error.code or 500, error.name))

    return app


def _login_pages(stand_in: StandIn) -> Blueprint:
    pages = Blueprint("login", __name__)
    codes = _serializer(stand_in, "code")
    sessions = _serializer(stand_in, "session")
    spent_codes: set[str] = set()

    @pages.route("/login/oauth/authorize", methods=["GET", "POST"])
    def authorize() -> Response:
        if request.args.get("client_id") != stand_in.client_id:
            raise _ApiError(404, "Not Found")
        if (problem := _authorize_problem(stand_in)) is not None:
            return _redirect_back(stand_in.callback_url, problem)
        if request.method == "POST":
            return choose(request.form.get("login", ""))
        user = None if request.args.get("prompt") == "select_account" else signed_in_user()
        if user is not None:
            return _redirect_back(_redirect_uri(stand_in), {"code": issue_code(user)})
        page = render_template_string(CHOOSER_PAGE, users=stand_in.users, action=request.full_path)
        return make_response(page)

    def choose(login: str) -> Response:
        if not login:
            denied = _oauth_error("access_denied", "The user has denied your application access.")
            return _redirect_back(_redirect_uri(stand_in), denied)
        user = _found(stand_in.find_user(login))
        answer = _redirect_back(_redirect_uri(stand_in), {"code": issue_code(user)})
        answer.set_cookie(SESSION_COOKIE, str(sessions.dumps(user.id)), httponly=True, samesite="Lax")
        return answer

    @pages.post("/login/oauth/access_token")
    def access_token() -> Response:
        answer = redeem_code()
        form = "application/x-www-form-urlencoded"  # GitHub's answer unless the request asks for JSON
        if request.accept_mimetypes.best_match([form, "application/json"]) == "application/json":
            return jsonify(answer)
        return Response(urlencode(answer), mimetype=form)

    @pages.route("/logout", methods=["GET", "POST"])
    def logout() -> Response:
        answer = make_response("Signed out.\n")
        answer.delete_cookie(SESSION_COOKIE)
        return answer

    def signed_in_user() -> User | None:
        try:
            user_id = sessions.loads(request.cookies.get(SESSION_COOKIE, ""))
        except BadSignature:
            return None
        return stand_in.find_user_by_id(user_id)

    def issue_code(user: User) -> str:
        claims = {
            "user": user.id,
            "redirect_uri": _redirect_uri(stand_in),
            "scope": request.args.get("scope", ""),
            "challenge": request.args.get("code_challenge"),
            "nonce": secrets.token_hex(8),
        }
        return str(codes.dumps(claims))

    def redeem_code() -> dict[str, str]:
        sent_id, sent_secret = request.form.get("client_id", ""), request.form.get("client_secret", "")
        if sent_id != stand_in.client_id or not hmac.compare_digest(
            sent_secret.encode(), stand_in.client_secret.encode()
        ):
            return _oauth_error("incorrect_client_credentials", "The client_id and/or client_secret is incorrect.")
        code = request.form.get("code", "")
        try:
            claims = codes.loads(code, max_age=CODE_LIFETIME)
        except BadSignature:
            claims = None
        if claims is None or code in spent_codes or not _proves(claims["challenge"]):
            return _oauth_error("bad_verification_code", "The code passed is incorrect or expired.")
        if request.form.get("redirect_uri", claims["redirect_uri"]) != claims["redirect_uri"]:
            return _oauth_error("redirect_uri_mismatch", "The redirect_uri does not belong to the application.")
        spent_codes.add(code)
        token = _serializer(stand_in, "token").dumps(
            {"user": claims["user"], "scope": claims["scope"], "nonce": secrets.token_hex(8)}
        )
        scope = ",".join(claims["scope"].replace(",", " ").split())
        return {"access_token": f"gho_{token}", "scope": scope, "token_type": "bearer"}

    return pages


def _rest_api(stand_in: StandIn) -> Blueprint:
    api = Blueprint("api", __name__)

    @api.get("/user")
    def current_user() -> Response:
        user, _ = _authenticate(stand_in)
        return jsonify(_describe_user(user))

    @api.get("/user/<int:user_id>")
    def user_by_id(user_id: int) -> Response:
        return jsonify(_describe_user(_found(stand_in.find_user_by_id(user_id))))

    @api.get("/users/<login>")
    def user_by_login(login: str) -> Response:
        return jsonify(_describe_user(_found(stand_in.find_user(login))))

    @api.get("/user/orgs")
    def organizations() -> Response:
        user = _authenticate_for(stand_in, {"read:org", "user"})
        return _page([_describe_organization(name) for name in user.organizations])

    @api.get("/user/teams")
    def teams() -> Response:
        user = _authenticate_for(stand_in, {"read:org", "user"})
        return _page([_describe_team(name) for name in user.teams])

    @api.get("/user/memberships/orgs/<organization>")
    def own_membership(organization: str) -> Response:
        user = _authenticate_for(stand_in, {"read:org"})
        if not _contains(user.organizations, organization):
            raise _ApiError(404, "Not Found")
        body = {"state": "active", "role": "member", "organization": _describe_organization(organization)}
        return jsonify(body | {"user": _describe_user(user)})

    @api.get("/orgs/<organization>/members/<login>")
    def member(organization: str, login: str) -> Response:
        _authenticate_for(stand_in, {"read:org"})
        if not _contains(_found(stand_in.find_user(login)).organizations, organization):
            raise _ApiError(404, "Not Found")
        return Response(status=204)

    @api.get("/orgs/<organization>/teams/<slug>/memberships/<login>")
    def team_membership(organization: str, slug: str, login: str) -> Response:
        viewer = _authenticate_for(stand_in, {"read:org"})
        member = _found(stand_in.find_user(login))
        # GitHub hides the teams of an organization from all others.
        if not _contains(viewer.organizations, organization):
            raise _ApiError(404, "Not Found")
        if not _contains(member.teams, f"{organization}/{slug}"):
            raise _ApiError(404, "Not Found")
        return jsonify({"state": "active", "role": "member", "url": request.base_url})

    return api


def _serializer(stand_in: StandIn, purpose: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(stand_in.client_secret, salt=f"stand-in-github.{purpose}")


def _authorize_problem(stand_in: StandIn) -> dict[str, str] | None:
    """Return what is wrong with an authorization request of a known client."""
    wanted, registered = urlsplit(_redirect_uri(stand_in)), urlsplit(stand_in.callback_url)
    if (wanted.scheme, wanted.netloc) != (registered.scheme, registered.netloc) or not (
        wanted.path == registered.path or wanted.path.startswith(registered.path.rstrip("/") + "/")
    ):
        return _oauth_error("redirect_uri_mismatch", "The redirect_uri does not belong to the application.")
    method = request.args.get("code_challenge_method")
    if "code_challenge" in request.args and method != "S256":
        return _oauth_error("invalid_request", "Only S256 is supported as code_challenge_method.")
    return None


def _redirect_uri(stand_in: StandIn) -> str:
    return request.args.get("redirect_uri", stand_in.callback_url)


def _redirect_back(uri: str, parameters: dict[str, str]) -> Response:
    if "state" in request.args:
        parameters = parameters | {"state": request.args["state"]}
    separator = "&" if urlsplit(uri).query else "?"
    return make_response(redirect(f"{uri}{separator}{urlencode(parameters)}"))


def _oauth_error(error: str, description: str) -> dict[str, str]:
    return {"error": error, "error_description": description}


def _proves(challenge: str | None) -> bool:
    """Whether the code verifier matches the code challenge (RFC 7636 §4.6); true without a code challenge."""
    if challenge is None:
        return True
    digest = hashlib.sha256(request.form.get("code_verifier", "").encode()).digest()
    return hmac.compare_digest(urlsafe_b64encode(digest).rstrip(b"="), challenge.encode())


def _authenticate(stand_in: StandIn) -> tuple[User, set[str]]:
    """Return the user and scopes of the token. Raises _ApiError 401, as GitHub answers."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() not in {"bearer", "token"}:
        raise _ApiError(401, "Requires authentication")
    try:
        claims = _serializer(stand_in, "token").loads(token.removeprefix("gho_"))
    except BadSignature:
        raise _ApiError(401, "Bad credentials") from None
    user = stand_in.find_user_by_id(claims["user"])
    if user is None:
        raise _ApiError(401, "Bad credentials")
    return user, set(claims["scope"].replace(",", " ").split())


def _authenticate_for(stand_in: StandIn, any_of: set[str]) -> User:
    user, scopes = _authenticate(stand_in)
    if not scopes & any_of:
        raise _ApiError(403, f"You need at least {' or '.join(sorted(any_of))} scope to do this.")
    return user


def _found(user: User | None) -> User:
    if user is None:
        raise _ApiError(404, "Not Found")
    return user


def _contains(names: Sequence[str], name: str) -> bool:
    return name.lower() in (each.lower() for each in names)


def _describe_user(user: User) -> dict[str, object]:
    return {"login": user.login, "id": user.id, "type": "User", "name": user.login.title(), "email": None}


def _describe_organization(name: str) -> dict[str, object]:
    return {"login": name, "id": _stable_id(name)}


def _describe_team(name: str) -> dict[str, object]:
    organization, _, slug = name.partition("/")
    return {
        "id": _stable_id(name),
        "slug": slug,
        "name": slug.title(),
        "organization": _describe_organization(organization),
    }


def _stable_id(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.lower().encode()).digest()[:4])


def _page(items: list[dict[str, object]]) -> Response:
    """Answer one page of a list with GitHub's `Link` header."""
    size = min(max(request.args.get("per_page", 30, int), 1), 100)
    number = max(request.args.get("page", 1, int), 1)
    answer = jsonify(items[(number - 1) * size : number * size])
    if number * size < len(items):
        query = urlencode({"per_page": size, "page": number + 1})
        answer.headers["Link"] = f'<{request.base_url}?{query}>; rel="next"'
    return answer


def parse_user(text: str) -> User:
    """Parse `LOGIN:ID[:ORG,ORG/TEAM…]`; membership in a team is membership in its organization.

    Raises ValueError.
    """
    login, _, rest = text.partition(":")
    user_id, _, memberships = rest.partition(":")
    if not login or not user_id.isdecimal():
        raise ValueError(f"{text!r} is not LOGIN:ID[:ORG,ORG/TEAM…]")
    names = tuple(name for name in memberships.split(",") if name)
    organizations = tuple(dict.fromkeys(name.partition("/")[0] for name in names))
    return User(login, int(user_id), organizations, tuple(name for name in names if "/" in name))


def parse_loopback_address(text: str) -> tuple[str, int]:
    """Parse `HOST:PORT` with a loopback address as the host. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError(f"{host} is not a loopback address: without passwords, no other machine may log in here")
    return host.strip("[]"), int(port)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m local.github`; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local.github", description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="a loopback address")
    parser.add_argument("--client-id", required=True, help="of the one application that may ask for logins")
    parser.add_argument("--client-secret-file", required=True, type=Path)
    parser.add_argument("--callback-url", required=True, help="the application's registered callback")
    parser.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="LOGIN:ID[:ORG,ORG/TEAM…]",
        help="an account, repeatable (default: octocat, hubot and stranger)",
    )
    options = parser.parse_args(arguments)
    try:
        host, port = parse_loopback_address(options.listen)
        users = [parse_user(text) for text in options.user] or list(DEFAULT_USERS)
        secret = options.client_secret_file.read_text().strip()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"stand-in GitHub: {error}\n")
        return 2
    sys.stderr.write(f"stand-in GitHub listens on http://{options.listen}\n")
    stand_in = StandIn(options.client_id, secret, options.callback_url, users)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a short wait of a task is no warning
    waitress.create_server(create_app(stand_in), sockets=[listener]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
