# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


TIME = "https://time.mcp.example.com/mcp"

start_all()
machine.wait_for_unit("redis-mcp-oauth-gateway.service")
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("traefik.service")
machine.wait_for_unit("mcp-bridge-time.socket")
machine.wait_for_unit("stand-in-github.service")
machine.wait_for_open_port(443)

with subtest("the bridge starts with its first request only"):
    machine.fail("systemctl is-active mcp-bridge-time.service")

with subtest("a request without a token is told where to get one"):
    machine.wait_until_succeeds(f"test-client challenge {TIME}")
    machine.fail("systemctl is-active mcp-bridge-time.service")

with subtest("plain http is sent to https"):
    machine.succeed("test-client redirect http://time.mcp.example.com/mcp")

with subtest("a client registers, its user approves and logs in, a tool answers"):
    machine.succeed(f"test-client login https://mcp.example.com {TIME} > /root/token")
    answer = machine.succeed(f"test-client call {TIME} --token-file /root/token")
    assert '"timezone": "UTC"' in answer, answer
    machine.wait_for_unit("mcp-bridge-time.service")

with subtest("a tool whose scope is for a team exists for its members only"):
    both = "convert_time get_current_time"
    assert machine.succeed(f"test-client tools {TIME} --token-file /root/token") == both
    convert = """--tool convert_time --arguments '{"source_timezone":"UTC","time":"12:00","target_timezone":"UTC"}'"""
    machine.fail(f"test-client call {TIME} --token-file /root/token {convert}")
    login = f"test-client login https://mcp.example.com {TIME} --scope 'mcp convert'"
    machine.succeed(f"{login} > /root/member")
    assert "T12:00:00" in machine.succeed(f"test-client call {TIME} --token-file /root/member {convert}")
    elsewhere = convert.replace('"target_timezone":"UTC"', '"target_timezone":"Asia/Tokyo"')
    machine.fail(f"test-client call {TIME} --token-file /root/member {elsewhere}")
    machine.succeed(f"{login} --login hubot > /root/other")
    assert machine.succeed(f"test-client tools {TIME} --token-file /root/other") == "get_current_time"
    machine.succeed(f"test-client call {TIME} --token-file /root/other")
    machine.fail(f"test-client call {TIME} --token-file /root/other {convert}")

with subtest("who is on no list gets in nowhere"):
    machine.fail(f"test-client login https://mcp.example.com {TIME} --login stranger")

with subtest("only a request that went through the gateway is answered by a bridge"):
    machine.succeed("test-client forbidden http://127.0.0.1:22456/mcp")

with subtest("secrets are nobody's but their unit's"):
    machine.succeed("test $(stat --format=%a /run/mcp-oauth-gateway/identity-time) = 600")
    machine.succeed("test $(stat --format=%a /var/lib/mcp-oauth-gateway) = 700")
    machine.succeed("test $(stat --format=%a /var/lib/mcp-oauth-gateway/master-key) = 600")

with subtest("grants and keys outlive a restart of everything"):
    machine.succeed("systemctl restart redis-mcp-oauth-gateway.service mcp-auth-service.service traefik.service")
    machine.wait_until_succeeds(f"test-client call {TIME} --token-file /root/token")

with subtest("a reload keeps serving"):
    machine.succeed("systemctl reload mcp-auth-service.service")
    machine.wait_until_succeeds(f"test-client call {TIME} --token-file /root/token")
