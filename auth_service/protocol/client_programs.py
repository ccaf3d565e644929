"""What to type, paste or click in each client to add a server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from auth_service.settings import is_loopback_host


@dataclass(frozen=True)
class ClientProgram:
    """A client, and the steps that add a server to it.

    In the steps NAME and URL stand for the server's. `tried` is false if no test logs in with the program itself;
    `plain_http` is the option that the program needs for a URL without TLS; `hosted` programs run on their vendor's
    machines, which cannot reach a loopback URL; `link` makes the link that opens the program with the server's name and
    URL.
    """

    name: str
    steps: tuple[str, ...]
    note: str = ""
    tried: bool = True
    plain_http: str = ""
    hosted: bool = False
    link: Callable[[str, str], str] | None = None

    @property
    def heading(self) -> str:
        """The program's name, and whether it was tried."""
        return self.name if self.tried else f"{self.name} (untested)"

    def lines(self, server: str, url: str) -> list[str]:
        """Return the steps for one server, each as a line to copy."""
        if url.startswith("http:") and self.plain_http:
            url = f"{url} {self.plain_http}"
        return [step.replace("NAME", server).replace("URL", url) for step in self.steps]

    def describe(self, server: str, url: str) -> str:
        """Return the steps for one server as text."""
        note = f", {self.note}" if self.note else ""
        return "\n".join([f"{self.heading}{note}:", *self.lines(server, url)])


def _cursor_link(server: str, url: str) -> str:
    config = base64.b64encode(json.dumps({"url": url}).encode()).decode()
    return f"cursor://anysphere.cursor-deeplink/mcp/install?{urlencode({'name': server, 'config': config})}"


def _vscode_link(server: str, url: str) -> str:
    return f"vscode:mcp/install?{quote(json.dumps({'name': server, 'type': 'http', 'url': url}), safe='')}"


CLIENT_PROGRAMS = (
    ClientProgram("Claude Code", ("claude mcp add --transport http NAME URL && claude mcp login NAME",)),
    ClientProgram("Codex", ("codex mcp add NAME --url URL",), "which logs in at once"),
    ClientProgram(
        "Gemini CLI",
        ("gemini mcp add --scope user --transport http NAME URL", "/mcp auth NAME"),
        "the second line in a session",
    ),
    ClientProgram("opencode", ("opencode mcp add NAME --url URL && opencode mcp auth NAME",)),
    ClientProgram("mcporter", ("mcporter config add NAME URL && mcporter auth NAME",), plain_http="--allow-http"),
    ClientProgram("fastmcp", ("fastmcp list URL --auth oauth",)),
    ClientProgram(
        "MCP Inspector",
        ("npx -y @modelcontextprotocol/inspector --cli --server-url URL --transport http --method tools/list",),
        "which logs in at each run",
    ),
    ClientProgram("mcp-remote", ("npx -y mcp-remote URL",), "as the command of a server, for clients without HTTP"),
    ClientProgram(
        "Cursor",
        ('{"mcpServers": {"NAME": {"url": "URL"}}}',),
        "in .cursor/mcp.json",
        tried=False,
        link=_cursor_link,
    ),
    ClientProgram(
        "VS Code",
        ('{"servers": {"NAME": {"type": "http", "url": "URL"}}}',),
        "in .vscode/mcp.json",
        tried=False,
        link=_vscode_link,
    ),
    ClientProgram("Copilot CLI", ("copilot mcp add --transport http NAME URL",), tried=False),
    ClientProgram("Claude", ("URL",), "as a custom connector", tried=False, hosted=True),
    ClientProgram("ChatGPT", ("URL",), "as a custom connector in developer mode", tried=False, hosted=True),
)


def programs_that_reach(url: str) -> list[ClientProgram]:
    """Return the clients that can reach a server at this URL."""
    is_local = is_loopback_host(urlsplit(url).hostname or "")
    return [program for program in CLIENT_PROGRAMS if not (program.hosted and is_local)]


def describe_clients(server: str, url: str) -> str:
    """Return the steps of every client that can reach one server."""
    return "\n\n".join(program.describe(server, url) for program in programs_that_reach(url))
