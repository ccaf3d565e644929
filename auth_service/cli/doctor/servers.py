"""The MCP servers: each behind the gateway, and as a client reaches it."""

from __future__ import annotations

import re
import socket
import time
from typing import Final

import requests

from auth_service.backends import bridge_status, health
from auth_service.backends.surveys import Answer, NoBridgeError, Survey, SurveyError
from auth_service.cli import tools
from auth_service.keys.access_tokens import issue_for_grant
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.revocation import Revocation
from auth_service.ops.logs import escape
from auth_service.protocol.metadata import protected_resource_url
from auth_service.settings import Resource, Settings
from auth_service.storage.grants import Grant, new_sid
from auth_service.storage.store import Store

from .findings import LOG_COMMAND, TIMEOUT_SECONDS, CheckFailed, Status, explain
from .web import get_json

PROBE_SECONDS: Final = 60


def check_backend(result: health.Result) -> str:
    """Say what the request of the health check to a server has found."""
    if result.problem is not None:
        raise CheckFailed(
            f"{result.endpoint} {result.problem}",
            f"See its log: {LOG_COMMAND} --unit=mcp-bridge-{result.name}; a server given by its URL has its own",
        )
    return f"{result.endpoint} answers, {result.seconds:.2f} s"


def check_status(http: requests.Session, resource: Resource, endpoint: str) -> str:
    """Check that the status service answers for a bridge."""
    url = resource.status_urls[endpoint]
    try:
        status = bridge_status.ask(http, resource, endpoint, timeout=TIMEOUT_SECONDS)
    except bridge_status.UNREACHABLE as error:
        raise CheckFailed(
            f"{url}: {explain(error)}",
            "The home page shows no state of the server, and the health check wakes its bridge. See systemctl status "
            "mcp-gateway-status.socket on the host of the bridge; from other hosts, statusPort must be reachable.",
            status=Status.WARNING,
        ) from error
    return f"{url} answers: the bridge {'sleeps' if status is not None and status.asleep else 'runs'}"


def check_egress(name: str, path: str) -> str:
    """Check that the egress proxy of a server answers, and refuses a name that no list has."""
    advice = (
        "Without it the server reaches none of its sandbox.network.domains. See systemctl status "
        f"mcp-egress-{name}.socket mcp-egress-{name}.service, and {LOG_COMMAND} --unit=mcp-egress-{name}"
    )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(path)
            connection.sendall(b"CONNECT doctor.invalid:443 HTTP/1.1\r\n\r\n")
            with connection.makefile("rb") as reader:
                answer = reader.readline(100)
    except OSError as error:
        raise CheckFailed(f"{path}: {explain(error)}", advice) from error
    if not answer.startswith(b"HTTP/1.1 403 "):
        said = escape(answer.decode("latin-1").strip()) or "nothing"
        raise CheckFailed(f"{path} answers {said} to a name that no list has", advice)
    return f"{path} answers, and refuses a name that is not in sandbox.network.domains"


def check_tools(answer: Answer) -> str:
    """Say what of a server's tools its lock file hides."""
    survey = _survey_of(answer)
    if survey is None:
        return "has no bridge that could lock them"
    hidden = [each for each in survey.differences if each.hides]
    if hidden:
        raise CheckFailed(
            f"{answer.endpoint} hides {len(hidden)} tools: {tools.summary_of(survey)}",
            f"The server has changed. See mcp-gatewayctl tools diff {answer.name}; when you have reviewed it, make the "
            f"lock file again with mcp-gatewayctl tools lock {answer.name}.",
            status=Status.WARNING,
        )
    return f"{answer.endpoint}: {tools.summary_of(survey)}"


def check_rules(answer: Answer) -> str:
    """Say which rules for tools, prompts and resources match nothing that a server lists."""
    survey = _survey_of(answer)
    if survey is None:
        return "has no bridge that could hold users to any"
    if unmatched := [f"{kind} {escape(rule)}" for kind, rules in survey.unmatched_rules.items() for rule in rules]:
        raise CheckFailed(
            f"{answer.endpoint}: match nothing that the server lists: {', '.join(unmatched)}",
            "A rule that denies and is misspelled denies nothing. Correct it, or remove it.",
            status=Status.WARNING,
        )
    return f"{answer.endpoint}: all match something"


def _survey_of(answer: Answer) -> Survey | None:
    """Return what a server offers; None if it has no bridge that tells. Raises CheckFailed if the bridge cannot."""
    if isinstance(answer.survey, NoBridgeError):
        return None
    if isinstance(answer.survey, SurveyError):
        raise CheckFailed(
            f"{answer.endpoint} does not tell what the server offers: {escape(str(answer.survey))}",
            f"See the result of the check of bridge {answer.name} above.",
            status=Status.WARNING,
        )
    return answer.survey


