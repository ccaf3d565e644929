"""`test-client`: the flow of a client and its user, step by step, for test scripts to run on a machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import requests
from cryptography import x509

from tests.browser import Browser, Form
from tests.e2e.flow import INITIALIZE, MCP_HEADERS, SourceAddress, initialize, log_in

TIMEOUT = 20  # seconds


def main() -> int:
    """Run one step; the exit status says whether it went as it should."""
    parser = argparse.ArgumentParser(prog="test-client")
    steps = parser.add_subparsers(dest="step", required=True)

    for name, step, explanation in (
        ("challenge", _challenge, "be told where to get a token"),
        ("redirect", _redirect, "be sent from http to https"),
        ("forbidden", _forbidden, "be refused without an assertion, and with a forged one"),
    ):
        command = steps.add_parser(name, help=explanation)
        command.set_defaults(run=step)
        command.add_argument("resource")

    login = steps.add_parser("login", help="print an access token")
    login.set_defaults(run=_login)
    login.add_argument("issuer")
    login.add_argument("resource")
    login.add_argument("--login", default="octocat")
    login.add_argument(
        "--credential", type=lambda text: text.split("=", 1), help="NAME=VALUE, entered where it is asked for"
    )
    login.add_argument("--scope", help="without it, what the server requires")

    replace = steps.add_parser("replace", help="replace a credential on the account page")
    replace.set_defaults(run=_replace)
    replace.add_argument("issuer")
    replace.add_argument("server", help="its name")
    replace.add_argument("--login", default="octocat")
    replace.add_argument("--credential", type=lambda text: text.split("=", 1), required=True, help="NAME=VALUE")

    with_token = {}
    for name, step, explanation in (
        ("open", _open, "print the id of a new session"),
        ("refused", _refused, "print why no session could be opened"),
        ("unavailable", _unavailable, "be told to try again later, and print why"),
        ("gone", _gone, "be told that a session has ended"),
        ("end", _end, "end a session"),
        ("stream", _stream, "hold a session's stream open; fails when it ends"),
        ("knock", _knock, "open sessions for ever; fails when one is refused"),
        ("tools", _tools, "print the names of the tools that there are"),
        ("repeat", _repeat, "open and end sessions, one after the other"),
        ("call", _call, "print the text of a tool's answer"),
    ):
        command = with_token[name] = steps.add_parser(name, help=explanation)
        command.set_defaults(run=step)
        command.add_argument("resource")
        command.add_argument("--address", default="", help="of this machine, to connect from")
        command.add_argument("--token-file", type=Path, required=True, help="as `login` prints it")
    with_token["repeat"].add_argument("--count", type=int, required=True)
    with_token["call"].add_argument("--tool", default="get_current_time")
    with_token["call"].add_argument("--arguments", type=json.loads, default={"timezone": "UTC"}, help="as JSON")
    for name in ("gone", "end", "stream", "call"):
        with_token[name].add_argument(
            "--session-file", type=Path, help="as `open` prints it; else a session for this call"
        )

    page = steps.add_parser("page", help="print what a URL answers; fails where it has nothing for us")
    page.set_defaults(run=_page)
    page.add_argument("url")

    certificate = steps.add_parser("certificate", help="print issuer and serial number of a name's certificate")
    certificate.set_defaults(run=_certificate)
    certificate.add_argument("name")

    listen = steps.add_parser("listen", help="accept connections at every address")
    listen.set_defaults(run=_listen)
    listen.add_argument("port", type=int)
    listen.add_argument("--echo", action="store_true", help="send back what comes, and close nothing")

    options = parser.parse_args()
    return int(options.run(options))


def _challenge(options: argparse.Namespace) -> bool:
    answer = initialize(options.resource, None)
    return answer.status_code != 401 or "resource_metadata=" not in answer.headers["WWW-Authenticate"]


def _redirect(options: argparse.Namespace) -> bool:
    answer = requests.get(options.resource, allow_redirects=False, timeout=TIMEOUT)
    return not answer.headers.get("Location", "").startswith("https://")


def _forbidden(options: argparse.Namespace) -> bool:
    forged = {"X-Gateway-Identity": "forged", "X-User-Id": "github:583231"}
    return {initialize(options.resource, None, headers).status_code for headers in ({}, forged)} != {403}


def _login(options: argparse.Namespace) -> bool:
    browser = Browser(login=options.login, credentials=dict([options.credential] if options.credential else []))
    tokens = log_in(options.issuer, options.resource, browser=browser, scope=options.scope)
    sys.stdout.write(tokens.access_token)
    return False


def _replace(options: argparse.Namespace) -> bool:
    name, value = options.credential
    browser = Browser(login=options.login, credentials={name: value})
    account = f"{options.issuer}/account"
    signing_in = browser.submit(account, Form(browser.session.get(account, timeout=TIMEOUT).text))
    browser.open(signing_in.headers["Location"], stop_at=account)
    page = browser.session.get(account, timeout=TIMEOUT).text
    card = re.search(rf'<li id="{options.server}-{name}">.*?</li>', page, re.DOTALL)
    assert card is not None, page
    replaced = browser.submit(account, Form(card[0]))
    return replaced.headers.get("Location") != f"{account}?notice=credential-replaced"


def _open(options: argparse.Namespace) -> bool:
    session = _Session(options)
    session.post({"method": "notifications/initialized"})
    sys.stdout.write(session.id)
    return False


def _refused(options: argparse.Namespace) -> bool:
    answer = initialize(options.resource, options.token_file.read_text().strip())
    sys.stdout.write(answer.text)
    return "Mcp-Session-Id" in answer.headers


def _unavailable(options: argparse.Namespace) -> bool:
    answer = initialize(options.resource, options.token_file.read_text().strip())
    sys.stdout.write(f"{answer.status_code} {answer.text}")
    return answer.status_code != 503 or int(answer.headers["Retry-After"]) < 1


def _gone(options: argparse.Namespace) -> bool:
    session = _Session(options)
    return session.send({"id": 2, "method": "tools/list"}).status_code != 404


def _end(options: argparse.Namespace) -> bool:
    _Session(options).end()
    return False


def _stream(options: argparse.Namespace) -> bool:
    _Session(options).read()
    return True


def _knock(options: argparse.Namespace) -> bool:
    while True:
        session = _Session(options)
        # Its bridge may have been restarted since.
        with contextlib.suppress(requests.HTTPError):
            session.end()


def _tools(options: argparse.Namespace) -> bool:
    session = _Session(options)
    sys.stdout.write(" ".join(sorted(session.list_tools())))
    session.end()
    return False


def _repeat(options: argparse.Namespace) -> bool:
    for _ in range(options.count):
        _Session(options).end()
    return False


def _call(options: argparse.Namespace) -> bool:
    session = _Session(options)
    if options.session_file is None:
        assert options.tool in session.list_tools()
    params = {"name": options.tool, "arguments": options.arguments}
    result = session.post({"id": 3, "method": "tools/call", "params": params}).json()["result"]
    sys.stdout.write(result["content"][0]["text"])
    if options.session_file is None:
        session.end()
    return False


def _certificate(options: argparse.Namespace) -> bool:
    pem = ssl.get_server_certificate((options.name, 443), timeout=TIMEOUT)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    sys.stdout.write(f"{certificate.issuer.rfc4514_string()} {certificate.serial_number}\n")
    return False


def _page(options: argparse.Namespace) -> bool:
    answer = requests.get(options.url, timeout=TIMEOUT)
    sys.stdout.write(answer.text)
    return not answer.ok


def _listen(options: argparse.Namespace) -> bool:
    with socket.create_server(("", options.port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            accepted, _ = listener.accept()
            if options.echo:
                threading.Thread(target=_echo, args=[accepted], daemon=True).start()
            else:
                accepted.close()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(4096):
            connection.sendall(data)


class _Session:
    """A session of a server: the given one, or a new one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.resource: str = options.resource
        self._http = requests.Session()
        self._http.mount("https://", SourceAddress(options.address))
        self._http.headers.update(MCP_HEADERS)
        self._http.headers["Authorization"] = f"Bearer {options.token_file.read_text().strip()}"
        known = getattr(options, "session_file", None)
        self.id = known.read_text().strip() if known else self.post(INITIALIZE).headers["Mcp-Session-Id"]
        self._http.headers["Mcp-Session-Id"] = self.id

    def send(self, message: dict[str, Any]) -> requests.Response:
        """Send one message."""
        return self._http.post(self.resource, json={"jsonrpc": "2.0", **message}, timeout=TIMEOUT)

    def post(self, message: dict[str, Any]) -> requests.Response:
        """Send one message, which must be accepted."""
        answer = self.send(message)
        answer.raise_for_status()
        return answer

    def list_tools(self) -> list[str]:
        """Return the names of the tools, at the beginning of a session."""
        self.post({"method": "notifications/initialized"})
        return [each["name"] for each in self.post({"id": 2, "method": "tools/list"}).json()["result"]["tools"]]

    def read(self) -> None:
        """Read the stream until it ends."""
        with self._http.get(self.resource, stream=True, timeout=(TIMEOUT, None)) as answer:
            answer.raise_for_status()
            for _ in answer.iter_lines():
                pass

    def end(self) -> None:
        """End the session."""
        self._http.delete(self.resource, timeout=TIMEOUT).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
