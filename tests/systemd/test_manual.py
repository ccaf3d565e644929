"""The examples of several hosts in docs/operations.md evaluate, and its tables say which secret and port is where."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.systemd import evaluation
from tests.systemd.deployment import Configuration

HERE = Path(__file__).parent
MANUAL = (evaluation.CHECKOUT / "docs/operations.md").read_text()
ROLES = ("router", "auth", "bridges")

pytestmark = pytest.mark.skipif(not evaluation.can_evaluate(), reason="needs nix-instantiate and <nixpkgs/lib>")


def section(heading: str) -> str:
    """Return what stands below a heading of the manual, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^##)", MANUAL, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def examples(heading: str) -> list[str]:
    return re.findall(r"^```nix\n(.*?)^```", section(heading), re.DOTALL | re.MULTILINE)


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def evaluate(folder: Path, nodes: dict[str, str]) -> dict[str, Configuration]:
    """Evaluate hosts, each of which is a Nix expression of a module."""
    scenario = folder / "hosts.nix"
    scenario.write_text("{ nodes = {" + "".join(f"{name} = {node};" for name, node in nodes.items()) + "}; }")
    evaluated = evaluation.evaluate(scenario)["nodes"]
    assert isinstance(evaluated, dict)
    hosts = {name: Configuration(**each) for name, each in evaluated.items()}
    for name, host in hosts.items():
        assert (name, host.failedAssertions, host.warnings) == (name, [], [])
    return hosts


def write_two_hosts(folder: Path) -> dict[str, str]:
    """Write the manual's files, and return the expression of each host."""
    for text in examples("Two hosts"):
        name = re.match(r"# (\w+\.nix)\n", text)
        assert name is not None, text
        (folder / name[1]).write_text(text)
    return {name: f"{folder}/{name}.nix" for name in ("front", "tools")}


def listening_at(host: Configuration, address: str) -> set[int]:
    lines = [line for unit in host.units.values() for line in unit]
    return {int(line.rpartition(":")[2]) for line in lines if line.startswith(f"ListenStream={address}:")}


