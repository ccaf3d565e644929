# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.
import json
from typing import Any

SERVERS = ("none", "internet", "full")
PORT = 7777
INTERNET = "203.0.113.7"
PRIVATE = ("127.0.0.1", "127.0.0.53", "::1", "10.1.1.1", "172.16.1.1", "192.168.77.1", "100.64.1.1")
METADATA = ("169.254.169.254", "fd00:ec2::254")

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("listener.service")
machine.wait_for_open_port(PORT)
machine.wait_for_open_port(443)
for server in (*SERVERS, "keeper"):
    machine.wait_until_succeeds(f"test-client challenge https://{server}.mcp.example.com/mcp")
    machine.succeed(
        f"test-client login https://mcp.example.com https://{server}.mcp.example.com/mcp > /root/token-{server}"
    )


def attempt(server: str, *attempts: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let a server try things; return what it got by each, None where it got nothing."""
    arguments = {"attempts": [{"name": tool, "arguments": arguments} for tool, arguments in attempts]}
    answer = machine.succeed(
        f"test-client call https://{server}.mcp.example.com/mcp --token-file /root/token-{server}"
        f" --tool each --arguments '{json.dumps(arguments)}'"
    )
    return [each.get("done") for each in json.loads(answer)["done"]]


def reached(server: str, addresses: tuple[str, ...]) -> list[str]:
    """Return the addresses that a server gets an answer from."""
    got = attempt(server, *(("connect", {"host": address, "port": PORT}) for address in addresses))
    return [address for address, answer in zip(addresses, got, strict=True) if answer is not None]


RESOLVE = ("resolve", {"name": "example.com"})
ASK_RESOLVER = ("send", {"host": "127.0.0.53", "port": 53})

with subtest("a server without a network reaches nothing, and resolves no name"):
    assert reached("none", (INTERNET, *PRIVATE, *METADATA)) == []
    assert attempt("none", RESOLVE, ASK_RESOLVER) == [None, None]

with subtest("each is exposed no more than its network needs"):
    for server in (*SERVERS, "keeper"):
        status, report = machine.execute(
            f"systemd-analyze security --no-pager --threshold=15 mcp-bridge-{server}.service"
        )
        assert status == 0, report

with subtest("a server on the internet reaches the internet and resolves names"):
    assert reached("internet", (INTERNET,)) == [INTERNET]
    assert attempt("internet", RESOLVE) == [[INTERNET]]

with subtest("names resolve after what resolves them was started again"):
    machine.succeed("systemctl restart nscd.service")
    for server in ("internet", "full"):
        assert attempt(server, RESOLVE) == [[INTERNET]], server

with subtest("a server on the internet reaches neither this host, nor its networks, nor a cloud's metadata"):
    assert reached("internet", (*PRIVATE, *METADATA)) == []
    assert attempt("internet", ASK_RESOLVER) == [None]

with subtest("a server with the full network reaches it all"):
    everything = (INTERNET, *PRIVATE, *METADATA)
    assert set(reached("full", everything)) == set(everything)

with subtest("no server gets at Redis, the system bus or another unit's runtime files"):
    for server in SERVERS:
        *refused, credentials = attempt(
            server,
            ("connect_unix", {"path": "/run/redis-mcp-oauth-gateway/redis.sock"}),
            ("connect_unix", {"path": "/run/dbus/system_bus_socket"}),
            ("list", {"path": "/run/mcp-oauth-gateway"}),
            ("list", {"path": "/run/credentials"}),
        )
        assert refused == [None] * 3, (server, refused)
        assert credentials == [f"mcp-bridge-{server}.service"]

with subtest("no server reads keys, secrets or what another one keeps"):
    machine.succeed("test -s /var/lib/mcp-oauth-gateway/master-key")
    key = machine.succeed("ls /var/lib/private/mcp-auth-service/signing-keys/").split()[0]
    paths = (
        "/var/lib/mcp-oauth-gateway/master-key",
        f"/var/lib/private/mcp-auth-service/signing-keys/{key}",
        "/run/mcp-oauth-gateway/identity-time",
        "/root/token-full",
        "/var/lib/mcp-bridge-keeper/mine",
        "/var/lib/private/mcp-bridge-keeper/mine",
    )
    assert attempt("keeper", ("write", {"path": "/var/lib/mcp-bridge-keeper/mine"})) == [
        "/var/lib/mcp-bridge-keeper/mine"
    ]
    machine.succeed("test -s /var/lib/private/mcp-bridge-keeper/mine")
    for server in SERVERS:
        got = attempt(server, *(("read", {"path": path}) for path in paths))
        assert got == [None] * len(paths), (server, got)
    assert attempt("keeper", ("read", {"path": "/var/lib/mcp-bridge-keeper/mine"})) == ["written\n"]

with subtest("no server sees, signals or reads the environment of another's processes"):
    pid = int(machine.succeed("systemctl show --property=MainPID --value mcp-auth-service.service"))
    for server in SERVERS:
        seen, *got = attempt(
            server, ("processes", {}), ("signal", {"pid": pid}), ("read", {"path": f"/proc/{pid}/environ"})
        )
        assert len(seen) > 0
        assert all("mcp-auth-service" not in line for line in seen), seen
        assert got == [None, None], (server, got)

with subtest("no server writes outside what is its own"):
    outside = ("/etc/evil", "/usr/evil", "/var/evil", "/run/evil", "/root/evil", "/home/evil")
    for server in SERVERS:
        *got, own = attempt(server, *(("write", {"path": path}) for path in (*outside, "/tmp/mine")))
        assert got == [None] * len(outside), (server, got)
        assert own == "/tmp/mine"
    machine.fail("test -e /tmp/mine")

with subtest("no server is told a secret by its environment"):
    for server in SERVERS:
        (environment,) = attempt(server, ("environment", {}))
        assert "PATH" in environment
        assert not {"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "INVOCATION_ID"} & set(environment)
