"""Ways to send a request's body without saying how long it is, and every endpoint that takes one."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter

from tests.browser import Browser, Form
from tests.e2e.flow import REDIRECT_URI
from tests.peers import NODE

PIECE_BYTES = 7
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class Chunked(HTTPAdapter):
    """Sends each body in small chunks (RFC 9112 §7.1)."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request and return the answer."""
        if isinstance(body := request.body, str | bytes):
            data = body.encode() if isinstance(body, str) else body
            request.body = (data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))  # type: ignore[assignment]
            del request.headers["Content-Length"]
            request.headers["Transfer-Encoding"] = "chunked"
        return super().send(request, *args, **options)


class OverHttp2(HTTPAdapter):
    """Sends each request to a port of `http2_proxy`, in the name of the server behind it."""

    def __init__(self, proxy_port: int) -> None:
        self._proxy_port = proxy_port
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request and return the answer."""
        url = request.url or ""
        authority = urlsplit(url).netloc
        request.headers["Host"] = authority
        request.url = url.replace(authority, f"127.0.0.1:{self._proxy_port}", 1)
        response = super().send(request, *args, **options)
        request.url = response.url = url
        return response


@contextmanager
def http2_proxy(port: int) -> Iterator[OverHttp2]:
    """Run a proxy that speaks HTTP/2 to this port."""
    command = [str(NODE), str(Path(__file__).with_name("http2_proxy.cjs")), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield OverHttp2(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def walk_through(issuer: str, resource: str, adapter: HTTPAdapter) -> None:
    """Send a valid body to every endpoint that takes one, and check that each was read."""
    browser = Browser()
    browser.session.mount(issuer, adapter)

    def form(path: str, **values: str) -> dict[str, Any]:
        answer = browser.session.post(f"{issuer}{path}", data=values, timeout=60)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    metadata = {
        "redirect_uris": [REDIRECT_URI],
        "token_endpoint_auth_method": "client_secret_post",
        "grant_types": ["authorization_code", "refresh_token"],
    }
    answer = browser.session.post(f"{issuer}/register", json=metadata, timeout=60)
    assert answer.status_code == 201, answer.text
    client = answer.json()
    answer = browser.session.put(
        client["registration_client_uri"],
        json={**metadata, "client_id": client["client_id"], "client_name": "Renamed"},
        headers={"Authorization": f"Bearer {client['registration_access_token']}"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["client_name"]) == (200, "Renamed"), answer.text
    proof = {"client_id": client["client_id"], "client_secret": client["client_secret"]}

    query = urlencode(
        {
            "response_type": "code",
            "client_id": client["client_id"],
            "redirect_uri": REDIRECT_URI,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": resource,
        }
    )
    target = browser.open(f"{issuer}/authorize?{query}", stop_at=REDIRECT_URI)
    assert isinstance(target, str), target.text
    code = parse_qs(urlsplit(target).query)["code"][0]
    tokens = form("/token", grant_type="authorization_code", code=code, code_verifier=VERIFIER, **proof)
    tokens = form("/token", grant_type="refresh_token", refresh_token=tokens["refresh_token"], **proof)
    assert form("/introspect", token=tokens["access_token"], **proof)["active"]
    form("/revoke", token=tokens["refresh_token"], **proof)
    assert form("/introspect", token=tokens["access_token"], **proof) == {"active": False}

    page = Form(browser.session.get(f"{issuer}/account", timeout=60).text)
    answer = browser.session.post(page.action or "", data=page.fields | {"action": "sign-out"}, timeout=60)
    assert answer.url.endswith("?notice=signed-out"), answer.text
