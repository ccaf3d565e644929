"""The module, evaluated: what it makes of a configuration, and which mistakes it catches."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from auth_service.ops.audit import Event
from auth_service.protocol.addresses import is_public
from auth_service.settings import Settings
from stdio_bridge.options import Isolation, Options, parse_options
from stdio_bridge.protocol.policy import Rule
from stdio_bridge.protocol.quotas import Quota
from stdio_bridge.protocol.tool_lock import render_lock
from tests.systemd import evaluation
from tests.systemd.deployment import Configuration, load, load_machines
from tests.systemd.evaluation import CHECKOUT, COMPLAINTS, OPTIONS_PAGE, evaluated

MODULES = CHECKOUT / "modules"
CONFIGURATIONS = sorted(evaluation.cases().keys() - set(COMPLAINTS))
OPTION = "services.mcp-oauth-gateway"
FORCED = "mcp-server-notes"
"""Of the case `github`: an operator has replaced its filter of system calls."""
STORED = f"/nix/store/{'0' * 32}-secret"

needs_nix = pytest.mark.skipif(not evaluation.can_evaluate(), reason="needs nix-instantiate and <nixpkgs/lib>")


def settings_of(configuration: Configuration) -> Settings:
    return Settings.model_validate(json.loads(configuration.files["mcp-oauth-gateway/settings.json"]))


def traefik_of(configuration: Configuration) -> dict[str, Any]:
    """Return Traefik's static configuration."""
    (text,) = (text for name, text in configuration.files.items() if name.endswith("-static.toml"))
    return tomllib.loads(text)


def has_tracing(configuration: Configuration) -> bool:
    """Whether a host sends traces to a collector."""
    return any('"tracing-endpoint"' in text for text in configuration.files.values())


@pytest.fixture
def gateway() -> Configuration:
    return load(evaluated("full_flow"))


@needs_nix
@pytest.mark.parametrize("name", sorted(evaluation.cases()))
def test_the_committed_result_is_what_the_module_evaluates_to(name: str) -> None:
    committed = json.loads(evaluated(name).read_text())
    assert evaluation.evaluate(evaluation.cases()[name]) == committed, "run: make evaluate"


@needs_nix
def test_the_page_of_options_says_what_the_module_has() -> None:
    page = evaluation.render_options(evaluation.evaluate_options())
    assert OPTIONS_PAGE.read_text() == page, "docs/options.md is not of these modules; run: make evaluate"


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md", "docs/bridge.md"])
def test_every_option_that_the_manual_names_is_there(page: str) -> None:
    options = re.findall(rf"^## `{OPTION}\.(.+)`$", OPTIONS_PAGE.read_text(), re.MULTILINE)
    paths = [f".{option.replace('<name>', 'NAME')}." for option in options]
    groups = {part for path in paths for part in path.split(".")}
    named = re.findall(r"`((?:[a-z][A-Za-z]*|NAME)(?:\.[A-Za-z]+)+)", (CHECKOUT / page).read_text())
    for name in set(named) - set(Event):
        if name.split(".")[0] in groups - {"serviceConfig"}:  # that one takes whatever systemd does
            assert any(f".{name}." in path for path in paths), f"{page} names {name}"


@needs_nix
def test_every_option_is_described_and_shown() -> None:
    for option in evaluation.evaluate_options():
        assert option["description"], f"{option['name']} has no description"
        assert option["example"] is not None, f"{option['name']} has no example"


@needs_nix
def test_every_option_is_used_in_some_case() -> None:
    used: set[str] = set()
    for name, path in evaluation.cases().items():
        if name not in COMPLAINTS:
            used |= _paths_set_in(path)
    missing = {
        str(option["name"])
        for option in evaluation.evaluate_options()
        if not option["readOnly"] and not any(_covers(path, str(option["name"])) for path in used)
    }
    assert missing == set()


def _covers(path: str, option: str) -> bool:
    pattern = re.escape(option).replace("<name>", "[^.]+(?:[.][0-9a-z:]+)?")
    return re.fullmatch(rf"{pattern}(\..*)?", path) is not None


