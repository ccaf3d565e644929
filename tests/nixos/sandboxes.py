# The test driver runs this, in a VM or in a container: machines, `start_all` and `subtest` are in scope.
import ipaddress
import json
from typing import Any

SERVERS = ("none", "internet", "full", "browser", "nested", "store")
# Its sandbox is that of `none`, with sockets of the internet and a proxy.
PROXIED = "domains"
KEEPERS = ("keeper", "diary", "album")
# Whose processes have the files of their user alone; for that, their first process has a capability at first.
OF_EACH_USER = ("diary", "album")
ON_THE_INTERNET = ("internet", "browser", "store", "album")
WITHOUT_NETWORK = ("none", PROXIED, "nested", "keeper", "diary")
PORT = 7777
INTERNET = ("192.31.196.7", "2620:4f:8000::7")
NEIGHBOUR = "192.31.196.9"
THIS_HOST = ("127.0.0.1", "127.0.0.53", "::1", "192.31.196.1", "2620:4f:8000::1", "192.168.1.1")
PRIVATE = ("10.1.1.1", "172.16.1.1", "192.168.77.1", "100.64.1.1", "10.2.2.2", "192.0.0.192", "198.18.1.1")
CLOUDS = ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200")
SPECIAL = ("192.88.99.1", "fec0::1", "2001::1", "2002::1", "5f00::1", "::10.2.2.2", "64:ff9b::10.2.2.2")
# Tenths, as `systemd-analyze security --threshold` counts: what relaxations cost, and files of each user.
EXPOSED = {"nested": 20, "album": 17}
FORBIDDEN = (*THIS_HOST, *PRIVATE, *CLOUDS, *SPECIAL)

start_all()
machine.wait_for_unit("mcp-auth-service.service")
machine.wait_for_unit("listener.service")
machine.wait_for_unit("internet.service")
machine.wait_for_open_port(PORT)
machine.wait_for_open_port(443)
machine.wait_until_succeeds("ip netns exec internet ss --listening --tcp --numeric --no-header | grep :7777")
for server in (*SERVERS, PROXIED, *KEEPERS):
    machine.wait_until_succeeds(f"test-client challenge https://{server}.mcp.example.com/mcp")
    machine.succeed(
        f"test-client login https://mcp.example.com https://{server}.mcp.example.com/mcp > /root/token-{server}"
    )


