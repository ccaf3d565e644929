"""A container with systemd as PID 1 over a throw-away copy of a root, and commands run inside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.systemd.network import PluggedNamespace

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
# CAP_BPF and bpf(2) are for IPAddressDeny, and Landlock's system calls for what servers give up by them.
exec systemd-nspawn --directory="$FOLDER/root" --machine="$NAME" --register=no --keep-unit --boot \\
  --network-namespace-path="$NETWORK" --resolv-conf=off --console=read-only --capability=all \\
  --system-call-filter="bpf landlock_create_ruleset landlock_restrict_self"
"""
# Ends the machine with the process that holds the other end of its standard input, however that process ends.
DIE_WITH_PARENT = 'cat; kill -KILL "$1" 2> /dev/null'


class Container:
    """One machine: `folder/upper` over the root `lower`. `root` is its file system while it runs, seen from outside."""

    def __init__(self, *, name: str, lower: Path, folder: Path, network: PluggedNamespace) -> None:
        self.name = name
        self.network = network
        self._folder = folder
        self._environment = {
            **os.environ,
            "NAME": name,
            "LOWER": str(lower),
            "FOLDER": str(folder),
            "NETWORK": str(network.path),
        }
        self._processes: tuple[subprocess.Popen[bytes], ...] = ()
        self._init = 0

    @property
    def root(self) -> Path:
        """The file system of the running machine."""
        return Path(f"/proc/{self._init}/root")

    def boot(self) -> None:
        """Start systemd as PID 1; what an earlier boot wrote is there."""
        for part in ("upper", "work", "root"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        with (self._folder / "boot.log").open("wb") as log:
            launcher = subprocess.Popen(
                ("unshare", "--mount", "/bin/sh", "-c", LAUNCH),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._init = self._find_init(launcher)
        watcher = subprocess.Popen(("/bin/sh", "-c", DIE_WITH_PARENT, "-", str(self._init)), stdin=subprocess.PIPE)
        self._processes = launcher, watcher

    def run(self, script: str, *, path: str, timeout: float | None = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, as root, with this search path before the system's own.

        As in the NixOS test driver, a pipe fails with any of its parts, an unset variable fails, and what is written to
        standard error is no output.
        """
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        command = (
            "nsenter",
            f"--target={self._init}",
            *namespaces,
            "--",
            "/bin/bash",
            "-euo",
            "pipefail",
            "-c",
            script,
        )
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
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def stop(self) -> None:
        """Kill PID 1, with which everything inside ends; killing systemd-nspawn alone would leave it running."""
        if self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
            launcher, watcher = self._processes
            launcher.wait(timeout=60)
            watcher.communicate()
            self._processes = ()

    def remove(self) -> None:
        """Stop, and forget everything that was written."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _find_init(self, launcher: subprocess.Popen[bytes]) -> int:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        deadline = time.monotonic() + BOOT_TIMEOUT
        while time.monotonic() < deadline:
            if launcher.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError, IndexError):
                init = int(children.read_text().split()[0])
                if Path(f"/proc/{init}/comm").read_text().strip() == "systemd":
                    return init
            time.sleep(0.05)
        launcher.kill()
        raise RuntimeError(f"systemd did not start:\n{(self._folder / 'boot.log').read_text()[-3000:]}")