def _paths_set_in(path: Path) -> set[str]:
    """Return the path of every value that a case sets, as it is written."""
    expression = """
      path:
      let
        lib = import <nixpkgs/lib>;
        pkgs = import ./packages.nix { inherit lib; };
        file = import path;
        config = if lib.isFunction file then file { inherit lib pkgs; config = { }; } else file;
        flatten = prefix: value:
          if lib.isAttrs value && value.type or "" != "derivation" && !(value ? _type)
          then lib.concatLists (lib.mapAttrsToList (name: flatten "${prefix}.${name}") value)
          else [ prefix ];
      in
      flatten "services.mcp-oauth-gateway" (config.services.mcp-oauth-gateway or { })
    """
    command = ("nix-instantiate", "--eval", "--strict", "--json", "-E", f"({expression}) {path}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@needs_nix
def test_a_secret_in_the_store_is_refused(tmp_path: Path) -> None:
    options = [str(each["name"]).removeprefix(f"{OPTION}.") for each in evaluation.evaluate_options()]
    public = {
        *("servers.<name>.toolsLockFile", "servers.<name>.urlCaFile"),
        *("declaredClients.<name>.publicKeyFile", "trustedIssuers.<name>.keysFile"),
    }
    secrets = [name.replace("<name>", "time") for name in options if name.endswith("File") and name not in public]
    assert len(secrets) > 8
    for option in secrets:
        # A provider that is not chosen is not looked at.
        chosen = 'identityProvider.oidc.issuer = "https://login.example.com";' if "oidc" in option else ""
        if ".oauth." in option:
            path = option.rpartition(".")[0]
            endpoints = 'authorizationEndpoint = "https://a.example/a"; tokenEndpoint = "https://a.example/t";'
            chosen = f'{path} = {{ {endpoints} clientId = "x"; }}; {path.removesuffix(".oauth")}.label = "x";'
        if "urlClientCertificate" in option:
            file = "keyFile" if option.endswith("certFile") else "certFile"
            chosen = f'{option.rpartition(".")[0]}.{file} = "/run/secrets/file";'
        case = tmp_path / "case.nix"
        case.write_text(
            f"""
            {{
              services.mcp-oauth-gateway = {{ enable = true; domain = "a.example"; {chosen} {option} = "{STORED}"; }};
            }}
            """
        )
        with pytest.raises(RuntimeError, match="not in the Nix store") as refused:
            evaluation.evaluate(case)
        assert f"`{OPTION}.{option}'" in str(refused.value)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_auth_service_accepts_the_settings_of_every_case(name: str) -> None:
    for configuration in load_machines(evaluated(name)).values():
        assert configuration.failedAssertions == []
        if "mcp-auth-service.service" in configuration.units:
            settings_of(configuration)


def test_settings_are_not_checked_where_the_auth_service_does_not_run() -> None:
    assert "--check" not in load(evaluated("hosts")).builds["mcp-oauth-gateway/settings.json"]


def options_of(configuration: Configuration, unit: str, folder: Path) -> Options:
    """Return what a bridge reads from its command line and its file."""
    (command,) = (line for line in configuration.units[unit] if line.startswith("ExecStart="))
    _, config, path, *arguments = command.split()
    assert config == "--config"
    (name,) = (name for name, stored in configuration.stored.items() if stored == path)
    file = folder / "bridge.json"
    file.write_text(configuration.files[name])
    return parse_options(["--config", str(file), *arguments], {})


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_bridge_accepts_the_command_line_and_the_file_of_every_case(name: str, tmp_path: Path) -> None:
    for configuration in load_machines(evaluated(name)).values():
        for unit in configuration.units:
            if unit.startswith("mcp-bridge-") and unit.endswith(".service"):
                options = options_of(configuration, unit, tmp_path)
                assert options.identity_key == "identity-key"
                assert options.listen is None
                assert options.server_socket == Path("/run/mcp-server/socket")


def test_a_bridges_file_has_what_its_options_say_and_what_the_operator_adds(tmp_path: Path) -> None:
    configuration = load(evaluated("github"))
    options = options_of(configuration, "mcp-bridge-notes@2.service", tmp_path)
    assert (options.isolation, options.warm_spares, options.call_timeout) == (Isolation.PER_USER, 1, 60)
    assert options.replica == "2"
    assert options.keep_alive == 30, "what only `settings` has"
    assert options.max_calls == 500, "`settings` wins over `limits.calls`"
    assert options.versions.server is None, "null leaves out what `serverProtocolVersion` says"
    document = json.loads(configuration.files["mcp-oauth-gateway/bridge-notes.json"])
    assert not {"command", "cwd", "env", "pass-env"} & document.keys()
    assert set(document["protocol-version"]) == {"2025-06-18", "2025-11-25"}


def test_a_bridge_is_told_who_may_use_what_where_that_is_not_everyone(tmp_path: Path) -> None:
    configuration = load(evaluated("github"))
    options = options_of(configuration, "mcp-bridge-notes.service", tmp_path)
    assert options.tools is not None
    assert options.prompts is not None
    assert options.resources is not None
    assert options.tools.find("read_file") == (Rule(),)
    assert options.tools.find("read_multiple_files") == (Rule(deny=True),)
    (write_file,) = options.tools.find("write_file")
    assert write_file.scopes == {"notes:write"}
    assert options.tools.find("move_file") == (Rule(deny=True),)
    (summary,) = options.prompts.find("summary")
    assert summary.scopes == {"notes:read"}
    assert set(options.resources.find("file:///srv/documents/private/a")) == {Rule(deny=True)}
    assert set(options.resources.find("file:///srv/documents/a")) == {Rule()}
    others = json.loads(configuration.files["mcp-oauth-gateway/bridge-local.json"])
    assert others.keys().isdisjoint({"tools", "prompts", "resources"})


def test_a_bridge_is_told_of_quotas_and_schemas(tmp_path: Path) -> None:
    configuration = load(evaluated("github"))
    options = options_of(configuration, "mcp-bridge-notes.service", tmp_path)
    assert (options.calls_per_minute, options.max_calls_per_user) == (120, 4)
    assert options.tools is not None
    assert options.prompts is not None
    assert options.resources is not None
    (write_file,), (read_file,) = options.tools.find("write_file"), options.tools.find("read_file")
    assert write_file.quota == Quota(name="tools that match write_*", calls_per_minute=10)
    assert (read_file.quota, read_file.arguments) == (None, None)
    assert write_file.arguments is not None
    assert write_file.arguments.find_fault({"path": "/srv/documents/a"}) is None
    assert write_file.arguments.find_fault({"path": "/etc/a"}) is not None
    (summary,) = options.prompts.find("summary")
    assert summary.quota == Quota(name="prompt summary", calls_per_minute=5)
    assert summary.arguments is not None
    assert summary.arguments.find_fault({"a": "1", "b": "2"}) is not None
    quotas = {rule.quota for rule in options.resources.find("file:///srv/documents/large/a")}
    assert quotas == {Quota(name="resources that match file:///srv/documents/large/*", calls_per_minute=1)}
    others = options_of(configuration, "mcp-bridge-local.service", tmp_path)
    assert (others.calls_per_minute, others.max_calls_per_user) == (None, None)


def test_a_bridge_is_given_the_lock_file_as_it_was_written(tmp_path: Path) -> None:
    configuration = load(evaluated("github"))
    written = (evaluation.HERE / "cases/notes.lock.json").read_text()
    assert json.loads(configuration.files["mcp-oauth-gateway/bridge-notes.json"])["tools-lock"] == json.loads(written)
    lock = options_of(configuration, "mcp-bridge-notes.service", tmp_path).tools_lock
    assert lock is not None
    locked = [{"name": name, **tool} for name, tool in json.loads(written)["tools"].items()]
    assert lock.compare(locked) == []
    assert render_lock(locked) == written
    assert options_of(configuration, "mcp-bridge-local.service", tmp_path).tools_lock is None


@needs_nix
@pytest.mark.parametrize("text", [None, "{", '{"tools": {}, "version": 1} x'], ids=["missing", "cut", "more"])
def test_a_lock_file_that_cannot_be_read_is_refused_by_the_name_of_the_option(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "time.lock.json").write_text(text)
    case = tmp_path / "case.nix"
    case.write_text(
        f"""
        {{
          {OPTION} = {{
            enable = true;
            domain = "a.example";
            servers.time = {{ command = [ "time" ]; toolsLockFile = ./time.lock.json; }};
          }};
        }}
        """
    )
    evaluate = str(evaluation.HERE / "evaluate.nix")
    command = ("nix-instantiate", "--eval", "--strict", "--show-trace", evaluate, "--arg", "configuration", str(case))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert f"while reading `{OPTION}.servers.time.toolsLockFile`" in refused.stderr


@pytest.mark.parametrize(
    ("file", "program"),
    [
        ("settings.json", "mcp-auth-service --check --settings"),
        ("bridge-time.json", "mcp-stdio-bridge --check --config"),
    ],
)
def test_a_file_that_its_program_would_refuse_fails_the_build(gateway: Configuration, file: str, program: str) -> None:
    build = gateway.builds[f"mcp-oauth-gateway/{file}"].split("\n")
    checked, copied = (line.strip() for line in build if line)
    assert checked.endswith(f'/bin/{program} "$textPath"')
    assert copied == 'cp "$textPath" "$out"', "what was checked is what is used"


def test_a_bridge_listens_where_its_route_leads() -> None:
    configuration = load(evaluated("github"))
    sockets = {
        line.removeprefix("ListenStream=")
        for name, lines in configuration.units.items()
        if name.startswith("mcp-bridge-")
        for line in lines
        if line.startswith("ListenStream=")
    }
    resources = settings_of(configuration).resources
    endpoints = {url for name in ("notes", "local", "issues") for url in resources[name].endpoints}
    assert {f"http://{socket}/mcp" for socket in sockets} == endpoints


def test_a_bridge_may_sleep_where_nothing_keeps_it_awake_and_is_asked_about_at_the_status_service() -> None:
    configuration = load(evaluated("github"))
    files = configuration.files
    exits = {
        name: json.loads(files[f"mcp-oauth-gateway/bridge-{name}.json"])["idle-exit"]
        for name in ("issues", "local", "notes")
    }
    assert exits == {"issues": 600, "local": 60, "notes": 0}, "notes has replicas and a warm pool"
    known = json.loads(files["mcp-oauth-gateway/status.json"])
    resources = settings_of(configuration).resources
    assert not resources["notes"].status_urls
    for name in ("issues", "local"):
        unit, (endpoint,) = f"mcp-bridge-{name}", resources[name].endpoints
        assert resources[name].status_urls == {endpoint: f"http://127.0.0.1:9011/{unit}/statusz"}
        assert f"{known[unit]['url']}/mcp" == endpoint
        assert f"Service={unit}.service" in configuration.units[known[unit]["socket"]]
        # Else systemd would start it again at once.
        assert "Restart=on-failure" in configuration.units[f"{unit}.service"]
    assert known.keys() == {"mcp-bridge-issues", "mcp-bridge-local"}
    assert "ListenStream=127.0.0.1:9011" in configuration.units["mcp-gateway-status.socket"]


def test_a_gateway_whose_bridges_never_sleep_has_no_status_service() -> None:
    (machine,) = load_machines(evaluated("replicas")).values()
    assert "mcp-gateway-status.service" not in machine.units
    assert not any(resource.status_urls for resource in settings_of(machine).resources.values())


def test_each_release_of_the_router_drops_names_that_alias_another() -> None:
    newest = traefik_of(load(evaluated("github")))["entryPoints"]["websecure"]["http"]
    assert newest["aliasHeadersStrategy"] == "delete"
    assert "underscoreHeadersStrategy" not in newest
    older = traefik_of(load(evaluated("oidc")))["entryPoints"]["websecure"]["http"]
    assert older["underscoreHeadersStrategy"] == "delete"
    assert "aliasHeadersStrategy" not in older


def test_the_access_log_has_no_place_for_credentials() -> None:
    fields = traefik_of(load(evaluated("github")))["accessLog"]["fields"]
    assert fields == {"headers": {"defaultMode": "drop"}, "queryParameters": {"defaultMode": "drop"}}


def test_each_part_sends_its_part_of_the_traces_to_the_collector() -> None:
    configuration = load(evaluated("github"))
    endpoint = "http://127.0.0.1:4318/v1/traces"
    tracing = settings_of(configuration).tracing
    assert tracing is not None
    assert (tracing.endpoint, tracing.sample_ratio) == (endpoint, 0.1)
    assert traefik_of(configuration)["tracing"] == {"sampleRate": 0.1, "otlp": {"http": {"endpoint": endpoint}}}
    bridge = json.loads(configuration.files["mcp-oauth-gateway/bridge-notes.json"])
    assert {name: value for name, value in bridge.items() if name.startswith("tracing-")} == {
        "tracing-endpoint": endpoint,
        "tracing-sample-ratio": 0.1,
        "tracing-service-name": "mcp-bridge-notes",
    }


def test_without_a_collector_nothing_speaks_of_traces() -> None:
    configuration = load(evaluated("presets"))
    assert not has_tracing(configuration)
    assert settings_of(configuration).tracing is None
    assert "tracing" not in traefik_of(configuration)


@pytest.mark.parametrize(
    ("case", "bridge", "reaches"),
    [
        ("github", "mcp-bridge-notes", {"IPAddressDeny=any", "IPAddressAllow=127.0.0.1"}),
        ("oidc", "mcp-bridge-time", {"BindPaths=-/run/nscd", "BindPaths=-/run/systemd/resolve"}),
    ],
)
def test_a_bridge_that_sends_traces_reaches_the_collector_and_starts_nothing_else(
    case: str, bridge: str, reaches: set[str]
) -> None:
    lines = set(load(evaluated(case)).units[f"{bridge}.service"])
    assert {"PrivateNetwork=false", "LimitNPROC=3", *reaches} <= lines
    assert ("IPAddressDeny=any" in lines) == ("IPAddressDeny=any" in reaches)


@needs_nix
@pytest.mark.parametrize(
    "mistake",
    [
        'endpoint = "127.0.0.1:4318"',
        'endpoint = "http://127.0.0.1:4318"',
        'endpoint = "http://token@collector.example.com/v1/traces"',
        'endpoint = "http://collector.example.com/v1/traces?token=x"',
        'sampleRatio = 1.5; endpoint = "http://127.0.0.1:4318/v1/traces"',
        'sampleRatio = -1; endpoint = "http://127.0.0.1:4318/v1/traces"',
    ],
)
def test_a_collector_or_a_ratio_that_is_none_fails_evaluation(tmp_path: Path, mistake: str) -> None:
    case = tmp_path / "case.nix"
    case.write_text(
        f"{{ imports = [ {evaluation.cases()['presets']} ]; services.mcp-oauth-gateway.tracing = {{ {mistake}; }}; }}"
    )
    with pytest.raises(RuntimeError) as refused:
        evaluation.evaluate(case)
    assert f"`{OPTION}.tracing.{mistake.split(maxsplit=1)[0]}'" in str(refused.value)


@needs_nix
def test_a_certificate_beside_the_configuration_comes_along(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificate\n")
    case = tmp_path / "case.nix"
    case.write_text(
        f"""
        {{
          imports = [ {evaluation.cases()["presets"]} ];
          services.mcp-oauth-gateway.acme.caCertificates = [ ./ca.pem "/etc/ssl/internal-ca.pem" ];
        }}
        """
    )
    result = tmp_path / "case.json"
    result.write_text(evaluation.render(evaluation.evaluate(case)))
    router = traefik_of(load(result))
    copied, named = router["certificatesResolvers"]["mcp-oauth-gateway"]["acme"]["caCertificates"]
    assert re.fullmatch(r"/nix/store/[a-z0-9]{32}-ca\.pem", copied)
    assert named == "/etc/ssl/internal-ca.pem"


def test_a_host_runs_its_own_part_only() -> None:
    units = load(evaluated("hosts")).units
    assert not {"mcp-auth-service.service", "traefik.service", "redis-mcp-oauth-gateway.service"} & units.keys()
    assert "mcp-bridge-git.service" not in units
    assert "ListenStream=10.0.0.3:22456" in units["mcp-bridge-time-10.0.0.3:22456.socket"]
    (command,) = (line for line in units["mcp-bridge-fetch@2.service"] if line.startswith("ExecStart="))
    assert command.endswith(" --replica tools-1-2")


def test_relaxations_of_a_sandbox_do_not_undo_each_other() -> None:
    lines = load(evaluated("oidc")).units["mcp-server-time@.service"]
    calls = [line.removeprefix("SystemCallFilter=") for line in lines if line.startswith("SystemCallFilter=")]
    assert calls[:2] == ["@system-service", "~@privileged @resources"]
    not_needed = calls[2]
    # Each lets more through, and none takes away what another lets through.
    assert calls[3:] == ["@system-service", "@mount", "chroot", "pivot_root", not_needed, "@resources"]
    assert not {"@mount", "@resources", "@system-service", "chroot", "pivot_root"} & set(not_needed.split())


def test_a_server_on_the_internet_reaches_public_addresses_and_no_others() -> None:
    keywords = {
        "localhost": ["127.0.0.0/8", "::1/128"],
        "link-local": ["169.254.0.0/16", "fe80::/64"],
        "multicast": ["224.0.0.0/4", "ff00::/8"],
    }
    lines = load(evaluated("catalogue")).units["mcp-server-fetch@.service"]
    assert "RestrictNetworkInterfaces=~lo" in lines
    words = [line.removeprefix("IPAddressDeny=") for line in lines if line.startswith("IPAddressDeny=")]
    denied = [ipaddress.ip_network(each) for word in words for each in keywords.get(word, [word])]
    edges = {edge for network in denied for edge in (network[0], network[-1])}
    beside = {edge + step for edge in edges for step in (-1, 1) if 0 <= int(edge) + step < 2**edge.max_prefixlen}
    for address in {*edges, *beside}:
        assert is_public(str(address)) != any(address in network for network in denied), address


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_relaxation_gives_back_what_no_server_needs(name: str) -> None:
    for configuration in load_machines(evaluated(name)).values():
        for unit, lines in configuration.units.items():
            if unit.startswith("mcp-server-") and unit.endswith(".service") and not unit.startswith(FORCED):
                denied = {
                    call
                    for line in lines
                    for call in line.removeprefix("SystemCallFilter=~").split()
                    if line.startswith("SystemCallFilter=~")
                }
                assert {"@keyring", "io_uring_setup", "process_vm_readv", "userfaultfd"} <= denied, unit
                assert {
                    "PrivateIPC=true",
                    "PrivateTmp=disconnected",
                    "TemporaryFileSystem=/dev/shm:rw,nosuid,nodev,mode=1777",
                    "TemporaryFileSystem=/run:ro",
                    "InaccessiblePaths=-+/run/systemd/journal",
                    "InaccessiblePaths=-+/etc/mcp-oauth-gateway",
                    "OOMPolicy=continue",
                    "PrivatePIDs=true",
                    "ProtectControlGroups=strict",
                } <= set(lines), unit


def test_what_an_operator_sets_of_a_unit_adds_to_its_sandbox_or_replaces_one_part_of_it() -> None:
    lines = load(evaluated("github")).units["mcp-server-notes@.service"]

    def values(key: str) -> list[str]:
        return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]

    assert values("BindPaths") == [
        "-/run/nscd",
        "-/run/systemd/resolve",
        "/srv/documents",
        "/run/postgresql",
    ]
    assert values("TemporaryFileSystem") == ["/dev/shm:rw,nosuid,nodev,mode=1777", "/run:ro", "/srv"]
    assert values("ProtectClock") == ["false"]
    assert values("OOMPolicy") == ["stop"]
    assert values("SystemCallFilter") == ["@system-service"], "mkForce"
    assert values("IOWeight") == ["50"]


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("mcp-auth-service", "WatchdogSec=30"),
        ("mcp-bridge-local", "MemoryMax=3G"),
        ("mcp-gateway-health", "TimeoutStartSec=1min"),
        ("mcp-gateway-logs", "PrivateNetwork=false"),
    ],
)
def test_what_an_operator_sets_of_the_gateways_own_units_wins(unit: str, line: str) -> None:
    key = line.partition("=")[0]
    lines = load(evaluated("github")).units[f"{unit}.service"]
    assert [each for each in lines if each.partition("=")[0] == key] == [line]


