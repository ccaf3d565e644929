# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


LOG = "/var/log/mcp-oauth-gateway/gateway.log"
METRICS = "/var/lib/mcp-gateway-health/mcp-gateway.prom"
JOURNAL = "journalctl --namespace=mcp-gateway --no-pager --output=cat"
BOTH_JOURNALS = "journalctl --namespace=+mcp-gateway --no-pager --output=cat"
ISSUER, SERVER = "https://mcp.example.com", "https://time.mcp.example.com/mcp"

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("traefik.service")
machine.wait_for_unit("stand-in-github.service")
machine.wait_until_succeeds(f"test-client challenge {SERVER}")

with subtest("the health check wakes no bridge that does not run"):
    # As it is before its first request. Another script may have used it.
    machine.succeed("systemctl stop mcp-bridge-time.service")
    machine.wait_for_unit("mcp-gateway-health.timer")
    machine.succeed("systemctl start mcp-gateway-health.service")
    machine.wait_until_succeeds(f"{JOURNAL} --unit=mcp-gateway-health.service | grep 'time .* asleep'")
    machine.fail("systemctl is-active mcp-bridge-time.service")

with subtest("the health check opens each server that is awake, and says so in the journal and in metrics"):
    machine.succeed("test-client page http://127.0.0.1:22456/healthz")
    # What systemd says of a bridge is believed for a second.
    status = "test-client page http://127.0.0.1:9001/mcp-bridge-time"
    machine.wait_until_succeeds(f"{status}/statusz | grep --invert-match '\"asleep\": true'")
    machine.succeed("systemctl start mcp-gateway-health.service")
    assert 'mcp_gateway_server_up{server="time"' in machine.succeed(f"grep ' 1$' {METRICS}")
    machine.wait_until_succeeds(f"{JOURNAL} --unit=mcp-gateway-health.service | grep 'time  http.*answer'")

with subtest("the health check wakes no server that answered within the hour"):
    spawns = "test-client page http://127.0.0.1:22456/metrics | grep '^mcp_bridge_spawns_total'"
    before = machine.succeed(spawns)
    machine.succeed("systemctl start mcp-gateway-health.service")
    machine.wait_until_succeeds(f"{JOURNAL} --unit=mcp-gateway-health.service | grep 'time .* answered [0-9]* s ago'")
    assert machine.succeed(spawns) == before
    assert 'mcp_gateway_server_up{server="time"' in machine.succeed(f"grep ' 1$' {METRICS}")

with subtest("anyone may read the metrics, as node exporter must"):
    machine.succeed(f"setpriv --reuid=65534 --regid=65534 --clear-groups cat {METRICS}")

with subtest("a server that does not answer fails the check"):
    machine.succeed("systemctl stop mcp-bridge-time.socket mcp-bridge-time.service")
    machine.fail("systemctl start mcp-gateway-health.service")
    assert 'mcp_gateway_server_up{server="time"' in machine.succeed(f"grep ' 0$' {METRICS}")
    machine.succeed("systemctl start mcp-bridge-time.socket")
    machine.succeed("test-client page http://127.0.0.1:22456/healthz")
    machine.succeed("systemctl start mcp-gateway-health.service")

with subtest("whatever dies is started again"):
    for unit in ("mcp-bridge-time", "mcp-auth-service", "redis-mcp-oauth-gateway", "traefik"):
        machine.succeed(f"systemctl kill --signal=KILL {unit}.service")
    machine.wait_until_succeeds("systemctl start mcp-gateway-health.service")
    machine.wait_until_succeeds(f"test-client challenge {SERVER}")

with subtest("however often it does"):
    for _ in range(6):
        machine.wait_for_unit("traefik.service")
        machine.succeed("systemctl kill --signal=KILL traefik.service")
    machine.wait_until_succeeds(f"test-client challenge {SERVER}", timeout=60)

with subtest("what systemd says of a unit is found next to what the unit says"):
    machine.wait_until_succeeds(f"{BOTH_JOURNALS} --unit=traefik.service | grep 'Main process exited'")
    machine.fail(f"{JOURNAL} --unit=traefik.service | grep 'Main process exited'")

with subtest("a secret that is not there is named"):
    secret = "/etc/test-secrets/github-client-secret"
    machine.succeed(f"mv {secret} {secret}.away")
    machine.fail("systemctl restart mcp-auth-service.service")
    machine.wait_until_succeeds(f"{BOTH_JOURNALS} --unit=mcp-auth-service.service | grep 243/CREDENTIALS")
    machine.succeed(f"mv {secret}.away {secret}", "systemctl restart mcp-auth-service.service")
    machine.wait_until_succeeds(f"test-client challenge {SERVER}")

