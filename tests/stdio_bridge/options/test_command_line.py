from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

from stdio_bridge.options import DEFAULT_ENVIRONMENT, Isolation, Options, parse_options
from stdio_bridge.protocol.errors import UsageError

ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/home/a", "LISTEN_PID": "1", "SECRET": "s", "LC_ALL": "C"}


def parse(*arguments: str) -> Options:
    return parse_options([*arguments, "--no-identity", "--", "true"], ENVIRONMENT)


def test_everything_after_the_first_two_dashes_reaches_the_server_unchanged() -> None:
    options = parse_options(["--no-identity", "--", "true", "--listen", "", "--", "-h", "a b", "*"], ENVIRONMENT)
    assert options.command[1:] == ("--listen", "", "--", "-h", "a b", "*")
    assert options.listen is None


def test_without_being_told_otherwise_nothing_is_shared_and_nothing_is_started_ahead() -> None:
    options = parse()
    assert (options.isolation, options.warm_spares, options.replica) == (Isolation.PER_SESSION, 0, "")
    assert options.starts_at_once >= 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("unix:/run/bridge", Path("/run/bridge")),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_path(text: str, address: object) -> None:
    assert parse("--listen", text).listen == address


@pytest.mark.parametrize(("text", "source"), [("/run/key", Path("/run/key")), ("fd:identity-key", "identity-key")])
def test_a_key_is_in_a_file_or_in_a_descriptor_that_is_handed_over(text: str, source: object) -> None:
    assert parse_options(["--require-identity", text, "--", "true"], ENVIRONMENT).identity_key == source


@pytest.mark.parametrize("name", ["a", "host-2", "0"])
def test_a_replica_is_named_so_that_a_router_can_match_it(name: str) -> None:
    assert parse("--replica", name).replica == name


@pytest.mark.parametrize(
    "arguments",
    [
        ("--require-identity", "fd:"),
        ("--listen", "80"),
        ("--listen", "localhost:"),
        ("--listen", "localhost:65536"),
        ("--listen", f"localhost:{'9' * 5000}"),
        ("--listen", "localhost:\u0661"),
        ("--max-sessions", "9" * 5000),
        ("--listen", "unix:relative"),
        ("--replica", ""),
        ("--replica", "a.b"),
        ("--replica", "A"),
        ("--replica", "a" * 64),
        ("--isolation", "none"),
        ("--warm-spares", "-1"),
        ("--warm-spares", "many"),
        ("--max-calls", "0"),
        ("--call-timeout", "0"),
        ("--call-timeout", "nan"),
        ("--iso", "shared"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_option(arguments: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=arguments[0]):
        parse(*arguments)


def test_the_server_gets_what_programs_need_and_what_is_passed_on_and_nothing_of_the_bridges_own() -> None:
    assert parse().environment == {"PATH": ENVIRONMENT["PATH"], "HOME": "/home/a", "LC_ALL": "C"}
    passed = parse("--pass-env", "*", "--env", "NEW=a=b").environment
    assert passed == {**parse().environment, "SECRET": "s", "NEW": "a=b"}


def test_without_identities_everyone_is_one_user_who_is_not_held_to_one_users_share() -> None:
    assert parse("--max-sessions", "50", "--max-sessions-per-user", "2").max_sessions_per_user == 50


def test_help_is_a_page_that_names_every_option_mode_and_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(["--help"], ENVIRONMENT)
    page = capsys.readouterr().out
    assert ended.value.code == 0
    assert max(map(len, page.splitlines())) <= 120
    for word in (
        "--isolation",
        "per-session",
        "per-user",
        "shared",
        "--warm-spares",
        "/metrics",
        "/readyz",
        "examples",
    ):
        assert word in page


def test_help_names_every_variable_that_is_passed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"], ENVIRONMENT)
    page = capsys.readouterr().out
    for name in DEFAULT_ENVIRONMENT:
        assert re.search(rf"[ ,]{re.escape(name)}[,)]", page), name


def told_version(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_options(["--version"], ENVIRONMENT)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", {"mcp-oauth-gateway": "1.2.3"}.__getitem__)
    assert told_version(capsys) == "mcp-stdio-bridge 1.2.3\n"


def test_without_an_installed_package_there_is_no_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert told_version(capsys) == "mcp-stdio-bridge of a checkout that is not installed\n"


def test_a_command_without_the_dashes_before_it_gives_a_hint() -> None:
    with pytest.raises(UsageError, match=r"some-server.*goes after --"):
        parse_options(["--listen", "127.0.0.1:0", "--no-identity", "some-server", "--its-option"], ENVIRONMENT)
    with pytest.raises(UsageError) as refused:
        parse_options(["--listen", "127.0.0.1:0", "--no-identity", "--no-such-option", "--", "true"], ENVIRONMENT)
    assert "goes after" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "host"),
    [("2001:0DB8::1", "2001:db8::1"), ("[0:0:0:0:0:0:0:2]:443", "::2"), ("[2001:db8:*]", "2001:db8:*")],
)
def test_an_address_is_read_as_clients_write_it(text: str, host: str) -> None:
    assert parse("--allow-host", text).allowed_hosts == (host,)
    assert parse("--allow-origin", f"http://[{host}]:80").allowed_origins == (f"http://[{host}]",)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--allow-origin", "http://b\u00fccher.example"),
        ("--allow-origin", "https://x:65536"),
        ("--allow-origin", f"https://x:{'9' * 5000}"),
        ("--allow-origin", "http://[1::2::3]"),
        ("--allow-host", "[1:2]"),
        ("--allow-host", "1::2::3"),
    ],
)
def test_what_no_client_sends_is_refused(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(option)):
        parse(option, text)


def test_a_servers_socket_takes_the_place_of_its_command_and_gets_only_variables_that_are_named() -> None:
    options = parse_options(["--no-identity", "--server-socket", "/run/server", "--env", "A=b"], ENVIRONMENT)
    assert (options.command, options.server_socket, options.environment) == ((), Path("/run/server"), {"A": "b"})
    assert parse().server_socket is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server-socket", "run/server"),
        ("--server-socket", "/run/server", "--", "true"),
        ("--server-socket", "/run/server", "--cwd", "/"),
        ("--server-socket", "/run/server", "--pass-env", "A"),
    ],
)
def test_what_the_servers_unit_says_cannot_be_said_beside_its_socket(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--server-socket"):
        parse_options(["--no-identity", *arguments], ENVIRONMENT)