def test_a_server_with_devices_sees_the_drivers_of_graphics_cards() -> None:
    lines = load(evaluated("oidc")).units["mcp-server-time@.service"]
    assert {"PrivateDevices=false", "BindReadOnlyPaths=-/run/opengl-driver"} <= set(lines)


def test_limits_are_of_one_process_of_a_server_and_of_all_together() -> None:
    units = load(evaluated("github")).units
    # The unit's first process is one of its tasks.
    assert {"MemoryMax=512M", "TasksMax=65", "CPUQuota=50%"} <= set(units["mcp-server-notes@.service"])
    assert {"MemoryMax=2G", "TasksMax=512", "CPUQuota=150%"} <= set(units["mcp-gateway-notes.slice"])
    # The bridge's own is none of the server's.
    limits = ("MemoryMax", "TasksMax", "CPUQuota")
    assert [line for line in units["mcp-bridge-notes.service"] if line.startswith(limits)] == ["MemoryMax=2G"]


def test_what_lets_the_gateway_in_at_a_server_is_a_credential_of_the_part_that_needs_it() -> None:
    configuration = load(evaluated("github"))
    wiki = settings_of(configuration).resources["wiki"]
    assert wiki.backend_credential
    assert wiki.backend_tls is not None
    folder = "/run/credentials/traefik.service"
    files = {
        wiki.backend_tls.ca_file: "/etc/ssl/wiki-ca.pem",
        wiki.backend_tls.certificate_file: "/run/secrets/gateway.crt",
        wiki.backend_tls.key_file: "/run/secrets/gateway.key",
    }
    router = configuration.units["traefik.service"]
    for path, file in files.items():
        assert f"LoadCredential={str(path).removeprefix(f'{folder}/')}:{file}" in router
    token = "LoadCredential=backend-credential.wiki:/run/secrets/wiki-token"
    assert [unit for unit, lines in configuration.units.items() if token in lines] == ["mcp-auth-service.service"]
    for unit, lines in configuration.units.items():
        assert unit == "traefik.service" or not any("gateway.key" in line for line in lines), unit


