"""A client with a key of its own that takes nothing on trust: npm `oauth4webapi`, over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from werkzeug.serving import make_server

from auth_service.oauth.safe_fetch import SafeFetcher
from tests.internet import Internet, internet, respond_json
from tests.peers import NODE, NPM_FOLDER

from .conftest import ISSUER, REDIRECT, RESOURCE, VERIFIER, OAuthTestClient

HOST = "client.example.com"
DOCUMENT_URL = f"https://{HOST}/client.json"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, HOST) as made:
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher()


@pytest.fixture
def base(oauth: OAuthTestClient) -> Iterator[str]:
    """Where the service listens."""
    server = make_server("127.0.0.1", 0, oauth.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(60)
    server.server_close()


def run(oauth: OAuthTestClient, base: str, client_id: str, key: dict[str, Any]) -> dict[str, Any]:
    if not (NPM_FOLDER / "node_modules" / "oauth4webapi").exists():
        pytest.skip("npm package oauth4webapi is not installed: run `make test`, with Node.js and npm")
    callback = oauth.follow(oauth.log_in(oauth.decide(oauth.authorize(client_id)))).location
    known = {
        "issuer": ISSUER,
        "base": base,
        "clientId": client_id,
        "key": key,
        "callback": callback,
        "redirectUri": REDIRECT,
        "verifier": VERIFIER,
        "resource": RESOURCE,
    }
    done = subprocess.run(
        [str(NODE), "--no-warnings", str(Path(__file__).parent / "strict_client.cjs")],
        input=json.dumps(known),
        env={"NODE_PATH": str(NPM_FOLDER / "node_modules"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(result: dict[str, Any], client_id: str) -> None:
    assert result["issued"]["access_token"] != result["refreshed"]["access_token"]
    about = result["before"]
    assert (about["active"], about["client_id"], about["aud"]) == (True, client_id, RESOURCE)
    assert result["after"] == {"active": False}


def test_a_client_known_by_its_document_completes_a_login(oauth: OAuthTestClient, net: Internet, base: str) -> None:
    public = {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "1", "alg": "RS256", "use": "sig"}
    net.pages["/jwks.json"] = respond_json({"keys": [public]})
    net.pages["/client.json"] = respond_json(
        {
            "client_id": DOCUMENT_URL,
            "client_name": "Strict",
            "redirect_uris": [REDIRECT],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "RS256",
            "jwks_uri": f"https://{HOST}/jwks.json",
        }
    )
    private = {**RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True), "kid": "1", "alg": "RS256"}
    del private["key_ops"]
    check(run(oauth, base, DOCUMENT_URL, private), DOCUMENT_URL)


def test_a_registered_client_completes_a_login(oauth: OAuthTestClient, base: str) -> None:
    public = {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "k", "alg": "ES256"}
    client_id = oauth.register(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [public]})["client_id"]
    private = {**ECAlgorithm.to_jwk(EC_KEY, as_dict=True), "kid": "k", "alg": "ES256"}
    check(run(oauth, base, client_id, private), client_id)
