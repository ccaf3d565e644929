"""`test-client`: the flow of a client and its user, step by step, for test scripts to run on a machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import requests

from tests.browser import Browser
from tests.e2e.flow import MCP_HEADERS, initialize, log_in

CALL = {"name": "get_current_time", "arguments": {"timezone": "UTC"}}


def main() -> int:
    """Run one step; the exit status says whether it went as it should."""
    parser = argparse.ArgumentParser(prog="test-client")
    parser.add_argument("step", choices=("challenge", "redirect", "forbidden", "login", "use", "call"))
    parser.add_argument("urls", nargs="+", metavar="URL", help="the issuer's where one logs in, then the server's")
    parser.add_argument("--login", default="octocat")
    parser.add_argument("--token-file", type=Path)
    options = parser.parse_args()
    *issuer, resource = options.urls
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
        sys.stdout.write(json.dumps(_call_tool(resource, options.token_file.read_text().strip())))
        return 0
    tokens = log_in(issuer[0], resource, browser=Browser(login=options.login))
    output = tokens.access_token if options.step == "login" else json.dumps(_call_tool(resource, tokens.access_token))
    sys.stdout.write(output)
    return 0


def _call_tool(resource: str, token: str) -> Any:
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
    assert CALL["name"] in {tool["name"] for tool in tools}
    result = post({"id": 3, "method": "tools/call", "params": CALL}).json()["result"]
    requests.delete(resource, headers=headers, timeout=10).raise_for_status()
    return json.loads(result["content"][0]["text"])


if __name__ == "__main__":
    sys.exit(main())
