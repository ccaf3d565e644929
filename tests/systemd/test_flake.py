"""The flake: what it promises, evaluated with stand-ins for nixpkgs' builders."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import tomllib
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
            "host-readme",
            "host-template",
            "vm-hardening",
            "vm-operating",
            "vm-recovery",
            *scripts,
        } <= checks.keys()
        assert checks["evaluation"] == len("touch $out"), "a case does not evaluate to what is committed"
        assert outputs["packages"][system].keys() == {"default", "mcp-server-everything", "tmux-mcp"}
        assert {line.split()[0] for line in outputs["packages"][system]["default"]} == _dependencies()
        assert outputs["apps"][system].keys() == {"local"}
        assert outputs["devShells"][system].keys() == {"default"}
        assert outputs["formatter"][system] == "nixfmt-tree"
    assert outputs["modules"] == {"default": [True], "mcp-oauth-gateway": [True]}
    assert outputs["templates"] == {"default": True}
    assert outputs["overlays"] == {"default": ["mcp-oauth-gateway"]}


def _dependencies() -> set[str]:
    """Return the names of what pyproject.toml wants, with what its extras bring."""
    project = _project()
    return _names([*project["dependencies"], *project["optional-dependencies"]["tracing"]])


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
def test_hosts_and_machines_of_vm_tests_evaluate_without_a_complaint() -> None:
    outputs = evaluation.evaluate_flake()
    assert outputs["hosts"] == {"host-readme": [], "host-template": []}
    assert outputs["acceptsOverlaysInVmTests"] is False
    for test in outputs["vmTests"].values():
        assert test["options"] == {}, "such as skipTypeCheck"
        assert set(map(len, test["machines"].values())) == {0}, test["machines"]


def test_the_host_of_the_readme_is_its_example() -> None:
    found = re.search(r"```nix\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    assert textwrap.indent(found[1], "  ") in (CHECKOUT / "nix/readme-host.nix").read_text()


@needs_nix
@pytest.mark.parametrize(("nixpkgs", "used"), [("23.0.0", "27.0.1"), ("26.9.0", "27.0.1"), ("27.2.0", "27.2.0")])
def test_a_gunicorn_that_is_too_old_is_replaced_for_this_application(nixpkgs: str, used: str) -> None:
    outputs = evaluation.evaluate_flake(gunicorn=nixpkgs)
    assert f"gunicorn {used}" in outputs["packages"]["x86_64-linux"]["default"]


@needs_nix
def test_tests_that_need_a_newer_mcp_are_left_out_where_it_is_older() -> None:
    suite = json.loads((CHECKOUT / "nix/tests.json").read_text())
    left_out = [f"--ignore={path}" for path in suite["needMcp2"]]
    assert all((CHECKOUT / path).exists() for path in (*suite["needMcp2"], *suite["tests"], *suite["sources"]))
    for mcp, ignored in (("1.26.0", left_out), ("2.3.0", [])):
        command = evaluation.evaluate_flake(mcp=mcp)["testCommand"]
        assert re.findall(r"--ignore=\S+", command.partition("pytest ")[2]) == ignored
