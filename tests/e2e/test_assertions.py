"""Workloads and enterprise-managed clients, through the real router: from an assertion to a tool's answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from mcp import ClientSession
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from auth_service.oauth.issuer_keys import DISCOVERY_PATH
from auth_service.protocol.clients import ID_JAG_PROFILE
from tests.service.conftest import eventually

from .conftest import RunningStack
from .test_clients import MemoryStorage

CI = "https://token.actions.githubusercontent.com"
SUBJECT = "repo:acme/app:ref:refs/heads/main"
SECRET = "s" * 40
KEY = ec.generate_private_key(ec.SECP256R1())
JWKS = {"keys": [{**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "1"}]}


def sign(claims: dict[str, Any], *, typ: str) -> str:
    now = int(time.time())
    usual = {"iat": now, "exp": now + 300, "jti": str(uuid.uuid4())}
    return jwt.encode(usual | claims, KEY, "ES256", headers={"kid": "1", "typ": typ})


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The issuer of an OpenID Connect provider, which publishes its keys and nothing else."""

    @Request.application
    def answer(request: Request) -> Response:
        url = request.host_url.rstrip("/")
        endpoints = {name: f"{url}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        documents: dict[str, Any] = {DISCOVERY_PATH: {"issuer": url, **endpoints}, "/jwks_uri": JWKS}
        return Response(json.dumps(documents[request.path]), mimetype="application/json")

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, provider: str) -> Iterator[RunningStack]:
    """A stack whose users log in at that provider, and which trusts the jobs of a repository."""
    folder = tmp_path_factory.mktemp("assertions")
    (folder / "credentials").mkdir(mode=0o700)
    (folder / "credentials/declared-client.desktop").write_text(SECRET)
    running = RunningStack(folder)
    try:
        running.wait_until_healthy()
        document = json.loads((folder / "settings.json").read_text())
        document["identity_provider"] = {"type": "oidc", "issuer": provider, "client_id": "gateway"}
        document["allowed"] = {"users": ["alice"]}
        document["declared_clients"] = {"desktop": {"secret": True, "user_assertions": True}}
        document["trusted_issuers"] = {
            "github-actions": {
                "issuer": CI,
                "audience": running.issuer,
                "subjects": [SUBJECT],
                "jwks": JWKS,
                "servers": ["time"],
            }
        }
        former = {worker.pid for worker in running.auth_service().children()}
        running.load(json.dumps(document))
        eventually(lambda: not former & {worker.pid for worker in running.auth_service().children()})
        eventually(lambda: "authorization_grant_profiles_supported" in metadata(running))
        yield running
    finally:
        running.stop()


def metadata(stack: RunningStack) -> dict[str, Any]:
    answer = requests.get(f"{stack.issuer}/.well-known/oauth-authorization-server", timeout=60)
    return dict(answer.json()) if answer.status_code == 200 else {}


def call_time(url: str, **http_options: Any) -> str:
    """Call a tool with the Python SDK, and return its answer."""

    async def run() -> str:
        async with (
            httpx2.AsyncClient(timeout=60, **http_options) as http,
            streamable_http_client(url, http_client=http) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            await session.initialize()
            return str((await session.call_tool("get_current_time", {"timezone": "Europe/Berlin"})).content)

    return asyncio.run(run())


def test_the_python_sdk_calls_a_tool_for_a_user_for_whom_the_provider_vouches(
    stack: RunningStack, provider: str
) -> None:
    asked = []

    async def obtain(audience: str, resource: str) -> str:
        asked.append((audience, resource))
        claims = {"iss": provider, "sub": "42", "aud": audience, "resource": resource, "client_id": "desktop"}
        return sign(claims | {"preferred_username": "alice"}, typ="oauth-id-jag+jwt")

    storage, url = MemoryStorage(), stack.resource("time")
    auth = IdentityAssertionOAuthProvider(url, storage, "desktop", SECRET, stack.issuer, obtain)
    assert metadata(stack)["authorization_grant_profiles_supported"] == [ID_JAG_PROFILE]
    assert "Europe/Berlin" in call_time(url, auth=auth)
    assert asked == [(stack.issuer, url)]
    assert storage.tokens is not None
    assert storage.tokens.refresh_token is None


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_job_calls_a_tool_with_the_commands_of_the_manual(stack: RunningStack, tmp_path: Path) -> None:
    job_token = tmp_path / "job-token"
    job_token.write_text(sign({"iss": CI, "aud": stack.issuer, "sub": SUBJECT}, typ="JWT"))
    exchange = [
        *("curl", "-sSf", f"{stack.issuer}/token", "--data-urlencode", f"assertion@{job_token}"),
        *("-d", "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer"),
    ]
    manual = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert "--data-urlencode assertion@job-token" in manual
    assert exchange[-1] in manual
    answer = json.loads(subprocess.run(exchange, capture_output=True, check=True, timeout=60).stdout)
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    assert "Europe/Berlin" in call_time(stack.resource("time"), headers=headers)
    again = subprocess.run(exchange, capture_output=True, check=False, timeout=60)
    assert again.returncode != 0, "a job's token works once"
