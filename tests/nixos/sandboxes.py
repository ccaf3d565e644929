# The test driver runs this, in a VM or in a container, with what is imported here in scope.
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.systemd.driver import machine, start_all, subtest

SERVERS = ("none", "internet", "full")
PORT = 7777
INTERNET = "203.0.113.7"
PRIVATE = ("127.0.0.1", "127.0.0.53", "::1", "10.1.1.1", "172.16.1.1", "192.168.77.1", "100.64.1.1")
METADATA = ("169.254.169.254", "fd00:ec2::254")
STATE = "/var/lib/private"

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("listener.service")
machine.wait_for_open_port(PORT)
machine.wait_for_open_port(443)
for server in SERVERS:
    machine.wait_until_succeeds(f"test-client challenge https://{server}.mcp.example.com/mcp")
    machine.succeed(
        f"test-client login https://mcp.example.com https://{server}.mcp.example.com/mcp > /root/token-{server}"
    )


def attempt(server: str, tool: str, **arguments: Any) -> Any:
    """Let a server try something; return what it got, or None if it got nothing."""
    answer = machine.succeed(
        f"test-client call https://{server}.mcp.example.com/mcp --token-file /root/token-{server}"
        f" --tool {tool} --arguments '{json.dumps(arguments)}'"
    )
    return json.loads(answer).get("done")


def reached(server: str, addresses: tuple[str, ...]) -> list[str]:
    """Return the addresses that a server gets an answer from."""
    return attempt(server, "connect_each", hosts=addresses, port=PORT) or []


with subtest("a server without a network reaches nothing, and resolves no name"):
    assert reached("none", (INTERNET, *PRIVATE, *METADATA)) == []
    assert attempt("none", "resolve", name="example.com") is None
    assert attempt("none", "send", host="127.0.0.53", port=53) is None

with subtest("a server on the internet reaches the internet and resolves names"):
    assert reached("internet", (INTERNET,)) == [INTERNET]
    assert attempt("internet", "resolve", name="example.com") == [INTERNET]

with subtest("a server on the internet reaches neither this host, nor its networks, nor a cloud's metadata"):
    assert reached("internet", (*PRIVATE, *METADATA)) == []
    assert attempt("internet", "send", host="127.0.0.53", port=53) is None

with subtest("a server with the full network reaches it all"):
    everything = (INTERNET, *PRIVATE, *METADATA)
    assert set(reached("full", everything)) == set(everything)

with subtest("no server gets at Redis, the system bus or another unit's runtime files"):
    for server in SERVERS:
        for path in ("/run/redis-mcp-oauth-gateway/redis.sock", "/run/dbus/system_bus_socket"):
            assert attempt(server, "connect_unix", path=path) is None, (server, path)
        assert attempt(server, "list", path="/run/mcp-oauth-gateway") is None
        assert attempt(server, "list", path="/run/credentials") == [f"mcp-bridge-{server}.service"]

with subtest("no server reads keys, secrets or what another one keeps"):
    machine.succeed("test -s /var/lib/mcp-oauth-gateway/master-key")
    keys = machine.succeed("ls /var/lib/private/mcp-auth-service/signing-keys/").split()
    for server in SERVERS:
        for path in (
            "/var/lib/mcp-oauth-gateway/master-key",
            f"{STATE}/mcp-auth-service/signing-keys/{keys[0]}",
            "/run/mcp-oauth-gateway/identity-time",
            "/root/token-full",
        ):
            assert attempt(server, "read", path=path) is None, (server, path)

with subtest("no server sees, signals or reads the environment of another's processes"):
    pid = int(machine.succeed("systemctl show --property=MainPID --value mcp-auth-service.service"))
    for server in SERVERS:
        assert all("mcp-auth-service" not in line for line in attempt(server, "processes"))
        assert attempt(server, "signal", pid=pid) is None
        assert attempt(server, "read", path=f"/proc/{pid}/environ") is None

with subtest("no server writes outside what is its own"):
    for server in SERVERS:
        for path in (
            "/etc/evil",
            "/usr/evil",
            "/var/evil",
            "/run/evil",
            "/root/evil",
            "/home/evil",
            "/dev/shm/../evil",
        ):
            assert attempt(server, "write", path=path) is None, (server, path)
        assert attempt(server, "write", path="/tmp/mine") == "/tmp/mine"
    machine.fail("test -e /tmp/mine")

with subtest("no server is told a secret by its environment"):
    for server in SERVERS:
        environment = attempt(server, "environment")
        assert not {"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "INVOCATION_ID"} & set(environment)
