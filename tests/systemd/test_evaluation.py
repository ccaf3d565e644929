"""The module, evaluated: what it makes of a configuration, and which mistakes it catches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auth_service.settings import Settings
from tests.systemd.deployment import Configuration, can_evaluate, evaluate, load

HERE = Path(__file__).parent
CASES = {path.stem: path for folder in (HERE.parent / "nixos", HERE / "cases") for path in folder.glob("*.nix")}


def evaluated(name: str) -> Path:
    return HERE / "evaluated" / f"{name}.json"


@pytest.fixture
def gateway() -> Configuration:
    return load(evaluated("full_flow"))


@pytest.mark.skipif(not can_evaluate(), reason="needs nix-instantiate and <nixpkgs/lib>")
@pytest.mark.parametrize("name", CASES)
def test_the_committed_result_is_what_the_module_evaluates_to(name: str) -> None:
    committed = json.loads(evaluated(name).read_text())
    assert evaluate(CASES[name]) == committed, "run: make evaluate"


def test_a_working_configuration_raises_no_complaint(gateway: Configuration) -> None:
    assert gateway.failedAssertions == []
    assert gateway.warnings == []


def test_the_auth_service_accepts_the_settings_that_the_module_writes(gateway: Configuration) -> None:
    settings = Settings.model_validate(json.loads(gateway.files["mcp-oauth-gateway/settings.json"]))
    assert settings.resources["time"].url == "https://time.mcp.example.com/mcp"


def test_the_route_backend_is_where_the_bridge_listens(gateway: Configuration) -> None:
    settings = Settings.model_validate(json.loads(gateway.files["mcp-oauth-gateway/settings.json"]))
    address = settings.resources["time"].backends[0].removeprefix("http://").removesuffix("/mcp")
    assert f"ListenStream={address}" in gateway.units["mcp-bridge-time.socket"]


def test_a_bridge_never_gets_the_master_key(gateway: Configuration) -> None:
    credentials = [line for line in gateway.units["mcp-bridge-time.service"] if line.startswith("LoadCredential=")]
    assert credentials == ["LoadCredential=identity-key:/run/mcp-oauth-gateway/identity-time"]


def test_a_changed_set_of_servers_only_reloads_the_auth_service(gateway: Configuration) -> None:
    unit = gateway.units["mcp-auth-service.service"]
    assert any(line.startswith("X-Reload-Triggers=") for line in unit)
    assert any(line.startswith("ExecReload=") for line in unit)


@pytest.mark.parametrize(
    "complaint",
    [
        'services.mcp-oauth-gateway.domain: "not a domain" is not a domain name',
        "services.mcp-oauth-gateway.identityProvider.github: set `clientId` and `clientSecretFile`",
        "services.mcp-oauth-gateway.certificate: set both `certFile` and `keyFile`",
        "services.mcp-oauth-gateway: set exactly one of `acme.email` and `certificate.certFile`",
        "services.mcp-oauth-gateway.servers.Upper: the name becomes part of a host name",
        "services.mcp-oauth-gateway.servers.empty: set exactly one of `command` and `url`",
        "services.mcp-oauth-gateway.servers.both: set exactly one of `command` and `url`",
        "services.mcp-oauth-gateway.servers: one and other have the same port, 20001",
    ],
)
def test_a_mistake_is_named_with_its_option(complaint: str) -> None:
    failures = load(evaluated("mistakes")).failedAssertions
    assert [failure for failure in failures if failure.startswith(complaint)] != []


def test_allow_lists_that_admit_nobody_are_a_warning() -> None:
    warnings = load(evaluated("mistakes")).warnings
    assert any("every allow-list is empty, so nobody can log in" in warning for warning in warnings)
