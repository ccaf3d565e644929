"""Where a container has the programs that tests/systemd/packages.nix names."""

from __future__ import annotations

import shutil
from pathlib import Path

STORE_PREFIX = "nix/store/" + "0" * 32 + "-"
PYTHON = "/opt/gateway/bin/python"
SOURCE = "/opt/source"
SOURCES = ("auth_service", "stdio_bridge", "local", "tests")

# Packages that the root has, and the folders of their programs.
FOLDERS = {
    "coreutils": "/usr/bin",
    "findutils": "/usr/bin",
    "gnugrep": "/usr/bin",
    "gnused": "/usr/bin",
    "iproute2": "/usr/sbin",
    "mcp-server-fetch": "/opt/tools/bin",
    "mcp-server-time": "/opt/tools/bin",
    "nsncd": "/usr/libexec",
    "pebble": "/usr/bin",
    "redis": "/usr/bin",
    "traefik": "/opt/tools/bin",
}

# The parts of a package that the root has in several folders.
PARTS = {"systemd": {"bin": "/usr/bin", "lib": "/usr/lib"}}

# Packages of one program, which has another name in the root.
PROGRAMS = {
    "chromium": "/usr/bin/chromium-headless-shell",
    "python3": "/usr/bin/python3",
}

# Packages made of this checkout, whose modules they have, too: their commands, and the module that each runs.
GATEWAY = {
    "mcp-auth-service": "auth_service.__main__",
    "mcp-egress-proxy": "stdio_bridge.egress.__main__",
    "mcp-gatewayctl": "auth_service.cli",
    "mcp-stdio-bridge": "stdio_bridge.__main__",
    "mcp-bridge-status": "stdio_bridge.status_service",
}
MODULES = {
    "mcp-oauth-gateway": GATEWAY,
    "mcp-oauth-gateway-next": GATEWAY,
    "hostile-server": {"hostile-server": "tests.nixos.hostile_server"},
    "set-dns-record": {"set-dns-record": "tests.nixos.dns_record"},
    "stand-in-backend": {"stand-in-backend": "tests.nixos.stand_in_backend"},
    "stand-in-collector": {"stand-in-collector": "tests.nixos.stand_in_collector"},
    "stand-in-drive": {"stand-in-drive": "tests.nixos.stand_in_drive"},
    "stand-in-github": {"stand-in-github": "local.github"},
    "stand-in-resolver": {"stand-in-resolver": "tests.nixos.stand_in_resolver"},
    "test-client": {"test-client": "tests.nixos.client"},
}

SEARCH_PATH = ":".join(f"/{STORE_PREFIX}{package}/bin" for package in ("mcp-oauth-gateway", "test-client"))


def install_programs(checkout: Path, root: Path) -> None:
    """Write the packages below `root`, which becomes a machine's."""
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", "npm")
        shutil.copytree(checkout / name, root / SOURCE[1:] / name, ignore=ignored)
    for package, folder in FOLDERS.items():
        store_path = root / f"{STORE_PREFIX}{package}"
        store_path.mkdir(parents=True)
        (store_path / "bin").symlink_to(folder)
    for package, parts in PARTS.items():
        store_path = root / f"{STORE_PREFIX}{package}"
        store_path.mkdir(parents=True)
        for part, folder in parts.items():
            (store_path / part).symlink_to(folder)
    for package, program in PROGRAMS.items():
        binaries = root / f"{STORE_PREFIX}{package}/bin"
        binaries.mkdir(parents=True)
        (binaries / package).symlink_to(program)
    for package, commands in MODULES.items():
        binaries = root / f"{STORE_PREFIX}{package}/bin"
        binaries.mkdir(parents=True)
        if commands is GATEWAY:
            library = root / f"{STORE_PREFIX}{package}/lib/python3"
            library.mkdir(parents=True)
            (library / "site-packages").symlink_to(SOURCE)
        for command, module in commands.items():
            (binaries / command).write_text(
                f"#!{PYTHON}\nimport sys\nsys.path.insert(0, {SOURCE!r})\nfrom {module} import main\nsys.exit(main())\n"
            )
            (binaries / command).chmod(0o755)