def opened(host: str) -> set[int]:
    """Return the ports that a host opens on the interface of the private network."""
    expression = """
      path: (import ./module.nix { configuration = path; lib = import <nixpkgs/lib>; })
        .config.networking.firewall.interfaces.wg0.allowedTCPPorts
    """
    command = ("nix-instantiate", "--eval", "--strict", "--json", "-E", f"({expression}) {host}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_example_of_two_hosts_evaluates_and_opens_the_ports_at_which_each_listens(tmp_path: Path) -> None:
    nodes = write_two_hosts(tmp_path)
    hosts = evaluate(tmp_path, nodes)
    front, tools = hosts["front"].units, hosts["tools"].units
    assert {"traefik.service", "mcp-auth-service.service", "redis-mcp-oauth-gateway.service"} <= front.keys()
    assert not [unit for unit in front if unit.startswith("mcp-bridge-")]
    assert {"mcp-bridge-time.service", "mcp-bridge-github.service"} <= tools.keys()
    assert not {"traefik.service", "mcp-auth-service.service", "redis-mcp-oauth-gateway.service"} & tools.keys()
    assert (hosts["front"].ports, hosts["tools"].ports) == ([80, 443], [])
    assert "LoadCredential=master-key:/run/secrets/mcp-gateway-master-key" in tools["mcp-identity-github.service"]
    for name, address in (("front", "10.0.0.1"), ("tools", "10.0.0.2")):
        assert opened(nodes[name]) == listening_at(hosts[name], address), name
    assert listening_at(hosts["front"], "10.0.0.1") == {9000}
    status, *servers = sorted(listening_at(hosts["tools"], "10.0.0.2"))
    assert status == 9001
    assert len(servers) == 2
    assert all(20000 <= port <= 29999 for port in servers)


def test_hosts_with_bridges_alone_need_no_master_key_if_their_servers_have_keys(tmp_path: Path) -> None:
    keys = "".join(f'servers.{name}.identityKeyFile = "/run/secrets/{name}.key";' for name in ("time", "github"))
    nodes = {
        name: f"{{ imports = [ {path} ]; services.mcp-oauth-gateway = {{ {keys} }}; }}"
        for name, path in write_two_hosts(tmp_path).items()
    }
    hosts = evaluate(tmp_path, nodes)
    assert "mcp-gateway-master-key" in str(hosts["front"].units)
    assert "mcp-gateway-master-key" not in str(hosts["tools"].units)


def test_the_example_of_several_auth_hosts_evaluates_in_place_of_the_two(tmp_path: Path) -> None:
    write_two_hosts(tmp_path)
    (several,) = examples("Several auth hosts")
    file = tmp_path / "gateway.nix"
    text, times = re.subn(r"    hosts = \{.*?    masterKeyFile[^\n]*\n", several, file.read_text(), flags=re.DOTALL)
    assert times == 1
    file.write_text(text)
    roles = dict(re.findall(r"^  ([\w-]+) = \{ address.*roles = \[ (.*) \]", several, re.MULTILINE))
    hosts = evaluate(tmp_path, dict.fromkeys(roles, str(file)))
    units = {"router": "traefik.service", "auth": "mcp-auth-service.service", "bridges": "mcp-bridge-github.service"}
    assert {name: {role for role in ROLES if units[role] in host.units} for name, host in hosts.items()} == {
        name: set(re.findall(r"\w+", words)) for name, words in roles.items()
    }
    assert len(hosts) == 4
    assert not [host for host in hosts.values() if "redis-mcp-oauth-gateway.service" in host.units]


SECRETS = {
    option: set(re.findall(r"`(\w+)`", where.partition(";")[0]))
    for options, where, _ in rows("Secrets")
    for option in re.findall(r"`([\w.]+)`", options)
}
"""On hosts with which roles the manual says that each secret is."""


def test_the_table_of_secrets_has_all_of_them() -> None:
    public = {"toolsLockFile", "publicKeyFile", "keysFile"}
    names = {str(each["name"]).partition("mcp-oauth-gateway.")[2] for each in evaluation.evaluate_options()}
    files = {name.replace("<name>", "NAME") for name in names if name.endswith("File")}
    files = {re.sub(r"(urlClientCertificate)\.\w+", r"\1", name) for name in files}
    assert {name for name in files if name.rpartition(".")[2] not in public} == set(SECRETS)


@pytest.mark.parametrize(
    ("chosen", "left_out"),
    [
        ("acme.email = null;", ("identityProvider.oidc", "acme.", "servers.NAME.identityKeyFile")),
        (
            'acme.email = "ops@example.com"; identityProvider.oidc.issuer = "https://login.example.com";',
            ("identityProvider.github", "certificate."),
        ),
    ],
    ids=["github, own certificate, one master key", "oidc, acme, a key for each server"],
)
def test_a_host_reads_the_secrets_that_the_table_gives_its_role(
    tmp_path: Path, chosen: str, left_out: tuple[str, ...]
) -> None:
    options = {option: roles for option, roles in SECRETS.items() if not option.startswith(left_out)}
    provider = "oidc" if "oidc" in chosen else "github"
    common = f"""
      services.mcp-oauth-gateway = {{
        enable = true;
        domain = "mcp.example.com";
        {chosen}
        identityProvider.{provider} = {{ clientId = "id"; allowedUsers = [ "octocat" ]; }};
        hosts = {{
          router = {{ address = "10.0.0.1"; roles = [ "router" ]; }};
          auth = {{ address = "10.0.0.2"; roles = [ "auth" ]; }};
          bridges = {{ address = "10.0.0.3"; roles = [ "bridges" ]; }};
        }};
        redis.url = "redis://10.0.0.4:6379";
        servers.vault = {{
          command = [ "/bin/vault" ];
          userCredentials.TOKEN = {{
            label = "Token";
            oauth = {{
              authorizationEndpoint = "https://vault.example.com/authorize";
              tokenEndpoint = "https://vault.example.com/token";
              clientId = "id";
            }};
          }};
        }};
        servers.tickets.url = "https://tickets.example.com/mcp";
        declaredClients.nightly.servers = [ "tickets" ];
        {"".join(map(assign, options))}
      }};
    """
    file = tmp_path / "common.nix"
    file.write_text(f"{{ {common} }}")
    hosts = evaluate(tmp_path, dict.fromkeys(ROLES, str(file)))
    if "servers.NAME.identityKeyFile" in options:
        options["masterKeyFile"] = {"auth"}
    for option, roles in options.items():
        path = re.compile(rf"/run/secrets/{re.escape(option)}(?![\w.])")
        readers = {name for name, host in hosts.items() if path.search(str(list(host.units.values())))}
        assert readers == roles, option


def assign(option: str) -> str:
    """Return the Nix that sets a secret of the manual to a path of its own name."""
    server = "tickets" if ".url" in option else "vault"
    name = option.replace("userCredentials.NAME", "userCredentials.TOKEN").replace("servers.NAME", f"servers.{server}")
    path = f'"/run/secrets/{option}"'
    value = f"{{ certFile = {path}; keyFile = {path}; }}" if name.endswith("Certificate") else path
    return f"{name.replace('Clients.NAME', 'Clients.nightly')} = {value};\n"
