"""Servers of the catalogue in the sandboxes that it gives them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.peers import NODE, NPM_FOLDER, npm_command
from tests.systemd.driver import run_script
from tests.systemd.programs import STORE_PREFIX
from tests.systemd.test_units import SCENARIOS, deployed, needs_container

PACKAGES = ("server-everything", "server-filesystem", "server-memory", "server-sequential-thinking")
FOLDER = Path("opt/npm")


@needs_container
@pytest.mark.timeout(2400)
def test_servers_of_the_catalogue_work_in_their_sandboxes(tmp_path: Path) -> None:
    scripts = {package: Path(npm_command(f"@modelcontextprotocol/{package}")[1]) for package in PACKAGES}
    with deployed("catalogue", tmp_path) as machines:
        root = tmp_path / "machine/upper"
        shutil.copytree(NPM_FOLDER / "node_modules", root / FOLDER / "node_modules", copy_function=_link)
        (root / FOLDER / "node").symlink_to("node_modules/.node")
        _link(NODE, root / FOLDER / "node_modules/.node")
        for package, script in scripts.items():
            program = root / f"{STORE_PREFIX}mcp-{package}/bin/mcp-{package}"
            program.parent.mkdir(parents=True)
            path = script.resolve().relative_to(NPM_FOLDER.resolve())
            program.write_text(f'#!/bin/sh\nexec /{FOLDER}/node /{FOLDER}/{path} "$@"\n')
            program.chmod(0o755)
        run_script(SCENARIOS / "catalogue.py", machines)


def _link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it to another file system: nothing writes to it here."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
