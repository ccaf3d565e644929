# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.
import json

SERVERS = ("drafts", "everything", "fetch", "filesystem", "memory", "sequential-thinking", "time")
ISSUER = "https://mcp.example.com"


def call(server: str, tool: str, **arguments: object) -> str:
    """Call a tool as the user, and return the text of its answer."""
    url = f"https://{server}.mcp.example.com/mcp"
    machine.succeed(f"test -s /root/{server} || test-client login {ISSUER} {url} > /root/{server}")
    given = json.dumps(arguments)
    return machine.succeed(f"test-client call {url} --token-file /root/{server} --tool {tool} --arguments '{given}'")


start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_until_succeeds("test-client challenge https://memory.mcp.example.com/mcp")

with subtest("each server answers in the sandbox that the catalogue gives it"):
    machine.succeed("mcp-gatewayctl health")
    machine.succeed("systemctl start mcp-gateway-health.service")
    up = machine.succeed("grep '^mcp_gateway_server_up' /var/lib/mcp-gateway-health/mcp-gateway.prom")
    assert {line.split('"')[1] for line in up.splitlines() if line.endswith(" 1")} == set(SERVERS)

with subtest("the memory outlives the unit"):
    call("memory", "create_entities", entities=[{"name": "tea", "entityType": "drink", "observations": ["green"]}])
    machine.succeed("systemctl stop mcp-bridge-memory.service")
    assert "green" in call("memory", "read_graph")

with subtest("files are there to be read, and no others"):
    machine.succeed("echo hello > /srv/documents/greeting")
    assert "hello" in call("filesystem", "read_text_file", path="/srv/documents/greeting")
    assert "denied" in call("filesystem", "read_text_file", path="/etc/passwd").lower()
    call("filesystem", "write_file", path="/srv/documents/new", content="x")
    machine.fail("test -e /srv/documents/new")

with subtest("what a server may write, it writes as one of the group"):
    call("drafts", "write_file", path="/srv/drafts/new", content="draft")
    assert machine.succeed("stat --format='%G %a' /srv/drafts/new").split() == ["drafts", "660"]
    assert machine.succeed("setpriv --reuid=drafts --regid=drafts --clear-groups cat /srv/drafts/new") == "draft"

with subtest("what compiles at run time gets that one relaxation, and the rest none"):
    for server in SERVERS:
        allowed = machine.succeed(
            f"systemctl show --property=MemoryDenyWriteExecute --value mcp-server-{server}@1.service"
        )
        assert (allowed.strip() == "no") == (
            server in {"drafts", "everything", "filesystem", "memory", "sequential-thinking"}
        )
        exposed = machine.execute(f"systemd-analyze security --no-pager --threshold=17 mcp-server-{server}@1.service")
        assert exposed[0] == 0, exposed[1]