with subtest("systemd watches both"):
    for unit in ("mcp-auth-service", "mcp-bridge-time"):
        assert machine.succeed(f"systemctl show --property=WatchdogUSec --value {unit}").strip() == "1min"
        machine.wait_until_succeeds(f'test -n "$(systemctl show --property=WatchdogTimestamp --value {unit})"')

with subtest("every part has metrics, and none of them is public"):
    assert "traefik_" in machine.succeed("test-client page http://127.0.0.1:9099/metrics")
    assert "mcp_gateway_" in machine.succeed("test-client page http://127.0.0.1:9000/metrics")
    assert "mcp_bridge_" in machine.succeed("test-client page http://127.0.0.1:22456/metrics")
    machine.fail(f"test-client page {ISSUER}/metrics")

with subtest("the log of the whole gateway is one journal, and a file"):
    token = machine.succeed(f"test-client login {ISSUER} {SERVER}").strip()
    machine.succeed(f"echo {token} > /root/token && test-client call {SERVER} --token-file /root/token")
    machine.fail(f"test-client page '{SERVER}?access_token={token}'")
    machine.wait_until_succeeds(f"{JOURNAL} --unit=traefik.service | grep RequestPath")
    machine.wait_until_succeeds(f"{JOURNAL} --unit=redis-mcp-oauth-gateway.service | grep 'Ready to accept'")
    machine.wait_until_succeeds(f"grep -q RequestPath {LOG}")
    assert machine.succeed(f"stat --format='%a %G' {LOG}").split() == ["640", "systemd-journal"]

with subtest("no token or code is in any log"):
    for text in (token, token.split(".")[2], "code=", "access_token="):
        assert text not in machine.succeed(JOURNAL)
        assert text not in machine.succeed(f"cat {LOG}")

with subtest("an operator sees who called which tool, also in a journal that has been rotated"):
    calls = "mcp-gatewayctl calls --json --since 1h --user octocat --server time"
    machine.wait_until_succeeds(f"{calls} --outcome ok | grep tools/call")
    machine.succeed("journalctl --namespace=mcp-gateway-calls --rotate")
    machine.succeed(f"test-client call {SERVER} --token-file /root/token")
    machine.wait_until_succeeds(f"test $({calls} --outcome ok | grep --count tools/call) -ge 2")
    assert '"outcome": "ok"' in machine.succeed("mcp-gatewayctl calls --top --json --user octocat")
    assert "the calls of this host" in machine.succeed("mcp-gatewayctl calls 2>&1")

with subtest("a record that no bridge has written is none"):
    written = machine.succeed(f"{calls} | tail --lines=1").strip()
    forged = written.replace("octocat", "forged")
    machine.succeed(f"echo '{forged}' | systemd-cat --namespace=mcp-gateway-calls --identifier=mcp-call")
    machine.wait_until_succeeds("journalctl --namespace=mcp-gateway-calls --output=cat | grep forged")
    assert "forged" not in machine.succeed("mcp-gatewayctl calls --json")

with subtest("records have no token, and are lost with no restart of the bridge or of their journal"):
    assert token not in machine.succeed("journalctl --namespace=mcp-gateway-calls --output=cat")
    recorded = int(machine.succeed(f"{calls} | grep --count tools/call"))
    machine.succeed("systemctl restart systemd-journald@mcp-gateway-calls.service")
    machine.succeed(f"test-client call {SERVER} --token-file /root/token")
    machine.succeed("systemctl restart mcp-bridge-time.service")
    machine.succeed(f"test-client call {SERVER} --token-file /root/token")
    machine.wait_until_succeeds(f"test $({calls} | grep --count tools/call) -ge {recorded + 2}")

with subtest("after a restart the file goes on where it stopped"):
    machine.succeed("systemctl restart mcp-gateway-logs.service")
    machine.succeed("systemctl start mcp-gateway-health.service")
    answers = f"{JOURNAL} --unit=mcp-gateway-health.service | grep --count 'time  http.*answer'"
    machine.wait_until_succeeds(f"test $(grep --count 'mcp-gateway-health.service.*time  http.*answer' {LOG}) -ge 3")
    machine.wait_until_succeeds(f"test $(grep --count 'time  http.*answer' {LOG}) = $({answers})")

