from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stdio_bridge.options import Isolation, Options, parse_options
from stdio_bridge.options.config_file import make_schema
from stdio_bridge.options.definitions import options_by_name
from stdio_bridge.protocol.errors import UsageError

ENVIRONMENT = {"PATH": os.environ["PATH"], "SECRET": "s"}
COMMITTED = Path(__file__).parents[3] / "docs/bridge.schema.json"

# Every option but those that say who may call, and what serves: in the file, and as said on the command line.
SAMPLES: dict[str, tuple[Any, list[str]]] = {
    "allow-host": (["a.example", "b.example"], ["--allow-host", "a.example", "--allow-host", "b.example"]),
    "allow-origin": (["https://a.example"], ["--allow-origin", "https://a.example"]),
    "call-records": ("unix:/run/j", ["--call-records", "unix:/run/j"]),
    "call-timeout": (12.5, ["--call-timeout", "12.5"]),
    "call-timeout-total": (60, ["--call-timeout-total", "60"]),
    "calls-per-minute": (14, ["--calls-per-minute", "14"]),
    "cwd": ("/tmp", ["--cwd", "/tmp"]),
    "drain-timeout": (1, ["--drain-timeout", "1"]),
    "env": ({"A": "1", "B": "="}, ["--env", "A=1", "--env", "B=="]),
    "idle-timeout": (2, ["--idle-timeout", "2"]),
    "idle-exit": (600, ["--idle-exit", "600"]),
    "input-timeout": (3, ["--input-timeout", "3"]),
    "isolation": ("shared", ["--isolation", "shared"]),
    "keep-alive": (4, ["--keep-alive", "4"]),
    "listen": ("[::1]:80", ["--listen", "[::1]:80"]),
    "log-level": ("debug", ["--log-level", "debug"]),
    "max-calls": (5, ["--max-calls", "5"]),
    "max-calls-per-user": (15, ["--max-calls-per-user", "15"]),
    "max-connections": (6, ["--max-connections", "6"]),
    "max-message-bytes": (7, ["--max-message-bytes", "7"]),
    "max-sessions": (8, ["--max-sessions", "8"]),
    "max-sessions-per-user": (9, ["--max-sessions-per-user", "9"]),
    "max-shared-sessions": (10, ["--max-shared-sessions", "10"]),
    "max-shared-sessions-per-user": (11, ["--max-shared-sessions-per-user", "11"]),
    "pass-env": (["SECRET"], ["--pass-env", "SECRET"]),
    "protocol-version": (["2025-06-18"], ["--protocol-version", "2025-06-18"]),
    "record-arguments": ("digest", ["--record-arguments", "digest"]),
    "replica": ("a-1", ["--replica", "a-1"]),
    "server-era": ("legacy", ["--server-era", "legacy"]),
    "server-name": ("time", ["--server-name", "time"]),
    "server-protocol-version": ("2025-06-18", ["--server-protocol-version", "2025-06-18"]),
    "starts-at-once": (12, ["--starts-at-once", "12"]),
    "stop-timeout": (13, ["--stop-timeout", "13"]),
    "tracing-endpoint": ("http://127.0.0.1:1/v1/traces", ["--tracing-endpoint", "http://127.0.0.1:1/v1/traces"]),
    "tracing-sample-ratio": (0.5, ["--tracing-sample-ratio", "0.5"]),
    "tracing-service-name": ("mcp-bridge-time", ["--tracing-service-name", "mcp-bridge-time"]),
    "warm-spares": (0, ["--warm-spares", "0"]),
}
WHO = {"require-identity", "no-identity"}
WHAT = {"command", "server-socket"}
RULES = {"tools", "prompts", "resources"}  # see test_rules
LOCK = {"tools-lock"}  # see test_lock_file
CREDENTIALS = {"credentials-url", "user-credential"}  # only with identities, see test_user_credentials
WRONG: list[tuple[str, object]] = [
    ("allow-host", "a.example"),
    ("allow-host", [1]),
    ("call-records", "calls.jsonl"),
    ("call-records", "unix:calls"),
    ("record-arguments", True),
    ("server-name", "a b"),
    ("call-timeout", "60"),
    ("call-timeout", 0),
    ("call-timeout", 1e9),
    ("call-timeout", True),
    ("command", []),
    ("command", "true"),
    ("command", ["true", 1]),
    ("credentials-url", "http://127.0.0.1:9000/credentials/time"),
    ("credentials-url", ["http://auth.example/credentials/time"]),
    ("credentials-url", ["https://127.0.0.1:9000/credentials/time"]),
    ("cwd", 1),
    ("env", ["A=1"]),
    ("env", {"A": 1}),
    ("idle-exit", -1),
    ("idle-exit", "600"),
    ("idle-exit", True),
    ("idle-exit", 1e9),
    ("isolation", "none"),
    ("isolation", None),
    ("max-calls", 0),
    ("max-calls", 1.5),
    ("max-calls", "1"),
    ("max-calls", True),
    ("max-calls", 10**11),
    ("no-identity", "yes"),
    ("protocol-version", ["2025-01-01"]),
    ("replica", "a.b"),
    ("server-socket", "run/server"),
    ("tracing-endpoint", "127.0.0.1:4318"),
    ("tracing-endpoint", "http://127.0.0.1:4318"),
    ("tracing-endpoint", "http://token@127.0.0.1:4318/v1/traces"),
    ("tracing-endpoint", "ftp://127.0.0.1/v1/traces"),
    ("tracing-sample-ratio", 1.1),
    ("tracing-sample-ratio", -0.1),
    ("tracing-sample-ratio", "1"),
    ("tracing-sample-ratio", True),
    ("tracing-service-name", 1),
    ("user-credential", "TOKEN"),
    ("user-credential", ["A-B"]),
    ("user-credential", ["A" * 101]),
    ("warm-spares", -1),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "bridge.json"


def parse(config: Path, members: object, *arguments: str) -> Options:
    config.write_text(members if isinstance(members, str) else json.dumps(members))
    return parse_options(["--config", str(config), *arguments], ENVIRONMENT)


def refused(config: Path, members: object, *arguments: str) -> str:
    with pytest.raises(UsageError) as error:
        parse(config, members, *arguments)
    return str(error.value)


def test_there_is_a_sample_of_every_option() -> None:
    assert SAMPLES.keys() | WHO | WHAT | RULES | LOCK | CREDENTIALS == options_by_name().keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_member_means_what_the_option_of_its_name_means(config: Path, name: str) -> None:
    value, arguments = SAMPLES[name]
    base = {"command": ["true", "-a"], "no-identity": True}
    expected = parse_options(["--no-identity", *arguments, "--", "true", "-a"], ENVIRONMENT)
    assert parse(config, {**base, name: value}) == expected
    if name not in ("warm-spares", "max-sessions-per-user", "max-shared-sessions-per-user"):  # 0 by default; see below
        assert parse(config, base) != expected


@pytest.mark.parametrize("per_user", ["max-sessions-per-user", "max-shared-sessions-per-user"])
def test_a_bound_of_each_user_counts_where_users_are_known(config: Path, per_user: str) -> None:
    options = parse(config, {"command": ["true"], "require-identity": "/run/key", per_user: 3})
    assert getattr(options, per_user.replace("-", "_")) == 3


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(config: Path) -> None:
    members = {
        "command": ["false", "old"],
        "no-identity": True,
        "isolation": "shared",
        "allow-host": ["old.example"],
        "env": {"OLD": "1"},
        "warm-spares": 2,
    }
    arguments = ("--isolation", "per-user", "--allow-host", "new.example", "--env", "NEW=1", "--", "true", "new")
    options = parse(config, members, *arguments)
    assert options.isolation is Isolation.PER_USER
    assert options.allowed_hosts == ("new.example",)
    assert options.environment == {"PATH": ENVIRONMENT["PATH"], "NEW": "1"}
    assert Path(options.command[0]).name == "true"
    assert options.command[1:] == ("new",)
    assert options.warm_spares == 2


def test_who_may_call_is_decided_on_the_command_line_if_it_says_so(config: Path) -> None:
    base = {"command": ["true"]}
    assert parse(config, base, "--require-identity", "/run/key").identity_key == Path("/run/key")
    closed = parse(config, {**base, "no-identity": True}, "--require-identity", "fd:key")
    assert (closed.identity_key, closed.no_identity) == ("key", False)
    opened = parse(config, {**base, "require-identity": "/run/key"}, "--no-identity")
    assert (opened.identity_key, opened.no_identity) == (None, True)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"no-identity": False},
        {"no-identity": True, "require-identity": "/run/key"},
    ],
)
def test_a_file_must_say_who_may_call_and_only_once(config: Path, members: dict[str, object]) -> None:
    assert "--require-identity" in refused(config, {"command": ["true"], **members})


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("call_timeout", "call-timeout"),
        ("maxSessions", "max-sessions"),
        ("isolatoin", "isolation"),
        ("--replica", "replica"),
        ("allow-hosts", "allow-host"),
    ],
)
def test_an_unknown_member_is_named_with_the_nearest_right_one(config: Path, written: str, right: str) -> None:
    message = refused(config, {"command": ["true"], "no-identity": True, written: 1})
    assert message == f"{config}: {written}: no option has this name: did you mean {right}?"


