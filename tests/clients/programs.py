"""Agent programs as their users run them: add a server, log in, list its tools, call one where no model is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pexpect

from tests.peers import NODE, NPM_FOLDER, mcp1_python, npm_program

PROJECT = Path(__file__).parents[2]
PROGRAM_SECONDS = 180
"""For one run of a program, on a machine that does much else."""

MAX_TRIES = 10

TOOL = "get_current_time"
ARGUMENTS = {"timezone": "Europe/Berlin"}
ESCAPE = "\x1b"


@dataclass
class Home:
    """The home directory of a person who has just installed the program, and a browser that clicks for them."""

    directory: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        browser = self.directory / "browser"
        browser.write_text(
            f'#!/bin/sh\ncd "{PROJECT}" && "{sys.executable}" -m tests.browser "$1" '
            f'>>"{self.directory}/browser.log" 2>&1 &\n'
        )
        browser.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "CI"))}
        self.environment = {
            **kept,
            "HOME": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "XDG_DATA_HOME": str(self.directory / "data"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PATH": os.pathsep.join([str(NODE.parent), os.environ.get("PATH", os.defpath)]),
            "BROWSER": str(browser),
            "TERM": "xterm-256color",
        }

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a command to its end, and return all that it wrote."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
        )
        return done.stdout

    def open_terminal(self, *command: str) -> pexpect.spawn[str]:
        """Start a command that wants to talk to a person. The caller closes it."""
        environment = {name: value for name, value in self.environment.items() if name != "NO_COLOR"}
        return pexpect.spawn(
            command[0],
            list(command[1:]),
            cwd=str(self.directory),
            env=environment,
            timeout=PROGRAM_SECONDS,
            encoding="utf-8",
            codec_errors="replace",
            dimensions=(50, 240),
        )

    @property
    def browser_log(self) -> str:
        """What the browser complained of."""
        log = self.directory / "browser.log"
        return log.read_text() if log.exists() else ""


class Program:
    """One program. `refreshes` is false where every run logs in for itself."""

    name: ClassVar[str]
    refreshes: ClassVar[bool] = True

    def add(self, home: Home, url: str) -> None:
        """Tell the program of the server."""

    def log_in(self, home: Home, url: str) -> str:
        """Log in, and return what the program wrote."""
        raise NotImplementedError

    def use(self, home: Home, url: str) -> str:
        """List the server's tools, or call one, and return what the program wrote."""
        raise NotImplementedError

    def works(self, output: str) -> bool:
        """Say whether `use` reached the server."""
        return TOOL in output


class ClaudeCode(Program):
    """`claude mcp`: its check of a server's health initializes it."""

    name = "claude"

    def _command(self, *arguments: str) -> list[str]:
        return [*npm_program("claude"), "mcp", *arguments]

    def add(self, home: Home, url: str) -> None:
        home.run(*self._command("add", "--transport", "http", "time", url))

    def log_in(self, home: Home, url: str) -> str:
        terminal = home.open_terminal(*self._command("login", "time"))
        terminal.expect(pexpect.EOF)
        terminal.close()
        return terminal.before or ""

    def use(self, home: Home, url: str) -> str:
        return home.run(*self._command("list"))

    def works(self, output: str) -> bool:
        return "✔ Connected" in output