def test_a_server_with_domains_reaches_its_egress_proxy_and_nothing_else() -> None:
    units = load(evaluated("sandboxes")).units
    lines = units["mcp-server-domains@.service"]
    place = "BindReadOnlyPaths=/run/mcp-oauth-gateway/egress/domains:/run/mcp-egress"
    assert {place, "PrivateNetwork=true", "IPAddressDeny=any", "IPAddressAllow=localhost"} <= set(lines)
    assert not any(line.startswith(("BindPaths=", "BindReadOnlyPaths=")) for line in lines if line != place)
    environment = {line.removeprefix("Environment=").strip('"') for line in lines if line.startswith("Environment=")}
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        assert {f"{name}=http://127.0.0.1:3128", f"{name.lower()}=http://127.0.0.1:3128"} <= environment
    assert {"NO_PROXY=localhost,127.0.0.1,::1", "NODE_USE_ENV_PROXY=1"} <= environment
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert " --relay 3128 " in start
    assert " /run/mcp-egress/socket " in start
    for unit, others in units.items():
        if "domains" not in unit:
            assert not any("mcp-egress" in line or "_PROXY=" in line or "--relay" in line for line in others), unit


def test_an_egress_proxy_reaches_what_a_server_on_the_internet_reaches() -> None:
    units = load(evaluated("sandboxes")).units
    kinds = ("IPAddress", "PrivateNetwork=", "RestrictAddressFamilies=", "RestrictNetworkInterfaces=")
    proxy, server = (
        {line for line in units[unit] if line.startswith(kinds)}
        for unit in ("mcp-egress-domains.service", "mcp-server-internet@.service")
    )
    assert len(server) > 20
    assert proxy == server, "with the same `denyAddresses`"
    lines = units["mcp-egress-domains.service"]
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert start.endswith('mcp-egress-proxy" "--domain" "api.example.com" "--domain" "*.addresses.example"')
    assert "Slice=mcp-gateway-domains.slice" in lines


