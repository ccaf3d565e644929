"""What to type or paste into each client to add a server."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from auth_service.settings import is_loopback_host


@dataclass(frozen=True)
class ClientProgram:
    """A client, and the steps that add a server to it.

    In the steps NAME and URL stand for the server's. `tried` is false if no test logs in with the program itself;
    `plain_http` is the option that the program needs for a URL without TLS; `hosted` programs run on their vendor's
    machines, which cannot reach a loopback URL.
    """

    name: str
    steps: tuple[str, ...]
    note: str = ""
    tried: bool = True
    plain_http: str = ""
    hosted: bool = False

    def describe(self, server: str, url: str) -> str:
        """Return the steps for one server, each as a line to copy."""
        heading = self.name if self.tried else f"{self.name} (untested)"
        note = f", {self.note}" if self.note else ""
        if url.startswith("http:") and self.plain_http:
            url = f"{url} {self.plain_http}"
        return "\n".join(
            [f"{heading}{note}:", *(step.replace("NAME", server).replace("URL", url) for step in self.steps)]
        )


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
    ClientProgram("Cursor", ('{"mcpServers": {"NAME": {"url": "URL"}}}',), "in .cursor/mcp.json", tried=False),
    ClientProgram(
        "VS Code", ('{"servers": {"NAME": {"type": "http", "url": "URL"}}}',), "in .vscode/mcp.json", tried=False
    ),
    ClientProgram("Copilot CLI", ("copilot mcp add --transport http NAME URL",), tried=False),
    ClientProgram("Claude", ("URL",), "as a custom connector", tried=False, hosted=True),
    ClientProgram("ChatGPT", ("URL",), "as a custom connector in developer mode", tried=False, hosted=True),
)


def describe_clients(server: str, url: str) -> str:
    """Return the steps of every client that can reach one server."""
    is_local = is_loopback_host(urlsplit(url).hostname or "")
    reaching = (program for program in CLIENT_PROGRAMS if not (program.hosted and is_local))
    return "\n\n".join(program.describe(server, url) for program in reaching)
