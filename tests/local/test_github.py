"""The stand-in answers as GitHub does, errors included."""

from __future__ import annotations

import hashlib
import socket
from base64 import urlsafe_b64encode
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from local.github import (
    DEFAULT_USERS,
    Fault,
    StandIn,
    User,
    create_app,
    main,
    parse_loopback_address,
    parse_user,
)

CALLBACK = "http://localhost:8080/callback"


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn("app", "app-secret", CALLBACK, list(DEFAULT_USERS))


@pytest.fixture
def github(stand_in: StandIn) -> FlaskClient:
    return create_app(stand_in).test_client()


def authorize(github: FlaskClient, login: str = "octocat", **parameters: str) -> dict[str, str]:
    """Log in on the page and return the parameters that arrive at the callback."""
    query = {"client_id": "app", "redirect_uri": CALLBACK, "state": "s&=1"} | parameters
    page = github.get("/login/oauth/authorize", query_string=query)
    assert page.status_code == 200
    answer = github.post("/login/oauth/authorize", query_string=query, data={"login": login})
    return arrived_at_callback(answer)


def arrived_at_callback(answer: TestResponse) -> dict[str, str]:
    assert answer.status_code == 302
    assert answer.location.startswith(CALLBACK + "?")
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.location).query).items()}


def redeem(github: FlaskClient, code: str, **parameters: str) -> dict[str, str]:
    form = {"client_id": "app", "client_secret": "app-secret", "code": code, "redirect_uri": CALLBACK}
    answer = github.post("/login/oauth/access_token", data=form | parameters, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    body = answer.get_json()
    assert isinstance(body, dict)
    return body


def log_in(github: FlaskClient, login: str = "octocat", scope: str = "") -> dict[str, str]:
    """Return the headers of requests made as that user."""
    token = redeem(github, authorize(github, login, scope=scope)["code"])["access_token"]
    github.delete_cookie("stand_in_session")
    return {"Authorization": f"Bearer {token}"}


def test_a_login_ends_at_the_callback_with_the_state_and_a_code_for_a_token(github: FlaskClient) -> None:
    arrived = authorize(github)
    assert arrived["state"] == "s&=1"
    token = redeem(github, arrived["code"])
    assert token["token_type"] == "bearer"
    user = github.get("/user", headers={"Authorization": f"token {token['access_token']}"}).get_json()
    assert (user["login"], user["id"]) == ("octocat", 583231)


def test_the_token_endpoint_answers_a_form_unless_json_is_asked_for(github: FlaskClient) -> None:
    answer = github.post("/login/oauth/access_token", data={"client_id": "app", "client_secret": "wrong"})
    assert answer.mimetype == "application/x-www-form-urlencoded"
    assert parse_qs(answer.text)["error"] == ["incorrect_client_credentials"]


def test_a_repeated_login_skips_the_page(github: FlaskClient) -> None:
    authorize(github)
    query = {"client_id": "app", "redirect_uri": CALLBACK}
    assert "code" in arrived_at_callback(github.get("/login/oauth/authorize", query_string=query))
    chooser = github.get("/login/oauth/authorize", query_string=query | {"prompt": "select_account"})
    assert chooser.status_code == 200


def test_signing_out_brings_the_page_back(github: FlaskClient) -> None:
    authorize(github)
    github.get("/logout")
    assert github.get("/login/oauth/authorize", query_string={"client_id": "app"}).status_code == 200


def test_cancelling_ends_at_the_callback_with_access_denied(github: FlaskClient) -> None:
    assert authorize(github, login="")["error"] == "access_denied"


def test_an_unknown_application_is_not_found(github: FlaskClient) -> None:
    assert github.get("/login/oauth/authorize?client_id=other").status_code == 404


@pytest.mark.parametrize(
    "uri", ["http://localhost.evil.example/callback", "https://localhost:8080/callback", CALLBACK + "2"]
)
def test_a_foreign_redirect_goes_to_the_registered_callback_with_an_error(github: FlaskClient, uri: str) -> None:
    answer = github.get(f"/login/oauth/authorize?client_id=app&redirect_uri={uri}")
    assert arrived_at_callback(answer)["error"] == "redirect_uri_mismatch"


def test_a_code_works_once(github: FlaskClient) -> None:
    code = authorize(github)["code"]
    assert "access_token" in redeem(github, code)
    assert redeem(github, code)["error"] == "bad_verification_code"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code": "forged"}, "bad_verification_code"),
        ({"redirect_uri": CALLBACK + "/other"}, "redirect_uri_mismatch"),
        ({"client_secret": "wrong"}, "incorrect_client_credentials"),
        ({"client_id": "other"}, "incorrect_client_credentials"),
    ],
)
def test_a_code_is_refused_with_anything_wrong(github: FlaskClient, wrong: dict[str, str], error: str) -> None:
    assert redeem(github, **({"code": authorize(github)["code"]} | wrong))["error"] == error


