from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from stdio_bridge.http.exchange import Request
from stdio_bridge.http.origin_check import OriginCheck
from stdio_bridge.options import parse_options
from stdio_bridge.protocol.errors import HttpError, UsageError


class Headers:
    """As much of a request as is looked at here."""

    def __init__(self, **values: str) -> None:
        self.headers = {name.lower(): value for name, value in values.items()}


def allowed(*options: str, origin: str | None = None, host: str = "localhost:9001") -> bool:
    who = () if "--require-identity" in options else ("--no-identity",)
    parsed = parse_options(["--listen", "127.0.0.1:0", *who, *options, "--", "true"], {"PATH": os.environ["PATH"]})
    access = OriginCheck(parsed)
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    statuses = []
    for _ in range(2):  # the second one is remembered
        try:
            access.check(cast("Request", Headers(**headers)))
            statuses.append("allowed")
        except HttpError as error:
            statuses.append(error.status)
    assert statuses in (["allowed"] * 2, ["403 Forbidden"] * 2)
    return statuses[0] == "allowed"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "tauri.localhost", "a.b.localhost:80", "127.0.0.1:9001", "[::1]:9001", "[::1]"],
)
def test_by_itself_the_bridge_answers_to_loopback_names(host: str) -> None:
    assert allowed(host=host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[", "[::1", "x@evil.example", "a" * 9999],
)
def test_by_itself_the_bridge_answers_to_no_other_name(host: str) -> None:
    assert not allowed(host=host)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "http://localhost:3000",
        "https://127.0.0.1",
        "http://[::1]:5173",
        "http://tauri.localhost",
        "tauri://localhost",
    ],
)
def test_by_itself_the_bridge_answers_programs_and_pages_of_this_machine(origin: str | None) -> None:
    assert allowed(origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        *("", "null", "https://evil.example", "https://localhost.evil.example", "http://[", "localhost", "x" * 9999),
        *("http://localhost, http://evil.example", "http://localhost/, http://evil.example", "http://localhost/"),
        *("http://evil.example@localhost", "http://localhost#", "http://localhost?", "http://", " http://localhost"),
    ],
)
def test_by_itself_the_bridge_answers_no_other_page(origin: str) -> None:
    assert not allowed(origin=origin)


def test_a_list_of_origins_takes_the_place_of_loopback() -> None:
    listed = ("--allow-origin", "https://app.example.com", "--allow-origin", "https://*.example.net")
    assert allowed(*listed, origin="https://APP.example.com")
    assert allowed(*listed, origin="https://a.example.net")
    assert not allowed(*listed, origin="http://localhost")
    assert not allowed(*listed, origin="http://app.example.com")
    assert not allowed(*listed, origin="https://app.example.com.evil.example")
    assert not allowed(*listed, origin="https://evil.example/.example.net")
    assert allowed("--allow-origin", "*", origin="null")


def test_a_list_of_hosts_adds_to_loopback() -> None:
    listed = ("--allow-host", "mcp.example.com")
    assert allowed(*listed, host="mcp.example.com:443")
    assert allowed(*listed, host="localhost")
    assert not allowed(*listed, host="mcp.example.com.evil.example")


def test_an_address_is_the_same_however_it_is_written() -> None:
    assert allowed("--allow-host", "2001:0db8::1", host="[2001:db8::1]:9001")
    assert allowed("--allow-host", "2001:db8::1", host="[2001:DB8:0:0:0:0:0:1]")
    assert not allowed("--allow-host", "2001:db8::1", host="[2001:db8::2]")
    assert not allowed("--allow-host", "2001:db8::1", host="[1::2::3]")


def test_behind_the_gateway_only_what_is_listed_narrows_it(tmp_path: Path) -> None:
    key = ("--require-identity", str(tmp_path))
    assert allowed(*key, origin="https://anything.example", host="anything.example")
    assert not allowed(*key, "--allow-origin", "https://app.example.com", origin="https://anything.example")
    assert not allowed(*key, "--allow-host", "mcp.example.com", host="anything.example")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("name.example:443", "name.example"),
        ("Name.Example", "name.example:8080"),
        ("[2001:db8::1]", "[2001:db8::1]:9001"),
        ("[2001:db8::1]:443", "[2001:db8::1]"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("*.example.com", "a.example.com:443"),
    ],
)
def test_a_host_is_read_as_people_write_it(text: str, host: str) -> None:
    assert allowed("--allow-host", text, host=host)
    assert not allowed("--allow-host", text, host="other.example.net")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://x.example/", "http://x.example"),
        ("HTTPS://X.example:443", "https://x.example"),
        ("http://x.example:80/", "http://x.example"),
        ("https://x.example:8443", "https://x.example:8443"),
        ("http://[2001:db8::1]:5173", "http://[2001:db8::1]:5173"),
        ("https://*.x.example", "https://a.x.example"),
        ("vscode-webview://*", "vscode-webview://0abc"),
        ("null", "null"),
    ],
)
def test_an_origin_is_read_as_people_write_it(text: str, origin: str) -> None:
    assert allowed("--allow-origin", text, origin=origin)
    assert not allowed("--allow-origin", text, origin="https://other.example.net")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(
            ("--allow-host", text)
            for text in ("https://x.example", "x.example/mcp", "a@b", "", "[::1", "x:y", "a b", "a?")
        ),
        *(
            ("--allow-origin", text)
            for text in ("x.example", "http://x.example/mcp", "http://x.example?", "http://", "")
        ),
        *(
            ("--allow-origin", text)
            for text in ("http://a@x.example", "http://x.example, http://y.example", "http://[x")
        ),
    ],
)
def test_what_could_never_match_is_refused_and_named_with_its_option(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=option):
        allowed(option, text)


@pytest.mark.parametrize(
    ("option", "headers"),
    [
        ("--allow-host", {"Host": "evil.example"}),
        ("--allow-origin", {"Host": "localhost", "Origin": "http://evil.example"}),
    ],
)
def test_a_refusal_names_the_option_and_is_logged(
    caplog: pytest.LogCaptureFixture, option: str, headers: dict[str, str]
) -> None:
    parsed = parse_options(["--listen", "127.0.0.1:0", "--no-identity", "--", "true"], {"PATH": os.environ["PATH"]})
    with pytest.raises(HttpError, match=option):
        OriginCheck(parsed).check(cast("Request", Headers(**headers)))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "evil.example' is not allowed by " + option in record.getMessage()
