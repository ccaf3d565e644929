# The test driver runs this, in VMs or in containers: machines, `start_all` and `subtest` are in scope.
import json

ISSUER = "https://mcp.example.com"
PORT = 22456
TIME = "https://time.mcp.example.com/mcp"
HOSTS = (auth1, auth2, edge, tools1, tools2)
VAULT = "https://vault.mcp.example.com/mcp"
STATUS = "http://192.168.1.5:9001/mcp-bridge-vault"
PROCESSES = "systemctl list-units --all --plain --no-legend 'mcp-server-vault@*'"
TOKENS = {login: f"token-that-belongs-to-{login}" for login in ("octocat", "hubot")}
METRICS = "http://127.0.0.1:9099/metrics"
CALL = f"test-client call {TIME} --token-file /root/token"


def wait_until_the_router_counts(host: str, *, up: bool) -> None:
    """Wait until the router sends requests to whatever is at this address, or nothing any more."""
    lines = f"test-client page {METRICS} | grep -F server_up | grep -F //{host}:"
    edge.wait_until_succeeds(f"{lines} > /root/up && ! grep -v ' {int(up)}$' /root/up")


def open_vault(login: str) -> None:
    """Begin a session of a user, which is a process of its own."""
    edge.succeed(f"test-client open {VAULT} --token-file /root/vault-{login} > /root/vault-session-{login}")


def session_in_vault(login: str) -> str:
    """Return the options of a step in this user's session."""
    return f"--token-file /root/vault-{login} --session-file /root/vault-session-{login}"


def token_in_vault(login: str) -> str:
    """Return the token that the process of this user's session has."""
    answer = edge.succeed(f"test-client call {VAULT} {session_in_vault(login)} --tool environment --arguments '{{}}'")
    return str(json.loads(answer)["done"]["VAULT_TOKEN"])


def wait_for_processes_of_vault(count: int) -> None:
    """Wait until the server has so many processes."""
    tools2.wait_until_succeeds(f"test $({PROCESSES} | wc --lines) = {count}")


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

with subtest("the health check finds a bridge of another host asleep, and does not wake it"):
    check = "systemctl start mcp-gateway-health.service"
    asleep = "grep 'server_asleep{server=\"vault\".* %d$' /var/lib/mcp-gateway-health/mcp-gateway.prom"
    never_started = 'test -z "$(systemctl show --property=InvocationID --value mcp-bridge-vault.service)"'
    tools2.succeed(never_started)
    auth1.wait_until_succeeds(f"{check} && {asleep % 1}")
    auth1.succeed(f"test-client page {STATUS}/statusz | grep '\"asleep\": true'")
    edge.succeed(f"test-client page {STATUS}/metrics | grep 'mcp_bridge_asleep 1'")
    tools2.succeed(never_started)

with subtest("a process has what its user has entered at the login, which another host keeps"):
    for login, token in TOKENS.items():
        entered = f"--login {login} --credential VAULT_TOKEN={token}"
        edge.succeed(f"test-client login {ISSUER} {VAULT} {entered} > /root/vault-{login}")
        open_vault(login)
    assert {login: token_in_vault(login) for login in TOKENS} == TOKENS
    auth1.wait_until_succeeds(f"{check} && {asleep % 0}")
    wait_for_processes_of_vault(2)

with subtest("a replaced credential ends the processes of its user on another host, and no others"):
    TOKENS["octocat"] = "another-token-of-octocat"
    edge.succeed(f"test-client replace {ISSUER} vault --credential VAULT_TOKEN={TOKENS['octocat']}")
    wait_for_processes_of_vault(1)
    assert token_in_vault("hubot") == TOKENS["hubot"]
    edge.succeed(f"test-client gone {VAULT} {session_in_vault('octocat')}")
    open_vault("octocat")
    assert token_in_vault("octocat") == TOKENS["octocat"]

with subtest("a bridge that reaches no auth service starts no process, and its clients are told to try again"):
    started = f"test-client page {STATUS}/metrics | grep ^mcp_bridge_spawns_total"
    before = edge.succeed(started)
    tools2.succeed("ip route add unreachable 192.168.1.1", "ip route add unreachable 192.168.1.2")
    why = edge.succeed(f"test-client unavailable {VAULT} --token-file /root/vault-octocat")
    assert "credentials cannot be had now" in why, why
    assert edge.succeed(started) == before
    # Processes that run go on.
    assert {login: token_in_vault(login) for login in TOKENS} == TOKENS

with subtest("it asks the next auth service where it does not reach the first, and the first again once it does"):
    for address in ("192.168.1.2", "192.168.1.1"):
        tools2.succeed(f"ip route delete unreachable {address}")
        open_vault("octocat")
        assert token_in_vault("octocat") == TOKENS["octocat"]

with subtest("a removal at one host ends the processes on another, and its user is asked again"):
    auth2.succeed("mcp-gatewayctl credentials remove hubot vault")
    # Those of octocat's three sessions are left.
    wait_for_processes_of_vault(3)
    why = edge.succeed(f"test-client refused {VAULT} --token-file /root/vault-hubot")
    assert "log in again" in why, why

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
            if dying is auth1:
                # The bridge on another host asks it first, then the one that lives.
                open_vault("octocat")
                assert token_in_vault("octocat") == TOKENS["octocat"]
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
