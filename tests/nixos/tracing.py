# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


TIME = "https://time.mcp.example.com/mcp"
LARGEST_EXPOSURE = 15  # tenths, as `systemd-analyze security --threshold` counts

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("stand-in-github.service")
machine.wait_for_open_port(443)
machine.wait_for_open_port(4318)

with subtest("each part sends its spans from within its sandbox"):
    machine.wait_until_succeeds(f"test-client challenge {TIME}")
    machine.succeed(f"test-client login https://mcp.example.com {TIME} > /root/token")
    machine.succeed(f"test-client call {TIME} --token-file /root/token")
    for service in ("traefik", "mcp-auth-service", "mcp-bridge-time"):
        machine.wait_until_succeeds(f"grep --line-regexp {service} /run/traced")

with subtest("a bridge sends its last spans when it stops, and stops at once"):
    machine.succeed("rm /run/traced")
    machine.succeed(f"test-client call {TIME} --token-file /root/token")
    machine.succeed("systemctl stop mcp-bridge-time.service")
    machine.wait_until_succeeds("grep --line-regexp mcp-bridge-time /run/traced")
    machine.fail("systemctl is-failed mcp-bridge-time.service")

with subtest("a bridge that may reach the collector is exposed no more than its sandbox needs"):
    machine.succeed(f"systemd-analyze security --no-pager --threshold={LARGEST_EXPOSURE} mcp-bridge-time.service")

with subtest("without its collector the gateway goes on"):
    machine.succeed("systemctl stop stand-in-collector.service")
    machine.succeed(f"test-client call {TIME} --token-file /root/token")
    machine.succeed(f"test-client call {TIME} --token-file /root/token")
