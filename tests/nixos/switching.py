# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


ISSUER = "https://mcp.example.com"
TIME = "https://time.mcp.example.com/mcp"
OTHER = "https://other.mcp.example.com/mcp"
UNTOUCHED = ("redis-mcp-oauth-gateway", "traefik", "mcp-auth-service", "mcp-bridge-time")

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_open_port(443)
machine.wait_until_succeeds(f"test-client challenge {TIME}")
machine.succeed(f"test-client login {ISSUER} {TIME} > /root/token")
machine.succeed(f"test-client open {TIME} --token-file /root/token > /root/session")
arguments = f"{TIME} --token-file /root/token --session-file /root/session"
trust = "--setenv=REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt"
machine.succeed(f"systemd-run --unit=stream {trust} $(command -v test-client) stream {arguments}")
system = machine.succeed("readlink --canonicalize /run/current-system").strip()


def main_pids() -> dict[str, str]:
    """Return the main process of each unit that no server's change may touch."""
    return {unit: machine.succeed(f"systemctl show --property=MainPID --value {unit}.service") for unit in UNTOUCHED}


def switch(name: str) -> None:
    """Switch, and see that nobody else has noticed."""
    before = main_pids()
    machine.succeed(f"{system}/specialisation/{name}/bin/switch-to-configuration test")
    assert main_pids() == before, name
    assert "UTC" in machine.succeed(f"test-client call {arguments}")
    machine.succeed("systemctl is-active stream.service")


with subtest("a server that is added can be used, and nothing else restarts"):
    machine.fail(f"test-client challenge {OTHER}")
    switch("added")
    machine.wait_until_succeeds(f"test-client challenge {OTHER}")
    machine.succeed(f"test-client login {ISSUER} {OTHER} > /root/other-token")
    machine.succeed(f"test-client call {OTHER} --token-file /root/other-token")

with subtest("a server that is changed runs as it is now, and nothing else restarts"):
    assert "local-timezone=UTC" in machine.succeed("systemctl cat mcp-server-other@.service")
    old = machine.succeed("systemctl show --property=MainPID --value mcp-bridge-other.service")
    switch("changed")
    machine.wait_until_succeeds(f"test-client call {OTHER} --token-file /root/other-token")
    assert "local-timezone=Asia/Tokyo" in machine.succeed("systemctl cat mcp-server-other@.service")
    assert machine.succeed("systemctl show --property=MainPID --value mcp-bridge-other.service") != old

with subtest("a server that moves to another port is found there, and nothing else restarts"):
    switch("moved")
    machine.wait_until_succeeds(f"test-client call {OTHER} --token-file /root/other-token")
    machine.wait_for_open_port(21000)

with subtest("a server that is removed is gone, and nothing else restarts"):
    switch("removed")
    machine.fail("systemctl is-active mcp-bridge-other.socket mcp-bridge-other.service")
    machine.wait_until_fails(f"test-client challenge {OTHER}")
    machine.fail(f"test-client call {OTHER} --token-file /root/other-token")

with subtest("an upgrade refuses no request, and ends no login"):
    machine.succeed("systemctl stop stream.service")
    knock = f"$(command -v test-client) knock {TIME} --token-file /root/token"
    machine.succeed(f"systemd-run --unit=knock {trust} {knock}")
    machine.wait_until_succeeds("systemctl is-active knock.service")
    before = main_pids()
    machine.succeed(f"{system}/specialisation/upgraded/bin/switch-to-configuration test")
    machine.succeed(f"test-client call {TIME} --token-file /root/token")
    upgraded = main_pids()
    assert {unit for unit in UNTOUCHED if upgraded[unit] != before[unit]} == {"mcp-auth-service", "mcp-bridge-time"}
    machine.succeed("systemctl is-active knock.service", "systemctl stop knock.service")

with subtest("the gateway itself moves to another port"):
    machine.succeed(f"{system}/specialisation/elsewhere/bin/switch-to-configuration test")
    machine.wait_until_succeeds(f"test-client call {TIME} --token-file /root/token")
    machine.succeed("test-client page http://127.0.0.1:9010/healthz")
    machine.fail("test-client page http://127.0.0.1:9000/healthz")