def test_the_doctor_is_told_where_the_egress_proxies_of_this_host_listen() -> None:
    configuration = load(evaluated("sandboxes"))
    told = {name: each.egress_socket for name, each in settings_of(configuration).resources.items()}
    (socket,) = (line for line in configuration.units["mcp-egress-domains.socket"] if line.startswith("ListenStream="))
    assert told == dict.fromkeys(told) | {"domains": socket.removeprefix("ListenStream=")}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_socket_is_started_again_when_it_fails_however_often(name: str) -> None:
    for configuration in load_machines(evaluated(name)).values():
        sockets = [unit for unit in configuration.units if unit.endswith(".socket")]
        for unit in sockets:
            recovery = f"OnFailure=mcp-gateway-recovery@{unit.removesuffix('.socket')}.service"
            assert {recovery, "StartLimitIntervalSec=0"} <= set(configuration.units[unit]), unit
        if sockets:
            lines = configuration.units["mcp-gateway-recovery@.service"]
            assert {"OnSuccess=%i.socket", "Restart=on-failure", "StartLimitIntervalSec=0"} <= set(lines)


def test_the_files_of_each_user_are_shown_by_the_units_first_process_which_alone_has_the_capability_to() -> None:
    units = load(evaluated("sandboxes")).units
    lent = {"AmbientCapabilities=CAP_SYS_ADMIN", "CapabilityBoundingSet=CAP_SYS_ADMIN", "RestrictNamespaces=mnt"}
    kept_apart = ("diary", "album", "drive")
    for server in kept_apart:
        lines = units[f"mcp-server-{server}@.service"]
        assert {*lent, "PrivateUsers=true", "NoNewPrivileges=true", f"StateDirectory=mcp-server-{server}"} <= set(lines)
        assert [line for line in lines if line.startswith("SystemCallFilter")][-1] == "SystemCallFilter=mount capset"
        assert any(f"server_init.py --per-user /var/lib/mcp-server-{server} " in line for line in lines)
        assert f"WorkingDirectory=/var/lib/mcp-server-{server}" in lines
    others = [
        lines
        for unit, lines in units.items()
        if unit.startswith("mcp-") and not any(server in unit for server in kept_apart)
    ]
    assert len(others) > 20
    assert not any(lent & set(lines) or "per-user" in "".join(lines) for lines in others)


