# The test driver runs this, in VMs or in containers: machines, `start_all` and `subtest` are in scope.


ISSUER = "https://mcp.example.com"
PORT = 22456
TIME = "https://time.mcp.example.com/mcp"
HOSTS = (auth1, auth2, edge, tools1, tools2)
METRICS = "http://127.0.0.1:9099/metrics"
CALL = f"test-client call {TIME} --token-file /root/token"


def wait_until_the_router_counts(host: str, *, up: bool) -> None:
    """Wait until the router sends requests to whatever is at this address, or nothing any more."""
    lines = f"test-client page {METRICS} | grep -F server_up | grep -F //{host}:"
    edge.wait_until_succeeds(f"{lines} > /root/up && ! grep -v ' {int(up)}$' /root/up")


start_all()
for auth in (auth1, auth2):
    auth.wait_for_unit("mcp-auth-service.service")
for tools, own in ((tools1, "192.168.1.4"), (tools2, "192.168.1.5")):
    tools.wait_for_open_port(PORT, own)
edge.wait_for_open_port(443)
edge.wait_until_succeeds(f"test-client challenge {TIME}")

with subtest("each host runs what its roles say, and nothing else"):
    for host, units in ((auth1, ["mcp-auth-service"]), (edge, ["traefik"]), (tools1, [])):
        for unit in ("mcp-auth-service", "traefik", "redis-mcp-oauth-gateway"):
            (host.succeed if unit in units else host.fail)(f"systemctl is-active {unit}.service")

with subtest("a token of one auth service is good at the other"):
    token = edge.succeed(f"test-client login {ISSUER} {TIME}")
    for host in HOSTS:
        host.succeed(f"echo {token} > /root/token")
    keys = {edge.succeed(f"test-client page http://{auth}:9000/jwks") for auth in ("192.168.1.1", "192.168.1.2")}
    assert len(keys) == 1, keys
    for _ in range(4):
        edge.succeed(CALL)

with subtest("the log of each unit is in the journal of its host"):
    for auth in (auth1, auth2):
        journal = "journalctl --namespace=mcp-gateway-audit --unit=mcp-auth-service --output=cat"
        auth.wait_until_succeeds(f"{journal} | grep '^{{'")

with subtest("new sessions are spread over the replicas, each of which keeps its own"):
    device = edge.succeed("ip -oneline route get 192.168.1.1 | grep -o 'dev [^ ]*' | cut -c5-").strip()
    replicas: set[str] = set()
    last = 50
    while len(replicas) < 2:
        # A client of an address of its own.
        edge.succeed(f"ip address add 192.168.1.{last}/24 dev {device}")
        opened = edge.succeed(f"test-client open {TIME} --token-file /root/token --address 192.168.1.{last}")
        replicas.add(opened.partition(".")[0])
        edge.succeed(f"echo {opened} > /root/session-{opened.partition('.')[0]}")
        last += 1
    assert replicas == {"tools1", "tools2"}, replicas
    for _ in range(3):
        for name in replicas:
            edge.succeed(f"{CALL} --session-file /root/session-{name}")

with subtest("a replica's host that dies costs its own sessions, and no others"):
    tools1.crash()
    # Both of these at once, before its end has been noticed.
    edge.succeed(CALL)
    edge.succeed(f"{CALL} --session-file /root/session-tools2")
    edge.succeed(f"test-client gone {TIME} --token-file /root/token --session-file /root/session-tools1")
    for number in range(50, last):
        edge.succeed(f"{CALL} --address 192.168.1.{number}")

with subtest("it comes back by itself"):
    tools1.start()
    tools1.wait_for_open_port(PORT, "192.168.1.4")
    wait_until_the_router_counts("192.168.1.4", up=True)
    edge.succeed(f"{CALL} --address 192.168.1.50")

for silent in (False, True):
    for address, dying in (("192.168.1.1", auth1), ("192.168.1.2", auth2)):
        with subtest(f"an auth service's host that {'goes silent' if silent else 'dies'} costs nothing"):
            if silent:
                dying.block()
            else:
                dying.crash()
            for _ in range(5):
                edge.succeed(CALL)
            edge.wait_until_succeeds(f"test-client login {ISSUER} {TIME}")
            wait_until_the_router_counts(address, up=False)
            if silent:
                dying.unblock()
            else:
                dying.start()
            dying.wait_for_unit("mcp-auth-service.service")
            wait_until_the_router_counts(address, up=True)

with subtest("a replica's host that goes silent is out before long"):
    tools1.block()
    wait_until_the_router_counts("192.168.1.4", up=False)
    for number in range(50, last):
        edge.succeed(f"{CALL} --address 192.168.1.{number}")
    edge.succeed(f"{CALL} --session-file /root/session-tools2")

with subtest("without Redis no auth service is ready, and they answer for themselves"):
    edge.succeed("systemctl stop redis-shared.service")
    for address in ("192.168.1.1", "192.168.1.2"):
        wait_until_the_router_counts(address, up=False)
    edge.succeed(f"test-client challenge {TIME}")
    edge.succeed(f"test-client page {ISSUER}/jwks")
    edge.fail(CALL)
    edge.succeed("systemctl start redis-shared.service")
    for address in ("192.168.1.1", "192.168.1.2"):
        wait_until_the_router_counts(address, up=True)
    edge.wait_until_succeeds(CALL)