def attempt(server: str, *attempts: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let a server try things; return what it got by each, None where it got nothing."""
    arguments = {"attempts": [{"name": tool, "arguments": arguments} for tool, arguments in attempts]}
    answer = machine.succeed(
        f"test-client call https://{server}.mcp.example.com/mcp --token-file /root/token-{server}"
        f" --tool each --arguments '{json.dumps(arguments)}'"
    )
    return [each.get("done") for each in json.loads(answer)["done"]]


def open_session(server: str, name: str, *, token: str | None = None) -> None:
    """Begin a session that stays."""
    url = f"https://{server}.mcp.example.com/mcp"
    machine.succeed(f"test-client open {url} --token-file /root/token-{token or server} > /root/session-{name}")


def attempt_in(name: str, server: str, *attempts: tuple[str, dict[str, Any]], token: str | None = None) -> list[Any]:
    """Let the server of a session try things."""
    arguments = {"attempts": [{"name": tool, "arguments": arguments} for tool, arguments in attempts]}
    answer = machine.succeed(
        f"test-client call https://{server}.mcp.example.com/mcp --token-file /root/token-{token or server}"
        f" --session-file /root/session-{name} --tool each --arguments '{json.dumps(arguments)}'"
    )
    return [each.get("done") for each in json.loads(answer)["done"]]


def close_sessions(server: str) -> None:
    """End all sessions of a server; its bridge starts again at the next request."""
    machine.succeed(f"systemctl stop mcp-bridge-{server}.service")
    machine.wait_until_fails(f"systemctl list-units --plain --no-legend 'mcp-server-{server}@*' | grep .")


def units_of(server: str) -> list[str]:
    """Return the units of a server's processes."""
    listed = machine.succeed(f"systemctl list-units --all --plain --no-legend 'mcp-server-{server}@*'")
    return [line.split()[0] for line in listed.splitlines()]


def processes_of(unit: str) -> list[int]:
    """Return the processes of a unit, by the numbers that the host has for them."""
    group = machine.succeed(f"systemctl show --property=ControlGroup --value {unit}").strip()
    return [int(pid) for pid in machine.succeed(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()]


def reached(server: str, addresses: tuple[str, ...]) -> list[str]:
    """Return the addresses that a server gets an answer from."""
    got = attempt(server, *(("connect", {"host": address, "port": PORT}) for address in addresses))
    return [address for address, answer in zip(addresses, got, strict=True) if answer is not None]


RESOLVE = ("resolve", {"name": "example.com"})
ASK_RESOLVER = ("send", {"host": "127.0.0.53", "port": 53})

with subtest("a server with the full network reaches it all"):
    everything = (*INTERNET, NEIGHBOUR, *FORBIDDEN)
    assert reached("full", everything) == list(everything)

with subtest("a server without a network reaches nothing, and resolves no name"):
    for server in WITHOUT_NETWORK:
        assert reached(server, (*INTERNET, *FORBIDDEN)) == [], server
        assert attempt(server, RESOLVE, ASK_RESOLVER) == [None, None], server

with subtest("each is exposed no more than its network and its relaxations need"):
    for server in (*SERVERS, PROXIED, *KEEPERS):
        most = EXPOSED.get(server, 15)
        status, report = machine.execute(
            f"systemd-analyze security --no-pager --threshold={most} mcp-server-{server}@1.service"
        )
        assert status == 0, report
        machine.succeed(f"systemd-analyze security --no-pager --threshold=10 mcp-bridge-{server}.service")


def ask_proxy(*requests: str, **of: str) -> list[str | None]:
    """Let the server with domains send requests to its proxy; return the first line of each answer."""
    return attempt(PROXIED, *(("ask_proxy", {"request": request, **of}) for request in requests))


def name_of(address: str) -> str:
    """Return a name of the list that has this address."""
    written = ipaddress.ip_address(address).exploded
    return f"{written.replace('.', '-').replace(':', '-')}.addresses.example"


ESTABLISHED = "HTTP/1.1 200 Connection established"
FORBIDDEN_BY_PROXY = "HTTP/1.1 403 Forbidden"
CONNECT = "CONNECT api.example.com:443 HTTP/1.1"

with subtest("a server with domains reaches these by its proxy, as programs do, and nothing else"):
    names = ["api.example.com", "API.Example.COM.", *map(name_of, INTERNET)]
    assert ask_proxy(*(f"CONNECT {name}:443 HTTP/1.1" for name in names)) == [ESTABLISHED] * len(names)
    assert ask_proxy(CONNECT, path="/run/mcp-egress/socket") == [ESTABLISHED]
    # What answers there speaks no TLS.
    (allowed, other, in_the_clear) = attempt(
        PROXIED,
        *(
            ("fetch", {"url": url})
            for url in ("https://api.example.com", "https://example.com", "http://api.example.com")
        ),
    )
    assert "Tunnel" not in allowed, allowed
    assert "403" in other, other
    assert in_the_clear == "Method Not Allowed", in_the_clear
    unlisted = (
        *("example.com:443", "api.example.com.evil.example:443", "evil.example@api.example.com:443"),
        *("api.example.com:443@evil.example:443", "addresses.example:443", "evil-addresses.example:443"),
        *("api.example.com:80", "api.example.com:7777", f"{INTERNET[0]}:443", f"[{INTERNET[1]}]:443", "127.0.0.1:443"),
        *("3221225473:443", "localhost:443", "mcp.example.com:443"),
    )
    elsewhere = [f"CONNECT {target} HTTP/1.1\r\nHost: api.example.com:443" for target in unlisted]
    assert ask_proxy(*elsewhere) == [FORBIDDEN_BY_PROXY] * len(unlisted)
    machine.wait_until_succeeds(
        "journalctl --namespace=* --no-pager --unit=mcp-egress-domains.service --output=cat"
        " | grep --fixed-strings 'refused: example.com is not in sandbox.network.domains of this server.'"
    )

with subtest("the kernel keeps a proxy from this host, its networks and a cloud's metadata, whatever names say"):
    names = [name_of(address) for address in (*FORBIDDEN, NEIGHBOUR)]
    got = ask_proxy(*(f"CONNECT {name}:443 HTTP/1.1" for name in names))
    refused = {"HTTP/1.1 502 Bad Gateway", "HTTP/1.1 504 Gateway Timeout"}
    assert set(got) <= refused, list(zip(names, got, strict=True))

with subtest("a server's proxy is there for this server alone, and at no port of the host"):
    for server in (*SERVERS, *KEEPERS):
        proxies = ("/run/mcp-egress/socket", "/run/mcp-oauth-gateway/egress/domains/socket")
        got = attempt(
            server,
            *(("connect_unix", {"path": path}) for path in proxies),
            ("connect", {"host": "127.0.0.1", "port": 3128}),
        )
        assert got == [None] * 3, (server, got)
    machine.succeed("test -S /run/mcp-oauth-gateway/egress/domains/socket")
    machine.fail("setpriv --reuid=65534 --clear-groups test -S /run/mcp-oauth-gateway/egress/domains/socket")
    machine.fail("ss --listening --tcp --numeric --no-header | grep :3128")

with subtest("sessions of a server with domains share no loopback"):
    open_session(PROXIED, "flooding")
    open_session(PROXIED, "using")
    assert attempt_in("flooding", PROXIED, ("listen", {"address": "7001"})) == ["7001"]
    by_port = ("connect", {"host": "127.0.0.1", "port": 7001})
    assert attempt_in("using", PROXIED, by_port) == [None]
    assert attempt_in("flooding", PROXIED, by_port) != [None]

PROXY_UNIT = "mcp-egress-domains.service"
SOCKET = "/run/mcp-egress/socket"
# More than the proxy has room for, by more processes than the other session has connections.
FLOOD = ("flood", {"path": SOCKET, "processes": 100, "count": 8})


def replace_program(unit: str, code: str, *arguments: object, settings: str = "") -> None:
    """Let a unit run Python code with the gateway's modules instead of its own program, in the same sandbox."""
    start = machine.succeed(f"systemctl cat mcp-server-{PROXIED}@.service | sed --quiet 's/^ExecStart=//p'").split()
    init = next(word for word in start if word.endswith("/server_init.py"))
    modules = init.removesuffix("/stdio_bridge/io/server_init.py")
    code = f"import sys; sys.path.insert(0, {modules!r}); {code}"
    command = " ".join([f'{start[0]} -c "{code}"', *map(str, arguments)])
    drop_in = f"/run/systemd/system/{unit}.d"
    machine.succeed(
        f"mkdir --parents {drop_in}",
        f"cat > {drop_in}/program.conf << 'END'\n[Service]\nExecStart=\nExecStart={command}\n{settings}\nEND",
        "systemctl daemon-reload",
    )


def flood_beside_a_tunnel() -> None:
    """Let a session flood the proxy, and the other one go on with what it has."""
    tunnel = ("open_tunnel", {"request": CONNECT, "path": SOCKET})
    assert attempt_in("using", PROXIED, tunnel) == [ESTABLISHED]
    assert attempt_in("flooding", PROXIED, FLOOD) == [800]
    assert attempt_in("using", PROXIED, ("ask_proxy", {"request": CONNECT})) == [ESTABLISHED]
    assert attempt_in("using", PROXIED, ("use_tunnel", {"text": "still here"})) == ["still here"]


with subtest("no session of a server with domains keeps the proxy from another, by many processes either"):
    flood_beside_a_tunnel()

with subtest("in the proxy's sandbox the kernel tells the session of a process, and a search finds the same"):
    machine.succeed(f"systemctl cat {PROXY_UNIT} > /run/systemd/system/probe.service")
    release = machine.succeed("uname --kernel-release").split(".")
    asks = (int(release[0]), int(release[1])) >= (6, 13)
    probe = (
        "import os; from stdio_bridge.egress import control_groups as groups; pid, expected = map(int, sys.argv[1:]);"
        " assert groups.search_control_group(pid) == expected;"
        + (" assert groups.ask_for_control_group(os.pidfd_open(pid)) == expected" if asks else "")
    )
    for unit in units_of(PROXIED):
        group = machine.succeed(f"systemctl show --property=ControlGroup --value {unit}").strip()
        number = machine.succeed(f"stat --format=%i /sys/fs/cgroup{group}").strip()
        replace_program("probe.service", probe, processes_of(unit)[0], number, settings="Type=oneshot")
        machine.succeed("systemctl start probe.service")
    replace_program("probe.service", probe, 1, number, settings="Type=oneshot")
    machine.fail("systemctl start probe.service")

with subtest("nor where the kernel is too old to tell the session of a process"):
    close_sessions(PROXIED)
    program, *domains = machine.succeed(f"systemctl cat {PROXY_UNIT} | sed --quiet 's/^ExecStart=//p'").split()
    assert "mcp-egress-proxy" in program, program
    old = (
        "from stdio_bridge.egress import __main__, control_groups;"
        # Such a kernel knows no request of this number either.
        " control_groups._GET_INFO = 0; sys.exit(__main__.main())"
    )
    replace_program(PROXY_UNIT, old, *domains)
    machine.succeed(f"systemctl stop {PROXY_UNIT}")
    open_session(PROXIED, "flooding")
    open_session(PROXIED, "using")
    flood_beside_a_tunnel()
    machine.succeed(f"rm -r /run/systemd/system/{PROXY_UNIT}.d /run/systemd/system/probe.service*")
    machine.succeed("systemctl daemon-reload", "systemctl daemon-reload")

with subtest("a proxy that has been running since before two reloads still reaches none of the host's own addresses"):
    of_this_host = [name_of(address) for address in ("192.31.196.1", "2620:4f:8000::1")]
    got = attempt_in(
        "using", PROXIED, *(("ask_proxy", {"request": f"CONNECT {name}:443 HTTP/1.1"}) for name in of_this_host)
    )
    assert got == ["HTTP/1.1 502 Bad Gateway"] * 2, got
    assert attempt_in("using", PROXIED, ("use_tunnel", {"text": "and here"})) == ["and here"]
    close_sessions(PROXIED)
    machine.succeed(f"systemctl stop {PROXY_UNIT}")
    # At its second reload systemd loses which network interfaces a running unit may use: SECURITY.md.
    for server in ON_THE_INTERNET:
        close_sessions(server)

with subtest("a proxy is exposed no more than it needs, and starts again at the next request however it ended"):
    machine.succeed("systemd-analyze security --no-pager --threshold=15 mcp-egress-domains.service")
    machine.succeed("systemctl kill --signal=KILL mcp-egress-domains.service")
    assert ask_proxy(CONNECT) == [ESTABLISHED]

with subtest("a server on the internet reaches the internet and resolves names"):
    for server in ON_THE_INTERNET:
        assert reached(server, INTERNET) == list(INTERNET), server
        mapped, names = attempt(server, ("mapped", {"host": INTERNET[0], "port": PORT}), RESOLVE)
        assert mapped is not None, server
        assert names == [INTERNET[0]], server

with subtest("names resolve after what resolves them was started again"):
    machine.succeed("systemctl restart nscd.service")
    for server in (*ON_THE_INTERNET, "full"):
        assert attempt(server, RESOLVE) == [[INTERNET[0]]], server

with subtest("a server on the internet reaches neither this host, nor its networks, nor a cloud's metadata"):
    for server in ON_THE_INTERNET:
        assert reached(server, FORBIDDEN) == [], server
        mapped = [("mapped", {"host": address, "port": PORT}) for address in FORBIDDEN if ":" not in address]
        assert attempt(server, ASK_RESOLVER, *mapped) == [None] * (len(mapped) + 1), server

with subtest("a public name that leads to this host leads a server on the internet nowhere"):
    by_name = ("connect", {"host": "mcp.example.com", "port": PORT})
    own_name = ("resolve", {"name": "mcp.example.com"})
    for server in ON_THE_INTERNET:
        assert attempt(server, own_name, by_name) == [["127.0.0.1"], None], server
    assert None not in attempt("full", own_name, by_name)

with subtest("a neighbour with a public address is reached, but for who is told not to"):
    assert reached("browser", (NEIGHBOUR,)) == [NEIGHBOUR]
    assert reached("internet", (NEIGHBOUR,)) == []

with subtest("no server makes a socket of another family, by system calls or by io_uring"):
    # Of the kernel (netlink), packets, virtual machines' hosts.
    others = [("socket", {"family": family}) for family in (16, 17, 40)]
    for server in (*SERVERS, PROXIED):
        ways = [("system_call", {"name": "io_uring_setup"}), ("system_call_of_x32", {})]
        assert attempt(server, *others, *ways) == [None] * 5, server

with subtest("no server has system calls that reach into other processes or into the kernel"):
    for server in SERVERS:
        names = ["userfaultfd", "kcmp", "keyctl", "pidfd_getfd", "ptrace", "bpf", "mount"]
        got = attempt(server, *(("system_call", {"name": name}) for name in names))
        assert got == [None] * len(names), (server, got)

with subtest("a browser starts with its relaxations, and gains nothing by them"):
    page = {"page": "data:text/html,<script>document.title = [6, 7].reduce((a, b) => a * b)</script>"}
    capset = ("system_call", {"name": "capset"})
    (shown, given_up) = attempt("browser", ("render", page), capset)
    assert "<title>42</title>" in (shown or ""), shown
    assert given_up == 0
    assert attempt("internet", ("render", page), capset) == [None, None]
    for server in (*SERVERS, *KEEPERS):
        open_session(server, server)
        bounding = f"{1 << 21:016x}" if server in OF_EACH_USER else "0" * 16
        (unit,) = units_of(server)
        bridge = int(machine.succeed(f"systemctl show --property=MainPID --value mcp-bridge-{server}.service"))
        for pid in (bridge, *processes_of(unit)):
            capabilities = machine.succeed(f"grep ^Cap /proc/{pid}/status").split()[1::2]
            bound = "0" * 16 if pid == bridge else bounding
            assert capabilities == ["0" * 16, "0" * 16, "0" * 16, bound, "0" * 16], (server, capabilities)
            # With which the kernel dumps no core.
            assert machine.succeed(f"grep '^Max core' /proc/{pid}/limits").split()[4:6] == ["1", "1"]
        assert machine.succeed(f"grep '^Max processes' /proc/{bridge}/limits").split()[2:4] == ["1", "1"]
        close_sessions(server)

with subtest("no server reads its bridge's key, or memory, environment or descriptors of its unit's first process"):
    for server in SERVERS:
        keys = (
            f"/run/credentials/mcp-bridge-{server}.service/identity-key",
            f"/run/mcp-oauth-gateway/identity-{server}",
        )
        got = attempt(
            server,
            *(("read", {"path": path}) for path in keys),
            *(("read_parent", {"part": part}) for part in ("mem", "environ", "maps", "fdinfo/3")),
            ("list_descriptors_of_parent", {}),
        )
        assert got == [None] * 7, (server, got)
        (open_here,) = attempt(server, ("list_descriptors", {}))
        assert not [each for each in open_here if "socket:" in each or "identity" in each], (server, open_here)
        managers = (f"/run/mcp-oauth-gateway/servers/{server}/socket", "/run/mcp-server/socket", "/run/systemd/notify")
        got = attempt(server, *(("connect_unix", {"path": path}) for path in managers))
        assert got == [None] * len(managers), (server, got)

with subtest("what a server leaves in shared memory, queues and temporary files is found by no other, nor on the disk"):
    places: list[dict[str, Any]] = [{"way": way} for way in ("file in /dev/shm", "System V memory", "POSIX queue")]
    find = [("find", way) for way in places]
    host_memory = 1024 * int(machine.succeed("grep ^MemTotal: /proc/meminfo").split()[1])
    for server in SERVERS:
        open_session(server, "leaver")
        assert attempt_in("leaver", server, *(("leave", way) for way in places)) == [way["way"] for way in places], (
            server
        )
        assert None not in attempt_in("leaver", server, *find), server
        # Another process of the same server does not find it, either.
        for other in (*SERVERS, "keeper"):
            assert attempt(other, *find) == [None] * len(find), (server, other)
        close_sessions(server)
    for server in SERVERS:
        temporary = ["/tmp/mcp-hostile-file", "/var/tmp/mcp-hostile-file"]
        assert attempt(server, *(("write", {"path": path}) for path in temporary)) == temporary
        sizes = attempt(server, *(("size", {"path": path}) for path in ("/tmp", "/var/tmp", "/dev/shm")))
        assert all(0 < size <= host_memory // 8 for size in sizes), (server, sizes)
    assert machine.succeed("find /tmp /var/tmp /dev/shm -name 'mcp-hostile*'") == ""

with subtest("no server sees the gateway's settings, or the sockets of the journal"):
    journals = ["journal", "journal.mcp-gateway", "journal.mcp-gateway-audit"]
    sockets = [f"/run/systemd/{journal}/{name}" for journal in journals for name in ("stdout", "socket", "dev-log")]
    for path in sockets:
        machine.succeed(f"test -S {path}")
    sockets.append("/dev/log")
    for server in SERVERS:
        got = attempt(
            server,
            *(("connect_unix", {"path": path}) for path in sockets),
            ("list", {"path": "/etc/mcp-oauth-gateway"}),
            ("read", {"path": "/etc/mcp-oauth-gateway/settings.json"}),
        )
        assert got == [None] * (len(sockets) + 2), (server, got)

with subtest("a server with user namespaces of its own is root of nothing else in them"):
    inside: list[dict[str, Any]] = [
        *(
            {"name": "uncover", "arguments": {"path": path}}
            for path in ("/etc/mcp-oauth-gateway", "/root", "/run", "/dev/shm", "/tmp")
        ),
        {"name": "read_parent", "arguments": {"part": "mem"}},
        {"name": "system_call", "arguments": {"name": "io_uring_setup"}},
        {"name": "socket", "arguments": {"family": 17}},
        {"name": "read", "arguments": {"path": "/var/lib/mcp-oauth-gateway/master-key"}},
    ]
    (results,) = attempt("nested", ("in_namespaces", {"attempts": inside}))
    assert [each.get("done") for each in results] == [None] * len(inside), results
    mount = ("in_namespaces", {"attempts": [{"name": "system_call", "arguments": {"name": "mount"}}]})
    assert attempt("nested", mount) == [[{"done": 0}]]
    for server in set(SERVERS) - {"nested"}:
        (refused,) = attempt(server, mount)
        assert "done" not in refused[0], (server, refused)

with subtest("a server with a root of its own sees no file of the host but those of its programs"):
    files = [("read", {"path": path}) for path in ("/etc/os-release", "/etc/passwd")]
    folders = [("list", {"path": path}) for path in ("/var/lib", "/srv", "/boot")]
    seen = attempt("store", *files, *folders)
    assert not any(seen), seen
    assert None not in attempt("full", *files)
    assert attempt("store", ("list", {"path": "/etc/ssl"})) != [None]

with subtest("what a server logs is a line of its unit, whatever it is made of"):
    forged = 'x\0<0>forged\n{"event": "grant.revoked", "forged": true}\n'
    for server in SERVERS:
        assert attempt(server, ("log", {"text": forged, "times": 1})) == [len(forged)]
        entries = f"journalctl --namespace=* --no-pager --unit=mcp-bridge-{server}.service --output=json"
        lines = machine.wait_until_succeeds(f"{entries} | grep forged | grep revoked && {entries} | grep forged")
        for entry in map(json.loads, lines.splitlines()):
            assert entry["PRIORITY"] == "6", entry
            assert entry["MESSAGE"].startswith("INFO "), entry
    machine.wait_until_succeeds("grep forged /var/log/mcp-oauth-gateway/gateway.log")
    for line in machine.succeed("grep forged /var/log/mcp-oauth-gateway/gateway.log").splitlines():
        assert " mcp-bridge-" in line, line
        assert ".service[" in line, line

with subtest("no server pushes an event out of the audit log, or writes one"):
    audit = "journalctl --namespace=mcp-gateway-audit --no-pager --output=json"
    before = [json.loads(line) for line in machine.succeed(audit).splitlines()]
    assert len(before) > len(SERVERS), before
    for server in SERVERS:
        assert attempt(server, ("log", {"text": "y" * 8000 + "\n", "times": 2000})) == [8001 * 2000]
        unit = f"journalctl --namespace=* --no-pager --unit=mcp-bridge-{server}.service --output=cat"
        machine.wait_until_succeeds(f"{unit} | grep --count yyyy")
        logged = machine.succeed(f"{unit} | wc --bytes")
        assert int(logged) < 1_000_000, (server, logged)
    after = [json.loads(line) for line in machine.succeed(audit).splitlines()]
    assert after[: len(before)] == before
    for entry in after:
        if entry["_TRANSPORT"] != "driver":  # the journal about itself
            assert entry["_SYSTEMD_UNIT"] == "mcp-auth-service.service", entry
            assert "event" in json.loads(entry["MESSAGE"]), entry
    machine.fail(
        "journalctl --namespace=* --no-pager --unit=mcp-auth-service.service --output=cat | grep --count forged"
    )

with subtest("no server gets at Redis, the system bus or another unit's runtime files"):
    for server in SERVERS:
        got = attempt(
            server,
            ("connect_unix", {"path": "/run/redis-mcp-oauth-gateway/redis.sock"}),
            ("connect_unix", {"path": "/run/dbus/system_bus_socket"}),
            ("list", {"path": "/run/mcp-oauth-gateway"}),
            ("list", {"path": "/run/credentials"}),
        )
        assert got == [None] * 4, (server, got)

with subtest("no server reads keys, secrets or what another one keeps"):
    machine.succeed("test -s /var/lib/mcp-oauth-gateway/master-key")
    key = machine.succeed("ls /var/lib/private/mcp-auth-service/signing-keys/").split()[0]
    paths = (
        "/var/lib/mcp-oauth-gateway/master-key",
        f"/var/lib/private/mcp-auth-service/signing-keys/{key}",
        "/run/mcp-oauth-gateway/identity-time",
        "/root/token-full",
        "/var/lib/mcp-bridge-keeper/mine",
        "/var/lib/private/mcp-bridge-keeper/mine",
    )
    assert attempt("keeper", ("write", {"path": "/var/lib/mcp-bridge-keeper/mine"})) == [
        "/var/lib/mcp-bridge-keeper/mine"
    ]
    machine.succeed("test -s /var/lib/private/mcp-bridge-keeper/mine")
    for server in SERVERS:
        got = attempt(server, *(("read", {"path": path}) for path in paths))
        assert got == [None] * len(paths), (server, got)
    assert attempt("keeper", ("read", {"path": "/var/lib/mcp-bridge-keeper/mine"})) == ["written\n"]

with subtest("no server sees, signals or reads the environment of another's processes"):
    pid = int(machine.succeed("systemctl show --property=MainPID --value mcp-auth-service.service"))
    for server in SERVERS:
        seen, *got = attempt(
            server, ("processes", {}), ("signal", {"pid": pid}), ("read", {"path": f"/proc/{pid}/environ"})
        )
        assert len(seen) > 0
        assert all("mcp-auth-service" not in line for line in seen), seen
        assert got == [None, None], (server, got)

with subtest("no server writes outside what is its own"):
    outside = ("/etc/evil", "/usr/evil", "/var/evil", "/run/evil", "/root/evil", "/home/evil")
    for server in SERVERS:
        *got, own = attempt(server, *(("write", {"path": path}) for path in (*outside, "/tmp/mine")))
        assert got == [None] * len(outside), (server, got)
        assert own == "/tmp/mine"
    machine.fail("test -e /tmp/mine")

with subtest("no server is told a secret by its environment"):
    for server in SERVERS:
        (environment,) = attempt(server, ("environment", {}))
        assert "PATH" in environment
        assert not {"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "INVOCATION_ID"} & set(environment)

KILL, STOP = 9, 19

for server in ("none", "internet", "full"):
    with subtest(f"{server}: two sessions are two units, with a user that no other server has"):
        open_session(server, "alice")
        (alice,) = units_of(server)
        open_session(server, "bob")
        (bob,) = set(units_of(server)) - {alice}
        owners = {machine.succeed(f"stat --format=%u /proc/{pid}").strip() for pid in processes_of(alice)}
        (bridge,) = processes_of(f"mcp-bridge-{server}.service")
        strangers = {machine.succeed(f"stat --format=%u /proc/{pid}").strip() for pid in (bridge, 1)}
        assert not owners & strangers, (owners, strangers)

    with subtest(f"{server}: a session sees, reads and writes nothing of another one's processes or of the bridge"):
        victims = [*processes_of(bob), bridge]
        (seen,) = attempt_in("alice", server, ("processes", {}))
        assert all("mcp-stdio-bridge" not in line for line in seen), seen
        # Itself, and nothing else: the first process is out of its sight.
        assert len(seen) == 1, seen
        reads = [
            ("read", {"path": f"/proc/{pid}/{part}"}) for pid in victims for part in ("environ", "maps", "mem", "fd/0")
        ]
        got = attempt_in("alice", server, *reads, ("write_to_all_pipes", {"text": "{}"}))
        assert got == [None] * (len(reads) + 1), got

    with subtest(f"{server}: a session ends, stops or limits nobody else"):
        attacks = [
            *(("signal", {"pid": pid, "number": number}) for pid in (*victims, -1) for number in (STOP, KILL)),
            *(("limit", {"pid": pid}) for pid in victims),
        ]
        got = attempt_in("alice", server, *attacks)
        assert got == [None] * len(attacks), got
        # Its own unit's first process takes no notice.
        attempt_in("alice", server, *(("signal", {"pid": 1, "number": number}) for number in (STOP, KILL, 15, 2)))
        for name in ("alice", "bob"):
            assert len(attempt_in(name, server, ("processes", {}))[0]) == 1

    with subtest(f"{server}: a session finds no socket, file, memory or queue of another one's"):
        home = attempt_in("bob", server, ("environment", {}))[0]["HOME"]
        planted = [f"{home}/.bashrc", "/tmp/planted", "/var/tmp/planted", "/dev/shm/planted"]
        assert attempt_in("bob", server, *(("write", {"path": path}) for path in planted)) == planted
        for way in ("file in /dev/shm", "System V memory", "POSIX queue"):
            assert attempt_in("bob", server, ("leave", {"way": way})) == [way]
            assert attempt_in("alice", server, ("find", {"way": way})) == [None]
        listening = attempt_in("bob", server, ("listen", {"address": "@bob"}), ("listen", {"address": "7001"}))
        # Without a network there are no such sockets at all.
        assert listening == ["@bob", None if server == "none" else "7001"]
        assert attempt_in("bob", server, ("connect_abstract", {"name": "bob"})) == ["bob"]
        got = attempt_in("alice", server, *(("read", {"path": path}) for path in planted))
        assert got == [None] * len(planted), got
        got = attempt_in("alice", server, ("connect_abstract", {"name": "bob"}))
        assert got == [None], got
        # A unit with the host's network reaches what listens on the host's loopback.
        (connected,) = attempt_in("alice", server, ("connect", {"host": "127.0.0.1", "port": 7001}))
        assert (connected is not None) == (server == "full"), connected

    with subtest(f"{server}: a session that ends leaves nothing behind, whatever it ignores"):
        assert attempt_in("bob", server, ("escape", {"seconds": 98765}), ("fork", {"children": 20})) == [0, 20]
        machine.succeed("pgrep --full 'sleep 98765'")
        url = f"https://{server}.mcp.example.com/mcp"
        machine.succeed(f"test-client end {url} --token-file /root/token-{server} --session-file /root/session-bob")
        machine.wait_until_fails("pgrep --full 'sleep 98765'")
        machine.wait_until_fails(f"systemctl list-units --all --plain --no-legend {bob} | grep .")
        assert units_of(server) == [alice]
        open_session(server, "carol")
        got = attempt_in("carol", server, *(("read", {"path": path}) for path in planted))
        assert got == [None] * len(planted), got

    with subtest(f"{server}: a server whose bridge is killed ends with it"):
        assert attempt_in("carol", server, ("escape", {"seconds": 98765})) == [0]
        machine.succeed(f"systemctl kill --signal=KILL mcp-bridge-{server}.service")
        machine.wait_until_fails("pgrep --full 'sleep 98765'")
        machine.wait_until_fails(f"systemctl list-units --all --plain --no-legend 'mcp-server-{server}@*' | grep .")

for server in OF_EACH_USER:
    home, private = f"/var/lib/mcp-server-{server}", f"/var/lib/private/mcp-server-{server}"
    issuer, url = "https://mcp.example.com", f"https://{server}.mcp.example.com/mcp"
    machine.succeed(f"test-client login {issuer} {url} --login hubot > /root/token-hubot")

    def directory_with(file: str, private: str = private) -> str:
        """Return the name of the one directory of a user that has the file; the health check has one, too."""
        (found,) = machine.succeed(f"cd {private} && ls */{file}").split()
        return found.partition("/")[0]

    with subtest(f"{server}: a process finds what an earlier one of its user has left"):
        (environment,) = attempt(server, ("environment", {}))
        assert environment["HOME"] == home
        assert attempt(server, ("write", {"path": f"{home}/mine"})) == [f"{home}/mine"]
        close_sessions(server)
        assert attempt(server, ("read", {"path": "mine"}), ("list", {"path": home})) == ["written\n", ["mine"]]

    with subtest(f"{server}: a process of another user finds nothing of it, by no path and by no system call"):
        of_octocat = directory_with("mine")
        assert machine.succeed(f"ls {private}/{of_octocat}").split() == ["mine"]
        assert machine.succeed(f"stat --format=%a {private}/{of_octocat}").strip() == "700"
        open_session(server, "octocat")
        open_session(server, "hubot", token="hubot")
        owners = {
            machine.succeed(f"stat --format=%u /proc/{pid}").strip()
            for u in units_of(server)
            for pid in processes_of(u)
        }
        assert owners == {machine.succeed(f"stat --format=%u {private}/{of_octocat}").strip()}
        assert attempt_in("hubot", server, ("list", {"path": home}), ("list", {"path": "."}), token="hubot") == [[], []]
        diary = ("write", {"path": f"{home}/diary"})
        assert attempt_in("hubot", server, diary, token="hubot") == [f"{home}/diary"]
        own = directory_with("diary")
        forbidden = [
            f"{root}{directory}{user}/mine"
            for root in ("", "/proc/1/root", "/proc/1/cwd", "/proc/self/root")
            for directory in (home, private, f"{home}/..", f"{private}/..", f"{home}/../{private.rpartition('/')[2]}")
            for user in ("", f"/{of_octocat}", f"/../{of_octocat}", f"/{own}/../{of_octocat}")
        ]
        uncover = [("uncover", {"path": path}) for path in (home, private, "/var/lib/private", "/var/lib")]
        calls = [("system_call", {"name": name}) for name in ("mount", "unshare")]
        got = attempt_in(
            "hubot", server, *(("read", {"path": path}) for path in forbidden), *uncover, *calls, token="hubot"
        )
        assert got == [None] * (len(forbidden) + len(uncover) + len(calls)), got
        inside = [{"name": "uncover", "arguments": {"path": home}}]
        (refused,) = attempt_in("hubot", server, ("in_namespaces", {"attempts": inside}), token="hubot")
        assert "done" not in refused[0], refused

    with subtest(f"{server}: nor does that user find what the other one writes at the same time"):
        assert attempt_in("octocat", server, ("read", {"path": f"{home}/diary"}), ("read", {"path": "mine"})) == [
            None,
            "written\n",
        ]
        close_sessions(server)

    with subtest(f"{server}: without the capability to keep users apart no process starts"):
        broken = f"/run/systemd/system/mcp-server-{server}@.service.d"
        machine.succeed(f"mkdir -p {broken} && printf '[Service]\nAmbientCapabilities=\n' > {broken}/broken.conf")
        machine.succeed("systemctl daemon-reload")
        why = machine.succeed(f"test-client refused {url} --token-file /root/token-{server}")
        assert f"cannot be started: {home}: Operation not permitted" in why, why
        machine.succeed(f"rm -r {broken} && systemctl daemon-reload")
        assert attempt(server, ("read", {"path": "mine"})) == ["written\n"]
        close_sessions(server)

VAULT = "https://vault.mcp.example.com/mcp"
TOKENS = {login: f"token-that-belongs-to-{login}" for login in ("octocat", "hubot")}


def give(login: str) -> None:
    """Log a user in, who enters the token where it is asked for, and open a session."""
    given = f"--login {login} --credential VAULT_TOKEN={TOKENS[login]}"
    machine.succeed(f"test-client login https://mcp.example.com {VAULT} {given} > /root/token-{login}-vault")
    open_session("vault", f"{login}-vault", token=f"{login}-vault")


def in_vault(login: str, *attempts: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let the process of a user try things."""
    return attempt_in(f"{login}-vault", "vault", *attempts, token=f"{login}-vault")


machine.wait_until_succeeds(f"test-client challenge {VAULT}")

with subtest("vault: the processes of two users have each its user's token in their environment"):
    for login in TOKENS:
        give(login)
    for login, token in TOKENS.items():
        (environment,) = in_vault(login, ("environment", {}))
        assert environment["VAULT_TOKEN"] == token
    units = units_of("vault")
    assert len(units) == 2, units

with subtest("vault: neither finds the other's, in no process and in no file"):
    on_host = [pid for unit in units for pid in processes_of(unit)]
    numbers = [*range(1, 33), *on_host]
    parts = ("environ", "mem", "maps", "root/proc/1/environ")
    tries = [("read", {"path": f"/proc/{number}/{part}"}) for number in numbers for part in parts]
    for login, other in (("octocat", "hubot"), ("hubot", "octocat")):
        seen, *got = in_vault(login, ("processes", {}), *tries)
        assert TOKENS[other] not in str(got)
        # Its own, of which one is the first process of the unit, and hides itself.
        assert 1 <= len(seen) <= 2, seen
        assert in_vault(login, *(("read_parent", {"part": part}) for part in ("mem", "environ"))) == [None, None]
        assert in_vault(
            login, ("list_descriptors_of_parent", {}), ("connect_unix", {"path": "/run/mcp-server/socket"})
        ) == [
            None,
            None,
        ]

with subtest("vault: no token is in a unit's properties, a command line, a journal, or where the gateway keeps things"):
    its_bridge = int(machine.succeed("systemctl show --property=MainPID --value mcp-bridge-vault.service"))
    machine.succeed("cat /proc/[0-9]*/cmdline > /root/command-lines || true")
    machine.succeed(f"cat /proc/{its_bridge}/environ > /root/environment-of-bridge")
    machine.succeed(
        "systemctl show 'mcp-server-vault@*' mcp-bridge-vault.service mcp-auth-service.service > /root/units"
    )
    machine.succeed("journalctl --namespace=* --no-pager --output=json --all > /root/journals")
    machine.succeed("grep mcp-server-vault@ /root/units")
    for place in ("/root/command-lines", "/root/environment-of-bridge", "/root/units", "/root/journals"):
        machine.fail(f"grep --text 'token-that-belongs-to' {place}")
    kept = "/var/lib/redis-mcp-oauth-gateway /var/lib/private/mcp-auth-service /etc/mcp-oauth-gateway"
    machine.fail(f"grep --recursive --text --quiet 'token-that-belongs-to' {kept}")

with subtest("vault: its processes leave no core dump"):
    for pid in on_host:
        limit = machine.succeed(f"grep 'Max core file size' /proc/{pid}/limits").split()
        assert limit[4:6] == ["1", "1"], limit

with subtest("vault: its bridge gets a network for its questions, and is exposed no more than that needs"):
    machine.succeed("systemd-analyze security --no-pager --threshold=15 mcp-bridge-vault.service")
    allowed = machine.succeed("systemctl show --property=IPAddressAllow,IPAddressDeny mcp-bridge-vault.service")
    assert "IPAddressAllow=127.0.0.1/32" in allowed.split("\n"), allowed
    assert "0.0.0.0/0" in allowed, allowed

with subtest("vault: a removal ends the processes of its user at once, and no other"):
    machine.succeed("mcp-gatewayctl credentials remove octocat vault")
    machine.wait_until_succeeds(
        "test $(systemctl list-units --all --plain --no-legend 'mcp-server-vault@*' | wc --lines) = 1"
    )
    (environment,) = in_vault("hubot", ("environment", {}))
    assert environment["VAULT_TOKEN"] == TOKENS["hubot"]
    why = machine.execute(f"test-client refused {VAULT} --token-file /root/token-octocat-vault")[1]
    assert "log in again" in why, why

with subtest("vault: a bridge that is killed leaves no process, and its successor asks anew"):
    machine.succeed("systemctl kill --signal=KILL mcp-bridge-vault.service")
    machine.wait_until_fails("systemctl list-units --all --plain --no-legend 'mcp-server-vault@*' | grep .")
    open_session("vault", "hubot-vault", token="hubot-vault")
    (environment,) = in_vault("hubot", ("environment", {}))
    assert environment["VAULT_TOKEN"] == TOKENS["hubot"]

close_sessions("vault")

DRIVE = "https://drive.mcp.example.com/mcp"


def connect(login: str) -> str:
    """Log a user in, who connects an account on the way, and open a session; return the token that its process has."""
    machine.succeed(f"test-client login https://mcp.example.com {DRIVE} --login {login} > /root/token-{login}-drive")
    open_session("drive", f"{login}-drive", token=f"{login}-drive")
    (environment,) = in_drive(login, ("environment", {}))
    return str(environment["DRIVE_TOKEN"])


def in_drive(login: str, *attempts: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let the process of a user try things."""
    return attempt_in(f"{login}-drive", "drive", *attempts, token=f"{login}-drive")


# What the other service says of an access token: whose it is, or that it is not good.
ACCOUNT = "test-client page http://127.0.0.1:8091/tokens"

with subtest("drive: a process has the token of the account that its user has connected, and the files of its user"):
    connected = {login: connect(login) for login in TOKENS}
    assert len(set(connected.values())) == len(TOKENS)
    written = "/var/lib/mcp-server-drive/mine"
    assert in_drive("octocat", ("write", {"path": written})) == [written]
    assert in_drive("hubot", ("read", {"path": written})) == [None]
    machine.succeed("journalctl --namespace=* --no-pager --output=json --all > /root/journals")
    for token in connected.values():
        for place in ("/root/journals", kept):
            machine.fail(f"grep --recursive --text --quiet '{token}' {place}")
        machine.succeed(f"{ACCOUNT}/{token} | grep ada")

with subtest("drive: a removal ends the processes of its user, and the token at the other service"):
    machine.succeed("mcp-gatewayctl credentials remove octocat drive")
    machine.wait_until_succeeds(
        "test $(systemctl list-units --all --plain --no-legend 'mcp-server-drive@*' | wc --lines) = 1"
    )
    machine.wait_until_fails(f"{ACCOUNT}/{connected['octocat']}")
    machine.succeed(f"{ACCOUNT}/{connected['hubot']}")
    assert in_drive("hubot", ("environment", {}))[0]["DRIVE_TOKEN"] == connected["hubot"]
    why = machine.succeed(f"test-client refused {DRIVE} --token-file /root/token-octocat-drive")
    assert "log in again" in why, why

with subtest("drive: the next login connects an account again, and the process finds the files of its user"):
    assert connect("octocat") not in connected.values()
    assert in_drive("octocat", ("read", {"path": written})) == ["written\n"]

close_sessions("drive")


def log_in_at(server: str) -> str:
    """Log in at a server at a URL; return the options of a step as this client."""
    url = f"https://{server}.mcp.example.com/mcp"
    machine.succeed(f"test-client login https://mcp.example.com {url} > /root/token-{server}")
    return f"{url} --token-file /root/token-{server}"


with subtest("a server at a URL gets no request if either side does not believe the other's certificate"):
    for server in ("unidentified", "mistrusted", "unknown"):
        machine.succeed(f"test-client refused {log_in_at(server)}")

with subtest("a server at a URL gets the gateway's own token and certificate, and never the user's token"):
    described = machine.succeed(f"test-client call {log_in_at('wiki')} --tool request")
    seen = json.loads(described)
    assert seen["headers"]["Authorization"] == "Bearer the-gateways-own-token"
    assert seen["client"] == "gateway"
    assert seen["asked"] == ["/wiki"], "the others have got no request"
    assert machine.succeed("cat /root/token-wiki").strip() not in described
    machine.succeed("journalctl --namespace=* --no-pager --output=json --all > /root/journals")
    for place in ("/root/journals", kept):
        machine.fail(f"grep --recursive --text --quiet 'the-gateways-own-token' {place}")

# Containers may have no such controllers.
controllers = set(machine.succeed("cat /sys/fs/cgroup/cgroup.controllers").split())
open_session("none", "alice")
open_session("none", "bob")

with subtest("a session that opens files without end stops itself alone"):
    assert attempt_in("alice", "none", ("open_files", {"count": 1_000_000})) == [None]
    assert attempt_in("bob", "none", ("open_files", {"count": 100})) == [100]

if "pids" in controllers:
    with subtest("a session that forks without end stops itself alone"):
        assert attempt_in("alice", "none", ("fork", {"children": 200})) == [None]
        assert attempt_in("bob", "none", ("fork", {"children": 20})) == [20]

if "memory" in controllers:
    with subtest("a session that takes all of its memory ends alone, and is told why"):
        open_session("none", "glutton")
        machine.fail(
            "test-client call https://none.mcp.example.com/mcp --token-file /root/token-none"
            " --session-file /root/session-glutton --tool allocate --arguments '{\"mib\": 1024}'"
        )
        log = "journalctl --namespace=* --no-pager --unit=mcp-bridge-none.service --output=cat"
        machine.wait_until_succeeds(f"{log} | grep 'its unit ran out of the memory that it may have'")
        assert len(attempt_in("bob", "none", ("processes", {}))) == 1

close_sessions("none")


def count_resources() -> dict[str, int]:
    """Return what would grow if each session left something: descriptors, memory in MiB, control groups, units."""
    bridge = int(machine.succeed("systemctl show --property=MainPID --value mcp-bridge-none.service"))
    counted = {}
    for name, pid in (("bridge", bridge), ("systemd", 1)):
        counted[f"descriptors of {name}"] = int(machine.succeed(f"ls /proc/{pid}/fd | wc --lines"))
        resident = machine.succeed(f"grep ^VmRSS: /proc/{pid}/status").split()[1]
        counted[f"MiB of {name}"] = int(resident) // 1024
    counted["control groups"] = int(machine.succeed("find /sys/fs/cgroup -type d | wc --lines"))
    counted["units"] = int(machine.succeed("systemctl list-units --all --plain --no-legend | wc --lines"))
    return counted


with subtest("many sessions leave no unit, descriptor, control group or memory"):
    # The health check has sessions of its own.
    machine.succeed("systemctl stop mcp-gateway-health.timer mcp-gateway-health.service")
    repeat = "test-client repeat https://none.mcp.example.com/mcp --token-file /root/token-none --count {}"
    machine.succeed(repeat.format(10))
    at_first = count_resources()
    machine.succeed(repeat.format(100))
    machine.wait_until_fails("systemctl list-units --all --plain --no-legend 'mcp-server-none@*' | grep .")
    at_last = count_resources()
    assert all(at_last[each] < at_first[each] + 20 for each in at_last), (at_first, at_last)