class Codex(Program):
    """`codex mcp`, and its app server, which tells what the IDE extensions see."""

    name = "codex"

    def _command(self, *arguments: str) -> list[str]:
        return [*npm_program("codex"), *arguments]

    def log_in(self, home: Home, url: str) -> str:
        # The first `add` logs in at once.
        if not (home.directory / ".codex/config.toml").exists():
            return home.run(*self._command("mcp", "add", "time", "--url", url))
        return home.run(*self._command("mcp", "login", "time"))

    def use(self, home: Home, url: str) -> str:
        server = subprocess.Popen(
            self._command("app-server"),
            cwd=home.directory,
            env=home.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(number: int, method: str, **params: Any) -> str:
            server.stdin.write(json.dumps({"id": number, "method": method, "params": params}) + "\n")  # type: ignore[union-attr]
            server.stdin.flush()  # type: ignore[union-attr]
            return next(line for line in server.stdout if json.loads(line).get("id") == number)  # type: ignore[union-attr]

        try:
            ask(1, "initialize", clientInfo={"name": "test", "title": "Test", "version": "1"})
            return ask(2, "mcpServerStatus/list")
        finally:
            server.kill()
            server.wait()
            server.stdin.close()
            server.stdout.close()


class GeminiCli(Program):
    """`gemini mcp`, and `/mcp auth` in a session."""

    name = "gemini"

    def _command(self, *arguments: str) -> list[str]:
        return [*npm_program("gemini"), *arguments]

    def add(self, home: Home, url: str) -> None:
        # A session wants a key, which it shows to its models only.
        home.environment |= {"GEMINI_API_KEY": "none", "GEMINI_CLI_TRUST_WORKSPACE": "true"}
        home.run(*self._command("mcp", "add", "--scope", "user", "--transport", "http", "time", url))
        settings = home.directory / ".gemini/settings.json"
        known = json.loads(settings.read_text())
        known["security"] = {"auth": {"selectedType": "gemini-api-key"}}
        known["general"] = {"enableAutoUpdate": False}
        known["privacy"] = {"usageStatisticsEnabled": False}
        settings.write_text(json.dumps(known))

    def log_in(self, home: Home, url: str) -> str:
        terminal = home.open_terminal(*self._command())
        try:
            terminal.expect("1 MCP server")
            self._ask_to_log_in(terminal)
            terminal.send("\r")
            terminal.expect(["Successfully authenticated and reloaded", "Failed"])
            return str(terminal.before) + str(terminal.after)
        finally:
            terminal.kill(signal.SIGKILL)
            terminal.close()

    def _ask_to_log_in(self, terminal: pexpect.spawn[str]) -> None:
        # Enter takes a suggestion, if there is one at that moment: another command's, while those of this one load. And
        # what is typed before the session has begun is taken for a question to the model, which there is none.
        for _ in range(MAX_TRIES):
            terminal.send("/mcp auth time")
            terminal.expect("auth time")
            terminal.send("\r")
            match terminal.expect(["to select", "not found", "Thinking"]):
                case 0:
                    return
                case 2:
                    terminal.send(ESCAPE)
                    terminal.expect("cancelled")
        raise AssertionError(f"{terminal.before}")

    def use(self, home: Home, url: str) -> str:
        return home.run(*self._command("mcp", "list"))

    def works(self, output: str) -> bool:
        return "- Connected" in output


class Opencode(Program):
    """`opencode mcp`."""

    name = "opencode"

    def __init__(self, port: int) -> None:
        self._port = port

    def _command(self, *arguments: str) -> list[str]:
        return [*npm_program("opencode"), "mcp", *arguments]

    def add(self, home: Home, url: str) -> None:
        home.run(*self._command("add", "time", "--url", url))
        # Its own port is always the same one, and another run of the tests may have it.
        configuration = home.directory / "config/opencode/opencode.jsonc"
        known = json.loads(configuration.read_text())
        known["mcp"]["time"]["oauth"] = {"callbackPort": self._port}
        configuration.write_text(json.dumps(known))

    def log_in(self, home: Home, url: str) -> str:
        # With a token that it believes in, `auth` asks first whether that is meant.
        home.run(*self._command("logout", "time"))
        return home.run(*self._command("auth", "time"))

    def use(self, home: Home, url: str) -> str:
        return home.run(*self._command("list"))

    def works(self, output: str) -> bool:
        return "connected" in output


class Mcporter(Program):
    """`mcporter`, which calls tools, too."""

    name = "mcporter"

    def _command(self, *arguments: str) -> list[str]:
        return [*npm_program("mcporter"), *arguments]

    def add(self, home: Home, url: str) -> None:
        home.run(*self._command("config", "add", "time", url, "--allow-http"))

    def log_in(self, home: Home, url: str) -> str:
        return home.run(*self._command("auth", "time"))

    def use(self, home: Home, url: str) -> str:
        listed = home.run(*self._command("list", "time"))
        return listed + home.run(*self._command("call", f"time.{TOOL}", *(f"{k}={v}" for k, v in ARGUMENTS.items())))

    def works(self, output: str) -> bool:
        return TOOL in output and ARGUMENTS["timezone"] in output


class McpRemote(Program):
    """`mcp-remote-client`: what `mcp-remote` does for hosts that know stdio servers only, by itself."""

    name = "mcp-remote"

    def log_in(self, home: Home, url: str) -> str:
        return self.use(home, url)

    def use(self, home: Home, url: str) -> str:
        terminal = home.open_terminal(
            *npm_program("mcp-remote-client", folder=NPM_FOLDER), url, "--transport", "http-only"
        )
        try:
            terminal.expect([TOOL, "[Ee]rror", pexpect.EOF])
            return str(terminal.before) + str(terminal.after)
        finally:
            terminal.close(force=True)


class Inspector(Program):
    """The Inspector's command line, which logs in at every run."""

    name = "inspector"
    refreshes = False

    def log_in(self, home: Home, url: str) -> str:
        return self.use(home, url)

    def use(self, home: Home, url: str) -> str:
        home.environment["MCP_AUTO_OPEN_ENABLED"] = "true"
        return home.run(
            *npm_program("inspector", folder=NPM_FOLDER),
            *("--cli", "--server-url", url, "--transport", "http", "--protocol-era", "auto"),
            *("--method", "tools/call", "--tool-name", TOOL),
            *("--tool-arg", *(f"{name}={value}" for name, value in ARGUMENTS.items())),
        )

    def works(self, output: str) -> bool:
        return ARGUMENTS["timezone"] in output


class Fastmcp(Program):
    """`fastmcp`, which keeps no token from one run to the next."""

    name = "fastmcp"
    refreshes = False

    def log_in(self, home: Home, url: str) -> str:
        return self.use(home, url)

    def use(self, home: Home, url: str) -> str:
        fastmcp = str(Path(sys.executable).parent / "fastmcp")
        listed = home.run(fastmcp, "list", url, "--auth", "oauth")
        return listed + home.run(
            fastmcp, "call", url, TOOL, *(f"{k}={v}" for k, v in ARGUMENTS.items()), "--auth", "oauth"
        )

    def works(self, output: str) -> bool:
        return TOOL in output and ARGUMENTS["timezone"] in output


class LangChain(Program):
    """`langchain-mcp-adapters` on the SDK 1.x: an agent of one's own, which logs in and lives past its first token."""

    name = "langchain"
    refreshes = False

    def log_in(self, home: Home, url: str) -> str:
        return ""

    def use(self, home: Home, url: str) -> str:
        script = str(Path(__file__).parent / "langchain_agent.py")
        return home.run(mcp1_python(), script, url, TOOL, json.dumps(ARGUMENTS))

    def works(self, output: str) -> bool:
        return TOOL in output and ARGUMENTS["timezone"] in output and "refreshed" in output
