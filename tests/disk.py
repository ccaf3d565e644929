"""Small disks that a test may fill."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Disk:
    """A file system of its own, mounted where only this test's processes look."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave not a byte free."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.path / "ballast").unlink()


@contextmanager
def small_disk(mount_point: Path, *, size: str = "4m") -> Iterator[Disk]:
    """Mount an empty disk in a mount namespace that ends with the test. Skips where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small disk takes root and unshare(1)")
    mount_point.mkdir()
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo mounted && exec cat'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", size, str(mount_point)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() != b"mounted\n":
                pytest.skip("this machine lets no test mount anything")
            # Through the holder's eyes: no other process needs to be in its namespace.
            yield Disk(Path(f"/proc/{holder.pid}/root{mount_point}"))
        finally:
            holder.stdin.close()
