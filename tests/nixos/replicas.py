# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.


TIME = "https://time.mcp.example.com/mcp"
OPEN = f"test-client open {TIME} --token-file /root/token --address"
CALL = f"test-client call {TIME} --token-file /root/token"
GONE = f"test-client gone {TIME} --token-file /root/token"
UNITS = {"1": "mcp-bridge-time", "2": "mcp-bridge-time@2"}
# The address of a client of each.
clients: dict[str, str] = {}


def session_on(replica: str) -> str:
    """Open a session on a replica, as some client does; return where its id is."""
    file = f"/root/session-{replica}"
    for last in range(2, 40):
        opened = machine.succeed(f"{OPEN} 127.0.0.{last}")
        if opened.startswith(f"{replica}."):
            machine.succeed(f"echo {opened} > {file}")
            clients[replica] = f"127.0.0.{last}"
            return file
    raise AssertionError(f"no client is sent to replica {replica}")


start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_open_port(443)
machine.wait_until_succeeds(f"test-client challenge {TIME}")
machine.succeed(f"test-client login https://mcp.example.com {TIME} > /root/token")

with subtest("sessions are spread over the replicas, each of which keeps its own"):
    sessions = {replica: session_on(replica) for replica in UNITS}
    for _ in range(3):
        for file in sessions.values():
            machine.succeed(f"{CALL} --session-file {file}")
    for unit in UNITS.values():
        machine.succeed(f"systemctl is-active {unit}.service")

with subtest("a replica that stops for five seconds keeps its sessions"):
    machine.succeed(f"systemctl kill --signal=STOP {UNITS['1']}.service")
    # A call that begins when a check could have been late for two seconds.
    go_on = f"(sleep 5; systemctl kill --signal=CONT {UNITS['1']}.service) &"
    machine.succeed(f"{go_on} sleep 4; {CALL} --session-file {sessions['1']}")
    machine.succeed(f"{CALL} --session-file {sessions['2']}")

with subtest("a replica that is killed comes back, without the sessions that it had, and costs no other"):
    machine.succeed(f"systemctl kill --signal=KILL {UNITS['2']}.service")
    machine.wait_until_succeeds(f"{GONE} --session-file {sessions['2']}")
    machine.succeed(f"{CALL} --session-file {sessions['1']}")
    sessions["2"] = session_on("2")

with subtest("a replica that stays away leaves everything to the other"):
    machine.succeed(f"systemctl stop {UNITS['1']}.socket {UNITS['1']}.service")
    machine.wait_until_succeeds(f"{GONE} --session-file {sessions['1']}")
    machine.succeed(f"{CALL} --session-file {sessions['2']}")
    for last in range(2, 10):
        machine.succeed(f"{OPEN} 127.0.0.{last}")

with subtest("until it is there again"):
    machine.succeed(f"systemctl start {UNITS['1']}.socket")
    machine.wait_until_succeeds(f"{OPEN} {clients['1']} | grep '^1[.]'")
    machine.succeed(f"{CALL} --session-file {sessions['2']}")
