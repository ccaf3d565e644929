# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


start_all()
machine.wait_for_unit("mcp-auth-service.service")
LARGEST_EXPOSURE = 15  # tenths, as `systemd-analyze security --threshold` counts

for unit in (
    "mcp-auth-service",
    "mcp-bridge-time",
    "mcp-server-time@1",
    "mcp-gateway-health",
    "mcp-gateway-logs",
    "mcp-gateway-recovery@1",
    "mcp-gateway-status",
    "mcp-identity-time",
    "mcp-oauth-gateway-master-key",
):
    with subtest(f"{unit} is exposed no more than its sandbox needs"):
        machine.succeed(f"systemd-analyze security --no-pager --threshold={LARGEST_EXPOSURE} {unit}.service")

with subtest("a unit without a sandbox would be found out"):
    machine.fail(f"systemd-analyze security --no-pager --threshold={LARGEST_EXPOSURE} stand-in-github.service")

with subtest("only root can read the keys"):
    for path in ("/var/lib/mcp-oauth-gateway/master-key", "/run/mcp-oauth-gateway/identity-time"):
        machine.wait_until_succeeds(f"test -s {path} || {{ systemctl start mcp-identity-time.service; false; }}")
        assert machine.succeed(f"stat --format='%U %a' {path}").split() == ["root", "600"]

with subtest("the bridge's key is the one that the auth service signs with, and no other server's"):
    derive = "mcp-gatewayctl keys identity {} --master-key /var/lib/mcp-oauth-gateway/master-key"
    key = machine.succeed("cat /run/mcp-oauth-gateway/identity-time").strip()
    assert key == machine.succeed(derive.format("time")).strip()
    assert key != machine.succeed(derive.format("other")).strip()
