# The test driver runs this, in VMs or in containers: machines, `start_all` and `subtest` are in scope.


NAMES = ("mcp.example.com", "time.mcp.example.com")

start_all()
for machine in (dns, http, tls):
    with subtest(f"{machine.name}: every name of the gateway gets a certificate of the certificate authority"):
        machine.wait_for_unit("pebble.service")
        machine.wait_for_open_port(443)
        for name in NAMES:
            machine.wait_until_succeeds(f"test-client certificate {name} | grep Pebble")

    with subtest(f"{machine.name}: the account and the certificates outlive a restart, and nobody else reads them"):
        before = machine.succeed(f"test-client certificate {NAMES[1]}")
        machine.succeed("systemctl stop pebble.service", "systemctl restart traefik.service")
        machine.wait_until_succeeds(f"test-client certificate {NAMES[1]} | grep Pebble")
        assert machine.succeed(f"test-client certificate {NAMES[1]}") == before
        machine.succeed("test $(stat --format=%a /var/lib/traefik/mcp-oauth-gateway-acme.json) = 600")
