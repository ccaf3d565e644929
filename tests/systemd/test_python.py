"""The package's tests as `nix flake check` runs them: NixOS' Python and versions, no network, no Node.js, not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.systemd import evaluation
from tests.systemd.evaluation import CHECKOUT
from tests.systemd.root import NIXOS_ENVIRONMENT, NIXOS_REQUIREMENTS, cached_root

SUITE = json.loads((CHECKOUT / "nix/tests.json").read_text())
# As in a Nix sandbox: only loopback, an empty home, and a user without rights. The root is one to be thrown away.
LAUNCH = """
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$FILES:$LOWER,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
mount -t proc proc "$FOLDER/root/proc"
mount --rbind /dev "$FOLDER/root/dev"
ip link set lo up
cd "$FOLDER/root"
exec chroot . setpriv --reuid=1000 --regid=1000 --clear-groups --no-new-privs env --ignore-environment \
  PATH="$ENVIRONMENT/bin:/usr/bin:/bin" HOME=/build LANG=C.UTF-8 \
  sh -c 'cd /build/checkout && exec "$@"' - python -m pytest -p no:cacheprovider -q "$@"
"""
SECONDS = 2700

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("debootstrap", "unshare", "setpriv", "ip"))),
    reason="needs root, debootstrap and util-linux",
)


@needs_root
@pytest.mark.timeout(SECONDS + 900)  # the root may have to be built first
def test_the_package_passes_its_tests_on_the_versions_of_nixos(tmp_path: Path) -> None:
    build = tmp_path / "files/build"
    (build / "checkout").mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for source in SUITE["sources"]:
        if (CHECKOUT / source).is_dir():
            shutil.copytree(CHECKOUT / source, build / "checkout" / source, ignore=ignored)
        else:
            shutil.copy2(CHECKOUT / source, build / "checkout" / source)
    for path in (build, *build.rglob("*")):
        os.chown(path, 1000, 1000)
    environment = {
        **os.environ,
        "LOWER": str(cached_root(CHECKOUT)),
        "FILES": str(tmp_path / "files"),
        "ENVIRONMENT": NIXOS_ENVIRONMENT,
    }
    # At once, in machines of their own, since they mostly wait.
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(_run, tests, tmp_path / str(number), environment) for number, tests in enumerate(SUITE["tests"])
        ]
    failed = [done for done in (run.result() for run in runs) if done.returncode != 0]
    for part in tmp_path.iterdir():
        shutil.rmtree(part)
    assert not failed, "\n".join(f"{done.stdout[-20000:]}\n{done.stderr[-2000:]}" for done in failed)


def _run(tests: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    return subprocess.run(
        (
            *("unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", LAUNCH, "-"),
            *(f"--ignore={path}" for path in SUITE["needMcp2"]),
            tests,
        ),
        env={**environment, "FOLDER": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.skipif(not evaluation.can_evaluate(), reason="needs nix-instantiate and <nixpkgs/lib>")
def test_the_environment_has_the_packages_of_the_check_and_no_others() -> None:
    lines = (CHECKOUT / NIXOS_REQUIREMENTS).read_text().splitlines()
    packages = {line.partition("[")[0].partition("=")[0].partition("<")[0] for line in lines if line[0] != "#"}
    assert packages == set(evaluation.evaluate_flake()["testPackages"])
