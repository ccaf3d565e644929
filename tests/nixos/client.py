"""`test-client`: the flow of a client and its user, step by step, for test scripts to run on a machine."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import Any

import requests

from tests.browser import Browser
from tests.e2e.flow import MCP_HEADERS, initialize, log_in


def main() -> int:
    """Run one step; the exit status says whether it went as it should."""
    parser = argparse.ArgumentParser(prog="test-client")
    parser.add_argument("step", choices=("challenge", "redirect", "forbidden", "login", "use", "call", "listen"))
    parser.add_argument(
        "urls", nargs="+", metavar="URL", help="the issuer's where one logs in, then the server's; a port to listen at"
    )
    parser.add_argument("--login", default="octocat")
    parser.add_argument("--token-file", type=Path, help="the token to use, as `login` prints it")
    parser.add_argument("--tool", default="get_current_time")
    parser.add_argument("--arguments", type=json.loads, default={"timezone": "UTC"}, help="of the tool, as JSON")
    options = parser.parse_args()
    *issuer, resource = options.urls
    if options.step == "listen":
        return _listen(int(resource))
    if options.step == "challenge":
        answer = initialize(resource, None)
        return int(answer.status_code != 401 or "resource_metadata=" not in answer.headers["WWW-Authenticate"])
    if options.step == "redirect":
        answer = requests.get(resource, allow_redirects=False, timeout=10)
        return int(not answer.headers.get("Location", "").startswith("https://"))
    if options.step == "forbidden":
        forged = {"X-Gateway-Identity": "forged", "X-User-Id": "github:583231"}
        return int({initialize(resource, None, headers).status_code for headers in ({}, forged)} != {403})
    if options.step == "use":
        sys.stdout.write(_call_tool(resource, options.token_file.read_text().strip(), options.tool, options.arguments))
        return 0
    tokens = log_in(issuer[0], resource, browser=Browser(login=options.login))
    if options.step == "login":
        sys.stdout.write(tokens.access_token)
    else:
        sys.stdout.write(_call_tool(resource, tokens.access_token, options.tool, options.arguments))
    return 0


def _listen(port: int) -> int:
    """Accept connections at every address of this machine."""
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            listener.accept()[0].close()


def _call_tool(resource: str, token: str, tool: str, arguments: dict[str, Any]) -> str:
    """Return the text of a tool's answer."""
    opened = initialize(resource, token)
    opened.raise_for_status()
    headers = {
        **MCP_HEADERS,
        "Authorization": f"Bearer {token}",
        "Mcp-Session-Id": opened.headers["Mcp-Session-Id"],
    }

    def post(message: dict[str, Any]) -> requests.Response:
        answer = requests.post(resource, json={"jsonrpc": "2.0", **message}, headers=headers, timeout=20)
        answer.raise_for_status()
        return answer

    post({"method": "notifications/initialized"})
    tools = post({"id": 2, "method": "tools/list"}).json()["result"]["tools"]
    assert tool in {each["name"] for each in tools}
    params = {"name": tool, "arguments": arguments}
    text: str = post({"id": 3, "method": "tools/call", "params": params}).json()["result"]["content"][0]["text"]
    requests.delete(resource, headers=headers, timeout=10).raise_for_status()
    return text


if __name__ == "__main__":
    sys.exit(main())
