# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


ISSUER, SERVER = "https://mcp.example.com", "https://time.mcp.example.com/mcp"
BRIDGE, PROCESSES = "mcp-bridge-time.socket", "mcp-server-time.socket"
BROKEN = "/run/systemd/system/mcp-server-time@.service.d"
DIRECTORY = "/run/mcp-oauth-gateway/servers/time"

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("traefik.service")
machine.wait_for_unit("stand-in-github.service")
machine.wait_until_succeeds(f"test-client challenge {SERVER}")
machine.succeed(f"test-client login {ISSUER} {SERVER} > /root/token-of-recovery")
TOKEN = f"{SERVER} --token-file /root/token-of-recovery"
FRESH, OPEN = f"test-client call {TOKEN}", f"test-client call {TOKEN} --session-file /root/session-of-recovery"


def failures(unit: str) -> int:
    """Return how often a unit has failed so far."""
    log = f"journalctl --no-pager --output=cat --unit={unit}"
    return machine.succeed(f"journalctl --sync && {log}").count("Failed with result")


def wait_for_failure(unit: str, before: int) -> None:
    """Wait until a unit has failed once more: the journal is written later."""
    log = f"journalctl --no-pager --output=cat --unit={unit}"
    machine.wait_until_succeeds(f"test $({log} | grep --count 'Failed with result') -gt {before}")


def refusal() -> str:
    """Return why no session can be opened."""
    return machine.wait_until_succeeds(f"test-client refused {TOKEN}")


with subtest("a session outlives the socket by which processes are started"):
    machine.succeed(f"test-client open {TOKEN} > /root/session-of-recovery")
    machine.succeed(FRESH, OPEN)

with subtest("if the unit of a process cannot be loaded, no session opens, and its client is told"):
    before = failures(PROCESSES)
    machine.succeed(f"mkdir -p {BROKEN} && printf '[Service]\\nExecStart=\\n' > {BROKEN}/broken.conf")
    machine.succeed("systemctl daemon-reload")
    assert "was ended with its unit" in refusal()
    machine.wait_until_succeeds(f"test-client refused {TOKEN} | grep 'cannot be started'")
    wait_for_failure(PROCESSES, before)
    machine.succeed(OPEN)

with subtest("once it can be loaded, sessions open, and nobody has to do anything"):
    machine.succeed(f"rm -r {BROKEN} && systemctl daemon-reload")
    machine.wait_until_succeeds(FRESH)
    machine.succeed(OPEN)

with subtest("the same after systemd had no descriptors left"):
    before = failures(PROCESSES)
    limits = machine.succeed("prlimit --pid 1 --nofile --output=SOFT,HARD --raw --noheadings").split()
    machine.succeed(f"prlimit --pid 1 --nofile=3:{limits[1]}")
    refusal()
    machine.succeed(f"prlimit --pid 1 --nofile={':'.join(limits)}")
    wait_for_failure(PROCESSES, before)
    machine.wait_until_succeeds(FRESH)
    machine.succeed(OPEN)

with subtest("while the socket by which processes are started cannot be made, requests are refused"):
    before = failures(BRIDGE)
    machine.succeed(f"systemctl stop {PROCESSES}", f"rm -r {DIRECTORY}", f"touch {DIRECTORY}")
    machine.wait_until_succeeds(f"test-client refused {TOKEN} | grep 'Bad Gateway'")
    machine.wait_until_succeeds(f"journalctl --no-pager --output=cat --unit={BRIDGE} | grep trigger-limit-hit")
    wait_for_failure(BRIDGE, before)

with subtest("once it can be made, they are answered"):
    machine.succeed(f"rm {DIRECTORY}")
    machine.wait_until_succeeds(FRESH)

with subtest("no unit stays failed"):
    for unit in (BRIDGE, PROCESSES, "mcp-bridge-time.service"):
        machine.wait_until_succeeds(f"systemctl is-active {unit}")
    machine.wait_until_fails("systemctl list-units --plain --no-legend 'mcp-gateway-recovery@*' | grep .")
    machine.wait_until_fails("systemctl list-units --state=failed --plain --no-legend 'mcp-*' | grep .")