def test_the_routers_own_entry_point_alone_keeps_the_method_and_url_that_it_forwards_to_verify() -> None:
    files = load_machines(evaluated("several_hosts"))["edge"].files
    (static,) = [tomllib.loads(text) for name, text in files.items() if name.endswith("-static.toml")]
    entry_points = static["entryPoints"]
    assert entry_points["mcp-internal"]["address"].startswith("127.0.0.1:")
    assert entry_points["mcp-internal"]["forwardedHeaders"] == {"trustedIPs": ["127.0.0.1/32"]}
    assert [name for name, each in entry_points.items() if "forwardedHeaders" in each] == ["mcp-internal"]


def test_what_a_server_is_given_is_not_read_as_a_specifier() -> None:
    assert 'Environment="PERCENT=100%%"' in load(evaluated("github")).units["mcp-server-notes@.service"]


def test_every_mistake_that_a_module_names_is_made_in_some_case() -> None:
    told = [
        message
        for case in json.loads(evaluated("mistakes").read_text()).values()
        for message in [*case["failedAssertions"], *case["warnings"]]
    ]
    templates = [
        template
        for path in MODULES.rglob("*.nix")
        for template in re.findall(r'"(\$\{(?:option|names)\}(?:[^"\\\n]|\\.)*)"', path.read_text())
        if ":" in template
    ]
    assert len(templates) > 25
    for template in templates:
        literal = re.split(r"\$\{[^}]*\}", template.replace('\\"', '"').replace("${option}", OPTION))
        pattern = ".*".join(map(re.escape, literal))
        assert any(re.match(pattern, message, re.DOTALL) for message in told), f"no case for: {template}"


def test_one_mistake_is_one_complaint() -> None:
    cases = json.loads(evaluated("mistakes").read_text())
    accepted = (
        "none",
        "several-hosts",
        "state-of-each-user",
        "credentials-of-users",
        "credentials-beside-files-of-each-user",
        "client-with-its-public-key",
        "issuer-with-keys",
        "issuer-with-usual-subjects",
        "issuer-with-such-subjects-elsewhere",
        "credential-in-plain-text-on-this-host",
        "defaults-of-a-url",
        "proxy-of-the-operator",
        "sleep-that-is-said-twice",
    )
    fine = [cases.pop(name) for name in accepted]
    assert fine == [{"failedAssertions": [], "warnings": []}] * len(accepted)
    assert [name for name, case in cases.items() if not case["failedAssertions"] and not case["warnings"]] == []


def test_a_working_configuration_raises_no_complaint(gateway: Configuration) -> None:
    assert gateway.failedAssertions == []
    assert gateway.warnings == []