def test_an_unknown_member_that_is_near_to_none_is_named(config: Path) -> None:
    assert refused(config, {"color": 1}) == f"{config}: color: no option has this name (see --help)"


@pytest.mark.parametrize("name", ["config", "check", "config-schema", "help", "version"])
def test_what_only_a_command_line_can_say_is_no_member(config: Path, name: str) -> None:
    assert f"{name}: no option has this name" in refused(config, {name: True})


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_makes_no_sense_is_named_with_its_file_and_member(config: Path, name: str, value: object) -> None:
    message = refused(config, {"command": ["true"], "no-identity": True, name: value})
    assert message.startswith(f"{config}: {name}: ")


@pytest.mark.parametrize("name", ["", "A=B"])
def test_a_variable_has_a_name_that_can_be_assigned(config: Path, name: str) -> None:
    assert refused(config, {"env": {name: "1"}}).startswith(f"{config}: env: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"max-calls": 1, "max-calls": 2}', "'max-calls' occurs twice"),
        ('{"call-timeout": NaN}', "NaN is not a number"),
    ],
)
def test_a_file_that_is_no_object_of_options_is_refused_by_name(config: Path, text: str, reason: str) -> None:
    message = refused(config, text)
    assert message.startswith(f"{config}: ")
    assert reason in message


