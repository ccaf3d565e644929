"""Networks for containers: each machine has a namespace of its own, and a cable to one switch."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


class NetworkNamespace:
    """A network namespace with a loopback device; it lasts as long as this process, or until `close`."""

    def __init__(self) -> None:
        # `cat` ends when its standard input does, which is when this process ends in whatever way.
        self._holder = subprocess.Popen(
            ("unshare", "--net", "/bin/sh", "-c", "ip link set lo up && echo ready && exec cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.path = Path(f"/proc/{self._holder.pid}/ns/net")

    @property
    def pid(self) -> int:
        """A process inside, by which `ip` finds the namespace."""
        return self._holder.pid

    def run(self, *command: str) -> None:
        """Run a command inside."""
        done = subprocess.run(
            ("nsenter", f"--net={self.path}", "--", *command), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")

    def close(self) -> None:
        """Let go of it."""
        self._holder.communicate()


class PluggedNamespace(NetworkNamespace):
    """The network of a machine whose cable ends in a port of the hub."""

    def __init__(self, hub: NetworkNamespace, *, port: str, address: str) -> None:
        super().__init__()
        self._hub = hub
        self._port = port
        hub.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        hub.run("ip", "link", "set", port, "master", "switch", "up")
        self.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def unplug(self) -> None:
        """Pull the cable: whatever is sent from or to the machine is lost without a word."""
        self._hub.run("ip", "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put the cable back."""
        self._hub.run("ip", "link", "set", self._port, "up")


class Switch:
    """Connects machines on 192.168.1.0/24."""

    def __init__(self) -> None:
        self._hub = NetworkNamespace()
        self._hub.run("ip", "link", "add", "switch", "type", "bridge")
        self._hub.run("ip", "link", "set", "switch", "up")
        self._machines: list[PluggedNamespace] = []

    def plug(self, address: str) -> PluggedNamespace:
        """Return the network of a machine with this address."""
        machine = PluggedNamespace(self._hub, port=f"port{len(self._machines) + 1}", address=address)
        self._machines.append(machine)
        return machine

    def close(self) -> None:
        """Take it all down."""
        for machine in (*self._machines, self._hub):
            machine.close()


@contextlib.contextmanager
def switch() -> Iterator[Switch]:
    """A switch, and the machines' networks with it, gone at the end."""
    running = Switch()
    try:
        yield running
    finally:
        running.close()
