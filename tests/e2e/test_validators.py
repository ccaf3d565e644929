"""Programs that validate authorization servers find no fault."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from local.ports import free_port
from tests.browser import Browser
from tests.e2e.conftest import RunningStack
from tests.e2e.flow import REDIRECT_URI
from tests.peers import NODE, NPM_FOLDER, npm_command

SECONDS = 60


@pytest.mark.parametrize("method", ["none", "client_secret_post", "client_secret_basic"])
@pytest.mark.parametrize("client", ["oauth4webapi", "openid-client"])
def test_a_strict_client_goes_from_the_url_to_a_token_and_back(stack: RunningStack, client: str, method: str) -> None:
    if not (NPM_FOLDER / "node_modules" / client).exists():
        pytest.skip(f"npm package {client} is not installed: run `make test-e2e`, with Node.js and npm")
    script = Path(__file__).with_name("strict_clients.cjs")
    with subprocess.Popen(
        [NODE, "--no-warnings", script, client, stack.resource("echo"), REDIRECT_URI, method],
        env={"NODE_PATH": str(NPM_FOLDER / "node_modules"), "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().removeprefix("OPEN ").strip()
        if not url:
            pytest.fail(process.stderr.read())
        target = Browser().open(url, stop_at=REDIRECT_URI)
        assert isinstance(target, str), target.text
        process.stdin.write(f"{target}\n")
        line = process.stdout.readline()
        assert line.startswith("RESULT "), process.stderr.read()
        result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
        process.wait(SECONDS)
    assert (result["called"], result["after"]) == (200, 401)
    if client == "oauth4webapi":
        assert result["claims"]["aud"] == stack.resource("echo")


def test_the_conformance_suite_for_authorization_servers_passes(stack: RunningStack) -> None:
    port = free_port()
    redirect_uri = f"http://127.0.0.1:{port}/callback"
    registration = requests.post(
        f"{stack.issuer}/register",
        json={"redirect_uris": [redirect_uri], "client_name": "Suite", "token_endpoint_auth_method": "none"},
        timeout=60,
    ).json()
    command = npm_command("@modelcontextprotocol/conformance")
    with subprocess.Popen(
        [
            *(*command, "authorization", "--url", stack.issuer, "--client-id", registration["client_id"]),
            *("--resource", stack.resource("echo"), "-p", str(port)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as suite:
        assert suite.stdout is not None
        output = ""
        for line in suite.stdout:
            output += line
            if line.startswith(f"{stack.issuer}/authorize"):
                Browser().open(line.strip())
        assert suite.wait(SECONDS) == 0, output
    assert len(re.findall(r"^✓", output, re.MULTILINE)) == 2, output
    assert "✗" not in output