def test_a_file_that_cannot_be_read_is_refused_by_name(config: Path) -> None:
    with pytest.raises(UsageError, match=r"bridge\.json: cannot be read: No such file"):
        parse_options(["--config", str(config)], ENVIRONMENT)
    config.write_bytes(b'{"cwd": "\xff"}')
    with pytest.raises(UsageError, match=r"bridge\.json: is not valid JSON"):
        parse_options(["--config", str(config)], ENVIRONMENT)


def test_a_servers_socket_takes_the_place_of_its_command(config: Path) -> None:
    options = parse(config, {"no-identity": True, "server-socket": "/run/server", "env": {"A": "b"}})
    assert (options.command, options.server_socket, options.environment) == ((), Path("/run/server"), {"A": "b"})
    both = {"no-identity": True, "server-socket": "/run/server", "command": ["true"]}
    assert refused(config, both).startswith("--server-socket: ")


def test_without_a_command_anywhere_nothing_is_started(config: Path) -> None:
    assert refused(config, {"no-identity": True}).startswith("no server command")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "stdio_bridge", *arguments), capture_output=True, text=True, check=False
    )


def test_a_check_accepts_what_would_be_served_without_its_programs_and_starts_nothing(config: Path) -> None:
    members = {"command": ["/no/such/program"], "require-identity": "/no/such/key", "cwd": "/no/such/folder"}
    config.write_text(json.dumps(members))
    done = run("--config", str(config), "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("--config", str(config))
    assert (done.returncode, done.stdout) == (2, "")
    assert "/no/such/" in done.stderr


def test_a_check_refuses_what_would_not_be_served(config: Path) -> None:
    config.write_text(json.dumps({"command": ["true"], "no-identity": True, "server-protocol-version": "2026-07-28"}))
    done = run("--config", str(config), "--check")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--server-protocol-version 2026-07-28" in done.stderr


def test_the_committed_schema_is_the_one_that_is_printed() -> None:
    done = run("--config-schema")
    assert done.returncode == 0
    assert COMMITTED.read_text() == done.stdout, (
        "mend it with: python -m stdio_bridge --config-schema > docs/bridge.schema.json"
    )


def test_the_schema_accepts_every_sample_and_refuses_every_mistake() -> None:
    schema = make_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({name: value for name, (value, _) in SAMPLES.items()})
    assert valid({"command": ["true"], "no-identity": True, "require-identity": "fd:key"})
    assert not valid({"call_timeout": 1})
    assert [(name, value) for name, value in WRONG if valid({name: value})] == []


def test_the_schema_tells_the_defaults_that_are_used(config: Path) -> None:
    properties: Any = make_schema()["properties"]
    told = {name: each["default"] for name, each in properties.items() if "default" in each}
    assert len(told) > 15
    base = {"command": ["true"], "require-identity": "/run/key"}
    assert parse(config, {**base, **told}) == parse(config, base)