with subtest("an operator sees and ends what users allow"):
    machine.succeed("mcp-gatewayctl doctor")
    machine.succeed("mcp-gatewayctl tools lock time --output /root/time.lock.json")
    machine.succeed("grep '\"get_current_time\": {' /root/time.lock.json")
    assert "and no lock file" in machine.fail("mcp-gatewayctl tools check time")
    assert "octocat" in machine.succeed("mcp-gatewayctl users list")
    machine.succeed("mcp-gatewayctl users revoke octocat")
    machine.fail(f"test-client call {SERVER} --token-file /root/token")
    machine.succeed("mcp-gatewayctl keys rotate", f"test-client login {ISSUER} {SERVER} > /root/token")
    machine.succeed(f"test-client call {SERVER} --token-file /root/token")

with subtest("a bridge that nobody uses sleeps, and nothing but a client's request wakes it"):
    unit, drop_in = "mcp-bridge-time.service", "/run/systemd/system/mcp-bridge-time.service.d"
    asleep = f"test $(systemctl show --property=ActiveState --value {unit}) = inactive"
    command = machine.succeed(f"systemctl cat {unit} | sed --quiet 's/^ExecStart=//p'").strip()
    override = f"[Service]\\nExecStart=\\nExecStart={command} --idle-exit 0.1\\n"
    machine.succeed(f"mkdir --parents {drop_in} && printf '{override}' > {drop_in}/idle.conf")
    machine.succeed("systemctl daemon-reload", f"systemctl restart {unit}")
    machine.wait_until_succeeds(asleep)
    machine.wait_until_succeeds("systemctl start mcp-gateway-health.service")
    assert 'mcp_gateway_server_asleep{server="time"' in machine.succeed(f"grep ' 1$' {METRICS}")
    assert "mcp_bridge_asleep 1" in machine.succeed(f"{status}/metrics")
    assert '"asleep": true' in machine.succeed(f"{status}/statusz")
    machine.succeed(asleep)
    machine.succeed("systemctl stop mcp-bridge-time.socket")
    machine.wait_until_fails(f"{status}/statusz")
    machine.succeed("systemctl start mcp-bridge-time.socket", asleep)

with subtest("requests that come just as it exits are all answered"):
    slept = f"journalctl --namespace='*' --unit={unit} --output=cat | grep --count 'asleep: the next'"
    enough = int(machine.succeed(slept)) + 4
    page = "test-client page http://127.0.0.1:22456/healthz"
    machine.succeed(f"until test $({slept}) -ge {enough}; do {page} || exit 1; done")

with subtest("requests that come through the router while it sleeps are all answered"):
    machine.wait_until_succeeds(asleep)
    call = f"test-client call {SERVER} --token-file /root/token"
    started = f'pids=; for _ in 1 2 3 4 5 6; do {call} & pids="$pids $!"; done'
    machine.succeed(f"{started}; for pid in $pids; do wait $pid || exit 1; done")
    machine.succeed(f"rm -r {drop_in}", "systemctl daemon-reload", f"systemctl restart {unit}")

with subtest("a backup brings back who was logged in"):
    state = "/var/lib/redis-mcp-oauth-gateway /var/lib/mcp-oauth-gateway /var/lib/private/mcp-auth-service"
    services = "'mcp-auth-service*' redis-mcp-oauth-gateway.service"
    redis = "redis-cli -s /run/redis-mcp-oauth-gateway/redis.sock"
    machine.succeed(f"{redis} BGREWRITEAOF")
    machine.wait_until_succeeds(f"{redis} INFO persistence | grep aof_rewrite_in_progress:0")
    machine.succeed(f"tar --create --file=/root/gateway.tar {state}")
    machine.succeed(f"systemctl stop {services}", f"rm -r {state}", "systemctl start mcp-auth-service.service")
    machine.wait_until_succeeds(f"test-client challenge {SERVER}")
    machine.fail(f"test-client call {SERVER} --token-file /root/token")
    machine.succeed(f"systemctl stop {services}", "tar --extract --file=/root/gateway.tar --directory=/")
    machine.succeed("systemctl start redis-mcp-oauth-gateway.service mcp-auth-service.service")
    machine.wait_until_succeeds(f"test-client call {SERVER} --token-file /root/token")

with subtest("a new master key ends every login, and all parts agree on it"):
    machine.succeed("od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' > /var/lib/mcp-oauth-gateway/master-key")
    machine.succeed("rm -r /var/lib/private/mcp-auth-service/signing-keys")
    machine.succeed("systemctl restart mcp-auth-service.service 'mcp-identity-*.service'")
    machine.wait_until_succeeds(f"test-client challenge {SERVER}")
    machine.fail(f"test-client call {SERVER} --token-file /root/token")
    machine.succeed(f"test-client login {ISSUER} {SERVER} > /root/token")
    machine.succeed(f"test-client call {SERVER} --token-file /root/token")