def check_challenge(http: requests.Session, url: str) -> str:
    """Check the challenge for a client without a token, also with a slash at the end of the URL."""
    for asked in (url, url + "/"):
        answer = http.post(
            asked, json=health.INITIALIZE, headers=health.HEADERS, timeout=TIMEOUT_SECONDS, allow_redirects=False
        )
        if answer.is_redirect:
            raise CheckFailed(
                f"{asked} redirects to {answer.headers['Location']}",
                "Clients do not follow it. A proxy in front of the gateway must pass the URL on unchanged.",
            )
        if answer.status_code != 401:
            raise CheckFailed(
                f"{asked} answers {answer.status_code}, not 401",
                "404: the router has no route for it. See that it polls /routes and the host name leads to it. "
                "200: the server is open to everyone. 5xx: see the router's log.",
            )
        challenge = answer.headers.get("WWW-Authenticate", "")
        found = re.search(r'resource_metadata="([^"]*)"', challenge)
        if found is None or found[1] != protected_resource_url(url):
            raise CheckFailed(
                f"{asked} challenges with {challenge or 'nothing'}",
                "A proxy between the gateway and the internet changes WWW-Authenticate, or answers instead of it.",
            )
    return "names its metadata, with and without a slash at the end"


def check_metadata(http: requests.Session, settings: Settings, url: str) -> str:
    """Check the metadata of a server."""
    where = protected_resource_url(url)
    document = get_json(http, where)
    expected = {"resource": url, "authorization_servers": [settings.issuer]}
    for member, value in expected.items():
        if document.get(member) != value:
            raise CheckFailed(
                f"{where}: {member} is {document.get(member)}, not {value}",
                "Another program answers there, or the service runs with other settings.",
            )
    return f"{where} is right"


def check_request(
    http: requests.Session, settings: Settings, store: Store, revocation: Revocation, keys: SigningKeys, *, name: str
) -> str:
    """Make one request as an authorized client would, with a token that lives a minute."""
    now = int(time.time())
    resource = settings.resources[name]
    grant = Grant(
        sid=new_sid(),
        sub="gateway:doctor",
        name="doctor",
        client_id="mcp-gatewayctl",
        client_name="mcp-gatewayctl doctor",
        resource=resource.url,
        scope=" ".join(resource.scopes),
        redirect="",
        created_at=now,
    )
    store.grants.add(grant, lifetime=PROBE_SECONDS)
    try:
        token = issue_for_grant(keys, grant, issuer=settings.issuer, lifetime=PROBE_SECONDS, now=now)
        headers = {**health.HEADERS, "Authorization": f"Bearer {token}"}
        call = _ask_for_no_session if resource.user_credentials else _open_session
        return call(http, resource.url, headers)
    finally:
        revocation.revoke_grant(grant.sid, by="operator", reason="the examination is over")


def _ask_for_no_session(http: requests.Session, url: str, headers: dict[str, str]) -> str:
    """Make a request that starts no process, as one starts with a user's credentials only."""
    ending = {**headers, "Mcp-Session-Id": "none"}
    answer = http.delete(url, headers=ending, timeout=PROBE_SECONDS, allow_redirects=False, stream=True)
    answer.close()
    _check_status(answer, url, expected=404)
    return "an authorized request reaches the bridge; it starts no process, as each starts with a user's credentials"


def _open_session(http: requests.Session, url: str, headers: dict[str, str]) -> str:
    # Status and headers are enough. The body is the server's, and is not read.
    with http.post(
        url, json=health.INITIALIZE, headers=headers, timeout=PROBE_SECONDS, allow_redirects=False, stream=True
    ) as answer:
        session = answer.headers.get("Mcp-Session-Id")
    if session is not None:
        ending = {**headers, "Mcp-Session-Id": session}
        http.delete(url, headers=ending, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True).close()
    _check_status(answer, url, expected=200)
    return "an authorized request is answered"


def _check_status(answer: requests.Response, url: str, *, expected: int) -> None:
    """Raise CheckFailed if a server behind the gateway has answered with another status."""
    if answer.status_code == 401:
        raise CheckFailed(
            "a good token is refused: " + answer.headers.get("WWW-Authenticate", "no reason given"),
            "The service behind the router has other settings, keys or clock than this host; its audit log names "
            "the reason (verify.refused).",
        )
    if answer.status_code != expected:
        raise CheckFailed(
            f"the server answers {answer.status_code}",
            f"The gateway accepts the token, but the server fails: systemctl status 'mcp-bridge-*', {url}.",
        )