def test_units_log_to_the_systems_journal_unless_they_are_given_one_of_their_own(gateway: Configuration) -> None:
    def namespaces(configuration: Configuration) -> set[str]:
        lines = [line for unit in configuration.units.values() for line in unit]
        return {line for line in lines if line.startswith("LogNamespace=")}

    assert namespaces(load(evaluated("presets"))) == set()
    assert namespaces(gateway) == {"LogNamespace=mcp-gateway"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_bridge_has_nothing_of_its_servers_and_no_server_has_anything_of_the_bridges(name: str) -> None:
    for configuration in load_machines(evaluated(name)).values():
        for unit, lines in configuration.units.items():
            settings = {line.partition("=")[0] for line in lines}
            server = re.fullmatch(r"mcp-(?:bridge|server)-([a-z0-9-]+)(?:@[0-9]*)?\.service", unit)
            if unit.startswith("mcp-bridge-") and server is not None:
                if not has_tracing(configuration) and not asks_for_credentials(configuration, server[1]):
                    assert {"PrivateNetwork=true", "LimitNPROC=1"} <= set(lines), unit
                    assert "RestrictAddressFamilies=AF_INET" not in lines, unit
                assert "RestrictAddressFamilies=AF_UNIX" in lines, unit
                assert "MemoryDenyWriteExecute=false" not in lines, unit
                assert not {"EnvironmentFile", "StateDirectory", "SupplementaryGroups", "User"} & settings, unit
                assert f"BindReadOnlyPaths=/run/mcp-oauth-gateway/servers/{server[1]}:/run/mcp-server" in lines
            if unit.startswith("mcp-server-") and server is not None:
                assert not {"OpenFile", "LoadCredential"} & settings, unit
                assert not [line for line in lines if "/run/mcp-oauth-gateway/servers" in line], unit
                assert f"Slice=mcp-gateway-{server[1].replace('-', chr(92) + 'x2d')}.slice" in lines
                assert "X-RestartIfChanged=false" in lines


@needs_nix
def test_a_bridge_is_started_anew_when_the_units_of_its_server_change_and_not_otherwise(tmp_path: Path) -> None:
    def find_trigger(settings: str) -> str:
        case = tmp_path / "case.nix"
        case.write_text(
            f"""
            {{
              imports = [ {evaluation.cases()["full_flow"]} ];
              services.mcp-oauth-gateway.servers.time = {{ {settings} }};
            }}
            """
        )
        result = tmp_path / "case.json"
        result.write_text(evaluation.render(evaluation.evaluate(case)))
        lines = load(result).units["mcp-bridge-time.service"]
        (trigger,) = (line for line in lines if line.startswith("X-Restart-Triggers="))
        return trigger

    before = find_trigger("")
    for changed in ('arguments = [ "-v" ]', 'environment.A = "b"', 'limits.memory = "1G"', 'sandbox.network = "full"'):
        assert find_trigger(f"{changed};") != before, changed
    assert find_trigger("limits.calls = 1;") == before


def test_a_bridge_never_gets_the_master_key(gateway: Configuration) -> None:
    unit = gateway.units["mcp-bridge-time.service"]
    assert "OpenFile=/run/mcp-oauth-gateway/identity-time:identity-key:read-only" in unit
    assert not [line for line in unit if line.startswith("LoadCredential=") or "master-key" in line]


def asks_for_credentials(configuration: Configuration, server: str) -> bool:
    """Whether the bridge of a server asks the auth service for users' credentials."""
    file = configuration.files.get(f"mcp-oauth-gateway/bridge-{server}.json", "{}")
    return "credentials-url" in json.loads(file)


def test_a_bridge_reaches_the_auth_services_alone_and_only_where_users_have_credentials() -> None:
    github = load(evaluated("github"))
    assert [server for server in ("issues", "local", "notes") if asks_for_credentials(github, server)] == ["issues"]
    bridge = json.loads(github.files["mcp-oauth-gateway/bridge-issues.json"])
    assert bridge["credentials-url"] == ["http://127.0.0.1:9010/credentials/issues"]
    assert bridge["user-credential"] == ["DRIVE_TOKEN", "TRACKER_TOKEN"]
    assert settings_of(github).resources["issues"].user_credentials.keys() == set(bridge["user-credential"])
    assert "user-credential" not in json.loads(github.files["mcp-oauth-gateway/bridge-notes.json"])
    hosts = load(evaluated("hosts"))
    bridge = json.loads(hosts.files["mcp-oauth-gateway/bridge-time.json"])
    assert bridge["credentials-url"] == [
        "http://10.0.0.1:9000/credentials/time",
        "http://[fd00::2]:9000/credentials/time",
    ]
    unit = hosts.units["mcp-bridge-time.service"]
    assert {line for line in unit if line.startswith("IPAddress")} == {
        "IPAddressDeny=any",
        "IPAddressAllow=10.0.0.1",
        "IPAddressAllow=fd00::2",
    }
    assert {"PrivateNetwork=false", "LimitNPROC=1"} <= set(unit)
    assert not [line for line in hosts.units["mcp-bridge-fetch.service"] if line.startswith("IPAddress")]


def test_the_auth_service_alone_gets_the_client_secrets_of_connections() -> None:
    configuration = load(evaluated("github"))
    secret = "LoadCredential=user-credential-secret.issues.DRIVE_TOKEN:/run/secrets/drive"
    assert [unit for unit, lines in configuration.units.items() if secret in lines] == ["mcp-auth-service.service"]
    credentials = settings_of(configuration).resources["issues"].user_credentials
    assert credentials["TRACKER_TOKEN"].pattern == "trk_[A-Za-z0-9]{20,}"
    connection = credentials["DRIVE_TOKEN"].oauth
    assert connection is not None
    assert connection.issuer == "https://login.example.com"
    assert connection.revocation_endpoint == "https://drive.example.com/revoke"
    assert connection.token_endpoint_auth_method == "client_secret_post"
    assert connection.authorization_parameters == {"access_type": "offline"}
    assert "/run/secrets/drive" not in configuration.files["mcp-oauth-gateway/settings.json"]


@needs_nix
@pytest.mark.parametrize("missing", ["authorizationEndpoint", "tokenEndpoint", "clientId"])
def test_a_connection_without_endpoints_or_client_is_refused(tmp_path: Path, missing: str) -> None:
    whole = {
        "authorizationEndpoint": '"https://a.example/authorize"',
        "tokenEndpoint": '"https://a.example/token"',
        "clientId": '"gateway"',
        "scopes": "[ ]",
    }
    settings = " ".join(f"{name} = {value};" for name, value in whole.items() if name != missing)
    case = tmp_path / "case.nix"
    case.write_text(
        f"""
        {{
          imports = [ {evaluation.cases()["full_flow"]} ];
          services.mcp-oauth-gateway.servers.time.userCredentials.TOKEN = {{ label = "x"; oauth = {{ {settings} }}; }};
        }}
        """
    )
    with pytest.raises(RuntimeError, match=rf"oauth\.{missing}' was accessed but has no value defined"):
        evaluation.evaluate(case)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_health_check_has_the_keys_of_all_servers_and_never_the_master_key(name: str) -> None:
    for configuration in load_machines(evaluated(name)).values():
        unit = configuration.units.get("mcp-gateway-health.service", [])
        credentials = {line for line in unit if line.startswith("LoadCredential=")}
        if unit:
            assert credentials == {
                f"LoadCredential=identity-{server}:/run/mcp-oauth-gateway/identity-{server}"
                for server in settings_of(configuration).resources
            }
            for server in settings_of(configuration).resources:
                assert f"Requires=mcp-identity-{server}.service" in unit
                assert f"mcp-identity-{server}.service" in configuration.units


def test_a_changed_set_of_servers_only_reloads_the_auth_service(gateway: Configuration) -> None:
    unit = gateway.units["mcp-auth-service.service"]
    assert any(line.startswith("X-Reload-Triggers=") for line in unit)
    assert any(line.startswith("ExecReload=") for line in unit)


def prometheus_of(configuration: Configuration) -> dict[str, Any]:
    """Return the configuration of Prometheus."""
    (text,) = (text for name, text in configuration.files.items() if name.endswith("-prometheus.yml"))
    document: dict[str, Any] = json.loads(text)
    return document


def asleep_at_times(status_service: str, bridge: str, server: str) -> dict[str, Any]:
    """Return how a bridge is scraped that a scrape must not wake."""
    path = f"/mcp-bridge-{server}/metrics"
    labels = {"part": "bridge", "server": server, "instance": bridge, "__metrics_path__": path}
    return {"targets": [status_service], "labels": labels}


def test_prometheus_scrapes_every_part_with_the_labels_that_the_alerts_rely_on() -> None:
    prometheus = prometheus_of(load(evaluated("github")))
    assert prometheus["rule_files"] == ["/nix/store/alerts.yaml"]
    gateway, host = prometheus["scrape_configs"]
    assert (gateway["job_name"], host["job_name"]) == ("mcp-gateway", "mcp-gateway-host")
    assert gateway["static_configs"] == [
        {"targets": ["127.0.0.1:9010"], "labels": {"part": "auth"}},
        {"targets": ["127.0.0.1:9110"], "labels": {"part": "router"}},
        {"targets": ["127.0.0.1:21000", "127.0.0.1:21001"], "labels": {"part": "bridge", "server": "notes"}},
        asleep_at_times("127.0.0.1:9011", "127.0.0.1:21013", "issues"),
        asleep_at_times("127.0.0.1:9011", "127.0.0.1:21921", "local"),
    ]
    assert host["static_configs"] == [{"targets": ["127.0.0.1:9100"], "labels": {}}]


def test_prometheus_scrapes_the_parts_of_all_hosts_if_it_is_to() -> None:
    gateway, host, own = prometheus_of(load(evaluated("hosts")))["scrape_configs"]
    assert own == {"job_name": "blog"}, "an operator's own jobs stay"
    assert gateway["static_configs"] == [
        {"targets": ["10.0.0.1:9000", "[fd00::2]:9000"], "labels": {"part": "auth"}},
        {"targets": ["10.0.0.3:27257", "10.0.0.3:27258"], "labels": {"part": "bridge", "server": "fetch"}},
        {"targets": ["10.0.0.3:22456", "10.0.0.4:22456"], "labels": {"part": "bridge", "server": "time"}},
        asleep_at_times("10.0.0.4:9001", "10.0.0.4:28201", "git"),
    ]
    assert host["static_configs"] == [{"targets": ["127.0.0.1:9200"], "labels": {}}], "it listens at every address"


def test_only_series_of_the_gateway_are_kept_of_what_node_exporter_knows() -> None:
    host = prometheus_of(load(evaluated("github")))["scrape_configs"][1]
    (keep,) = host["metric_relabel_configs"]
    assert (keep["action"], keep["source_labels"]) == ("keep", ["__name__", "name"])
    units = [name for name in load(evaluated("github")).units if not name.endswith((".slice", "@.service"))]
    kept = [f"node_systemd_unit_state;{name}" for name in units if name.startswith(("mcp-", "traefik"))]
    kept = [each for each in kept if "mcp-server-" not in each]
    assert any("mcp-auth-service" in each for each in kept)
    for series in [*kept, "mcp_gateway_server_up;", "node_filesystem_avail_bytes;"]:
        assert re.fullmatch(keep["regex"], series), series
    for series in (
        "node_systemd_unit_state;mcp-server-notes@7-1.service",
        "node_systemd_unit_state;sshd.service",
        "go_gc;",
    ):
        assert not re.fullmatch(keep["regex"], series), series


def test_node_exporter_listens_on_loopback_and_reads_the_results_of_the_health_check() -> None:
    (command,) = (
        line
        for line in load(evaluated("github")).units["prometheus-node-exporter.service"]
        if line.startswith("ExecStart=")
    )
    assert "--collector.systemd" in command
    assert "--web.listen-address 127.0.0.1:9100" in command
    assert "--collector.textfile.directory=/var/lib/mcp-gateway-health" in command
    # A host without the auth service has no results.
    (command,) = (
        line
        for line in load(evaluated("hosts")).units["prometheus-node-exporter.service"]
        if line.startswith("ExecStart=")
    )
    assert "textfile" not in command


def test_grafana_reads_the_folder_of_the_dashboard() -> None:
    (text,) = (text for name, text in load(evaluated("github")).files.items() if name.endswith("-dashboards.json"))
    (provider,) = json.loads(text)["providers"]
    assert provider["type"] == "file"
    assert provider["options"] == {"path": "/nix/store/dashboards"}
    assert [path.suffix for path in (CHECKOUT / "monitoring/dashboards").iterdir()] == [".json"]


def test_a_gateway_without_these_options_sets_nothing_of_prometheus_and_grafana(gateway: Configuration) -> None:
    assert not [name for name in gateway.files if "prometheus" in name or "dashboards" in name]
    assert "prometheus-node-exporter.service" not in gateway.units