def test_pkce_is_enforced_where_it_was_asked_for(github: FlaskClient) -> None:
    verifier = "v" * 43
    challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {"code_challenge": challenge, "code_challenge_method": "S256"}
    code = authorize(github, **asked)["code"]
    assert redeem(github, code)["error"] == "bad_verification_code"
    assert redeem(github, code, code_verifier="w" * 43)["error"] == "bad_verification_code"
    assert "access_token" in redeem(github, code, code_verifier=verifier)


def test_a_plain_challenge_is_refused(github: FlaskClient) -> None:
    answer = github.get("/login/oauth/authorize?client_id=app&code_challenge=x&code_challenge_method=plain")
    assert arrived_at_callback(answer)["error"] == "invalid_request"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer gho_forged"}, {"Authorization": "Basic x"}])
def test_the_api_wants_a_token(github: FlaskClient, header: dict[str, str]) -> None:
    answer = github.get("/user", headers=header)
    assert answer.status_code == 401
    assert set(answer.get_json()) == {"message", "documentation_url", "status"}


def test_a_token_survives_a_restart(github: FlaskClient, stand_in: StandIn) -> None:
    headers = log_in(github)
    assert create_app(stand_in).test_client().get("/user", headers=headers).status_code == 200


def test_a_renamed_user_keeps_the_id(github: FlaskClient, stand_in: StandIn) -> None:
    headers = log_in(github)
    stand_in.users[0] = User("monalisa", 583231)
    assert github.get("/user", headers=headers).get_json()["login"] == "monalisa"
    assert github.get("/users/octocat").status_code == 404
    assert github.get("/user/583231").get_json()["login"] == "monalisa"


def test_memberships_are_told_to_who_may_read_them(github: FlaskClient) -> None:
    without_scope, insider = log_in(github), log_in(github, scope="read:user read:org")
    assert github.get("/user/orgs", headers=without_scope).status_code == 403
    assert [each["login"] for each in github.get("/user/orgs", headers=insider).get_json()] == ["acme"]
    assert [each["slug"] for each in github.get("/user/teams", headers=insider).get_json()] == ["platform"]
    membership = github.get("/user/memberships/orgs/ACME", headers=insider).get_json()
    assert membership["state"] == "active"
    assert github.get("/user/memberships/orgs/other", headers=insider).status_code == 404


@pytest.mark.parametrize(
    ("viewer", "path", "status"),
    [
        ("octocat", "/orgs/acme/members/hubot", 204),
        ("octocat", "/orgs/acme/members/stranger", 404),
        ("octocat", "/orgs/acme/teams/platform/memberships/octocat", 200),
        ("octocat", "/orgs/acme/teams/platform/memberships/hubot", 404),
        ("stranger", "/orgs/acme/teams/platform/memberships/octocat", 404),
    ],
)
def test_membership_of_others_is_answered_as_github_does(
    github: FlaskClient, viewer: str, path: str, status: int
) -> None:
    assert github.get(path, headers=log_in(github, viewer, scope="read:org")).status_code == status


def test_lists_come_in_pages(github: FlaskClient, stand_in: StandIn) -> None:
    stand_in.users.append(User("busy", 7, tuple(f"org-{number}" for number in range(3))))
    headers = log_in(github, "busy", scope="read:org")
    first = github.get("/user/orgs?per_page=2", headers=headers)
    assert len(first.get_json()) == 2
    assert first.headers["Link"] == '<http://localhost/user/orgs?per_page=2&page=2>; rel="next"'
    last = github.get("/user/orgs?per_page=2&page=2", headers=headers)
    assert [each["login"] for each in last.get_json()] == ["org-2"]
    assert "Link" not in last.headers


def test_a_fault_replaces_the_answer_of_its_path_only(github: FlaskClient, stand_in: StandIn) -> None:
    headers = log_in(github)
    stand_in.faults["/user"] = Fault(status=502, body="<html>", headers={"Retry-After": "1"})
    broken = github.get("/user", headers=headers)
    assert (broken.status_code, broken.text, broken.headers["Retry-After"]) == (502, "<html>", "1")
    assert github.get("/users/octocat").status_code == 200
    stand_in.faults["/user"] = Fault(status=None, delay=0.001)
    assert github.get("/user", headers=headers).status_code == 200


def test_users_are_given_with_their_memberships() -> None:
    assert parse_user("mona:1:acme,initech/ops") == User("mona", 1, ("acme", "initech"), ("initech/ops",))
    for wrong in ("mona", "mona:x", ":1"):
        with pytest.raises(ValueError, match="LOGIN:ID"):
            parse_user(wrong)


def test_only_loopback_is_listened_on() -> None:
    assert parse_loopback_address("[::1]:80") == ("::1", 80)
    for wrong in ("0.0.0.0:80", "192.0.2.1:80", "github.com:80", "8080"):
        with pytest.raises(ValueError, match=r"loopback|IPv4"):
            parse_loopback_address(wrong)


def test_what_cannot_start_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    arguments = ["--client-id=app", f"--client-secret-file={secret}", f"--callback-url={CALLBACK}"]
    assert main([*arguments, "--listen=127.0.0.1:0"]) == 2
    assert str(secret) in capsys.readouterr().err
    secret.write_text("s")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments, f"--listen=127.0.0.1:{taken.getsockname()[1]}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
