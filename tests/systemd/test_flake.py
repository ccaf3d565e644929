"""The flake: what it promises, evaluated with stand-ins for nixpkgs' builders."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.systemd import evaluation
from tests.systemd.evaluation import CHECKOUT

SCENARIOS = {path.stem for path in (CHECKOUT / "tests/nixos").glob("*.nix")}

needs_nix = pytest.mark.skipif(not evaluation.can_evaluate(), reason="needs nix-instantiate and <nixpkgs/lib>")


@needs_nix
def test_the_flake_has_all_that_it_promises_on_both_architectures() -> None:
    outputs = evaluation.evaluate_flake()
    for system in ("x86_64-linux", "aarch64-linux"):
        checks = outputs["checks"][system]
        scripts = {f"vm-{path.stem}" for path in (CHECKOUT / "tests/nixos").glob("*.py") if path.stem in SCENARIOS}
        assert {
            "package",
            "tests",
            "formatting",
            "options",
            "evaluation",
            "vm-hardening",
            "vm-operating",
            *scripts,
        } <= checks.keys()
        assert checks["evaluation"] == len("touch $out"), "a case does not evaluate to what is committed"
        assert outputs["packages"][system].keys() == {"default", "mcp-server-everything", "tmux-mcp"}
        assert set(outputs["packages"][system]["default"]) == _dependencies()
        assert outputs["apps"][system].keys() == {"local"}
        assert outputs["devShells"][system].keys() == {"default"}
        assert outputs["formatter"][system] == "nixfmt-tree"
    assert outputs["modules"] == outputs["templates"] == {"default": True}
    assert outputs["overlays"] == {"default": ["mcp-oauth-gateway"]}


def _dependencies() -> set[str]:
    """Return the names of what pyproject.toml wants, with what its extras bring."""
    return _names(_project()["dependencies"])


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^a-z0-9-]", line)[0] for line in requirements}


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return project


@needs_nix
def test_the_check_of_the_package_has_what_its_tests_import() -> None:
    """What is only in the environment of `make test` would fail where nobody but Nix sees it."""
    packages = set(evaluation.evaluate_flake()["testPackages"])
    extra = _project()["optional-dependencies"]
    absent = _names([*extra["test"], *extra["local"], *extra["fast"]]) - packages - _dependencies()
    assert {"selenium", "fastmcp"} <= absent
    tests = {
        path for folder in ("auth_service", "stdio_bridge") for path in (CHECKOUT / "tests" / folder).rglob("*.py")
    }
    for path in {*tests, *(CHECKOUT / "tests").glob("*.py")}:
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        roots = {name.split(".")[0].replace("_", "-") for name in imported}
        assert not roots & {name.removesuffix("-binaries") for name in absent}, path


@needs_nix
def test_the_template_is_a_working_host(tmp_path: Path) -> None:
    case = tmp_path / "case.nix"
    case.write_text(
        f"""
        {{ lib, ... }}:
        {{
          imports = [ {CHECKOUT}/templates/host/gateway.nix ];
          # What else NixOS and sops-nix have.
          options = lib.genAttrs [ "nixpkgs" "sops" ] (_: lib.mkOption {{ type = lib.types.anything; }}) // {{
            system.stateVersion = lib.mkOption {{ type = lib.types.str; }};
          }};
          config.sops.secrets.github-client-secret.path = "/run/secrets/github-client-secret";
        }}
        """
    )
    host = evaluation.evaluate(case)
    assert host["failedAssertions"] == host["warnings"] == []
