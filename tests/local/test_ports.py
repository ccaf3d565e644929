"""Ports for programs that are about to listen."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from local import ports


def test_a_port_is_given_once_and_to_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ports.free_ports(3)
    assert len(set(given)) == 3
    monkeypatch.setattr(ports, "_PORTS", given)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
    script = f"from local import ports; ports._PORTS = {given}; ports.free_port()"
    other = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "no free port" in other.stderr


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(ports, "_PORTS", [taken.getsockname()[1]])
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
