"""A container with systemd as PID 1 over a throw-away copy of a root, and commands run inside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.systemd.network import NetworkNamespace

BOOT_TIMEOUT = 60  # seconds

# systemd-nspawn wants a cgroup tree that it may write, and mounts that go away with it.
LAUNCH = """
set -eu
mount --make-rprivate /
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$NAME"
echo $$ > "/sys/fs/cgroup/$NAME/cgroup.procs"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
# CAP_BPF and bpf(2) are for IPAddressDeny.
exec systemd-nspawn --directory="$FOLDER/root" --machine="$NAME" --register=no --keep-unit \\
  --network-namespace-path="$NETWORK" --boot --console=read-only --capability=all --system-call-filter=bpf
"""
# Ends the machine with whoever holds the other end of its standard input, however that one ends.
TETHER = 'cat; kill -KILL "$1" 2> /dev/null'


class Container:
    """One booted machine. `root` is its file system, as seen from outside."""

    def __init__(self, *, name: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.name = name
        self._process = process
        self._log = folder / "boot.log"
        self._init = self._find_init()
        self._tether = subprocess.Popen(("/bin/sh", "-c", TETHER, "-", str(self._init)), stdin=subprocess.PIPE)
        self.root = Path(f"/proc/{self._init}/root")

    def run(self, script: str, *, path: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, as root, with this search path before the system's own."""
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        command = ("nsenter", f"--target={self._init}", *namespaces, "--", "/bin/sh", "-c", script)
        environment = {
            "PATH": f"{path}:/usr/sbin:/usr/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "REQUESTS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
        }
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def stop(self) -> None:
        """Kill PID 1, with which everything inside ends; killing systemd-nspawn alone would leave it running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._tether.communicate()

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError, IndexError):
                init = int(children.read_text().split()[0])
                if Path(f"/proc/{init}/comm").read_text().strip() == "systemd":
                    return init
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError(f"systemd did not start:\n{self._log.read_text()[-3000:]}")


@contextlib.contextmanager
def booted(*, name: str, lower: Path, folder: Path, network: NetworkNamespace) -> Iterator[Container]:
    """Boot `folder/upper` over the root `lower`; all of it is gone at the end."""
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / "boot.log").open("wb") as log:
        process = subprocess.Popen(
            ("unshare", "--mount", "/bin/sh", "-c", LAUNCH),
            env={
                **os.environ,
                "NAME": name,
                "LOWER": str(lower),
                "FOLDER": str(folder),
                "NETWORK": str(network.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    container = Container(name=name, process=process, folder=folder)
    try:
        yield container
    finally:
        container.stop()
        shutil.rmtree(folder / "upper", ignore_errors=True)
