"""The stack on the oldest Traefik that is accepted; all other tests run it on the newest."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.conftest import RunningStack
from tests.e2e.echo import EchoServer
from tests.e2e.flow import initialize, log_in
from tests.peers import oldest_traefik


def test_a_login_and_a_call_work_and_forged_names_are_dropped_on_the_oldest_traefik(tmp_path: Path) -> None:
    program = oldest_traefik()
    assert "3.7.6" in subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    echo = EchoServer()
    running = RunningStack(tmp_path, "--server", f"echo={echo.url}", "--traefik", program)
    try:
        running.wait_until_healthy()
        tokens = log_in(running.issuer, running.resource("echo"))
        # `/verify` takes no token without the forwarded headers that the client names as those of its connection.
        forged = {"X_User_Id": "forged", "Connection": "keep-alive, X-Forwarded-Method, X-Forwarded-Uri"}
        answer = initialize(running.resource("echo"), tokens.access_token, forged)
        assert answer.status_code == 200
        names = {name.lower() for name, _ in answer.json()["headers"]}
        assert "x-gateway-identity" in names
        assert not {"x_user_id", "authorization"} & names
        assert initialize(running.resource("echo"), None).status_code == 401
    finally:
        running.stop()
        echo.stop()
