"""Users' own credentials, from the page that asks for them to the processes of servers, through the real router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import requests
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from auth_service.settings import load_credentials
from local.ports import free_port
from tests.browser import Browser, Form
from tests.peers import npm_command
from tests.service.conftest import eventually
from tests.stdio_bridge.modern_client import LEGACY_SERVER, MODERN_SERVER
from tests.stdio_bridge.running import Bridge

from .conftest import PROJECT, RunningStack
from .flow import MCP_HEADERS, Tokens, initialize, log_in, refresh
from .test_clients import Clicks, MemoryStorage
from .test_operator import operate
from .test_step_up import provider_for

OPTIONS = ("--drain-timeout", "0.1")
# So long that a process which ends earlier was killed, as after a removal. Ours end with their standard input; the one
# from npm may take a minute.
PATIENT = ("--stop-timeout", "600")
NPM_SERVER = "@modelcontextprotocol/server-everything"
WAIT_SECONDS = 60


def giving(token: str, *, login: str = "octocat") -> Browser:
    """Return the browser of a user who enters this token where a page asks for it."""
    return Browser(login=login, credentials={"TOKEN": token})


def times_asked(browser: Browser) -> int:
    """Return how many pages have asked for the token."""
    return sum(Form(page).entered == ["value:TOKEN"] for page in browser.pages)


@pytest.fixture(scope="module")
def vaults(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of servers that need a token of each user: of each era, and one from npm."""
    folder: Path = tmp_path_factory.mktemp("vaults")
    credentials = load_credentials(stack.state_directory / "credentials")
    internal_url = json.loads((stack.state_directory / "settings.json").read_text())["internal_url"]
    resources: dict[str, Any] = {}
    commands = {
        "vault-legacy": LEGACY_SERVER,
        "vault-modern": MODERN_SERVER,
        "vault-npm": tuple(npm_command(NPM_SERVER)),
    }
    urls = {name: stack.resource(name) for name in commands}
    with contextlib.ExitStack() as bridges:
        for name, url in urls.items():
            key = folder / f"{name}.key"
            key.write_bytes(credentials.derive_key(f"identity-key:{name}"))
            where = f"{internal_url}/credentials/{name}"
            asked = ("--credentials-url", where, "--user-credential", "TOKEN")
            arguments = ("--require-identity", str(key), *asked, *OPTIONS)
            patience = () if name == "vault-npm" else PATIENT
            bridge = bridges.enter_context(Bridge(*arguments, *patience, command=commands[name]))
            resources[name] = {
                "url": url,
                "backends": [f"http://127.0.0.1:{bridge.port}/mcp"],
                "user_credentials": {"TOKEN": {"label": "Token", "pattern": "tok_[a-z0-9]+"}},
            }
        with stack.serving(resources):
            yield urls


@pytest.fixture(autouse=True)
def _no_one_has_any(stack: RunningStack, vaults: dict[str, str]) -> Iterator[None]:
    yield
    for name in vaults:
        for login in ("octocat", "hubot"):
            operate(stack, "credentials", "remove", login, name)


class OtherAuthService:
    """An auth service on another host: with the Redis and the keys of the stack, and with one server more."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self._settings = folder / "settings.json"
        self._credentials = stack.state_directory / "credentials"
        self._document: dict[str, Any] = json.loads((stack.state_directory / "settings.json").read_text())
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._document |= {"listen": address, "internal_url": self.url, "workers": 1}
        self._document["state_directory"] = str(folder / "state")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, resources: dict[str, Any]) -> None:
        """Start it with these servers, and wait until it answers."""
        self._settings.write_text(json.dumps({**self._document, "resources": resources}))
        files = ("--settings", str(self._settings), "--credentials", str(self._credentials))
        self._process = subprocess.Popen((sys.executable, "-m", "auth_service", *files), cwd=PROJECT)
        eventually(self._is_ready)

    def _is_ready(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/readyz", timeout=WAIT_SECONDS).status_code == 200
        return False

    def stop(self) -> None:
        """Stop it; nothing happens if it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_SECONDS)
            self._process = None


class Session:
    """A legacy session of a user."""

    def __init__(self, url: str, tokens: Tokens) -> None:
        self._url = url
        opened = initialize(url, tokens.access_token)
        assert opened.status_code == 200, opened.text
        self._headers = {**MCP_HEADERS, "Authorization": f"Bearer {tokens.access_token}"}
        self._headers["Mcp-Session-Id"] = opened.headers["Mcp-Session-Id"]

    def send(self, tool: str) -> requests.Response:
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
        return requests.post(self._url, json=message, headers=self._headers, timeout=WAIT_SECONDS)

    def call(self, tool: str) -> Any:
        answer = self.send(tool)
        text = next((line[6:] for line in answer.text.splitlines() if line.startswith("data: {")), answer.text)
        return json.loads(json.loads(text)["result"]["content"][0]["text"])


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_two_users_have_their_own_tokens_in_their_own_processes(
    stack: RunningStack, vaults: dict[str, str], era: str
) -> None:
    url = vaults[f"vault-{era}"]
    octocat = Session(url, log_in(stack.issuer, url, browser=giving("tok_of0octocat")))
    hubot = Session(url, log_in(stack.issuer, url, browser=giving("tok_of0hubot", login="hubot")))
    assert [each.call("token") for each in (octocat, hubot)] == ["tok_of0octocat", "tok_of0hubot"]
    assert octocat.call("pid") != hubot.call("pid")
    assert "tok_of0" not in stack.output


def test_the_local_stack_asks_each_user_for_what_its_command_line_names(stack: RunningStack) -> None:
    url = stack.resource("vault")
    browser = giving("any")
    assert Session(url, log_in(stack.issuer, url, browser=browser)).call("token") == "any"
    assert any("Token of the vault" in page for page in browser.pages)
    assert operate(stack, "credentials", "remove", "octocat", "vault") == 0


def test_a_server_from_npm_finds_its_user_s_token_in_its_environment(
    stack: RunningStack, vaults: dict[str, str]
) -> None:
    url = vaults["vault-npm"]
    octocat = Session(url, log_in(stack.issuer, url, browser=giving("tok_of0octocat")))
    hubot = Session(url, log_in(stack.issuer, url, browser=giving("tok_of0hubot", login="hubot")))
    assert [each.call("get-env")["TOKEN"] for each in (octocat, hubot)] == ["tok_of0octocat", "tok_of0hubot"]


def test_a_removal_ends_the_processes_and_leads_the_client_back_to_the_page(
    stack: RunningStack, vaults: dict[str, str]
) -> None:
    url = vaults["vault-legacy"]
    tokens = log_in(stack.issuer, url, browser=giving("tok_1"))
    others = log_in(stack.issuer, url, browser=giving("tok_2", login="hubot"))
    octocat, hubot = Session(url, tokens), Session(url, others)
    process = psutil.Process(octocat.call("pid"))
    assert operate(stack, "credentials", "remove", "octocat", "vault-legacy") == 0
    process.wait(WAIT_SECONDS)
    assert hubot.call("token") == "tok_2"
    refused = octocat.send("token")
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert refresh(stack.issuer, tokens).json()["error"] == "invalid_grant"
    browser = giving("tok_3")
    assert Session(url, log_in(stack.issuer, url, browser=browser)).call("token") == "tok_3"
    assert times_asked(browser) == 1


def test_no_process_starts_while_the_auth_service_that_its_bridge_asks_is_down(
    stack: RunningStack, tmp_path: Path
) -> None:
    name = "vault-elsewhere"
    url = stack.resource(name)
    key = tmp_path / "identity.key"
    key.write_bytes(load_credentials(stack.state_directory / "credentials").derive_key(f"identity-key:{name}"))
    other = OtherAuthService(stack, tmp_path)
    asked = ("--credentials-url", f"{other.url}/credentials/{name}", "--user-credential", "TOKEN")
    with contextlib.ExitStack() as cleanup:
        bridge = cleanup.enter_context(Bridge("--require-identity", str(key), *asked, *OPTIONS, command=LEGACY_SERVER))
        resource = {
            "url": url,
            "backends": [f"http://127.0.0.1:{bridge.port}/mcp"],
            "user_credentials": {"TOKEN": {"label": "Token"}},
        }
        cleanup.callback(other.stop)
        other.start({name: resource})
        cleanup.enter_context(stack.serving({name: resource}))
        tokens = log_in(stack.issuer, url, browser=giving("tok_1"))
        session = Session(url, tokens)
        processes = psutil.Process(bridge.process.pid).children(recursive=True)
        assert session.call("pid") in {each.pid for each in processes}

        other.stop()
        refused = initialize(url, tokens.access_token)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "credentials cannot be had now" in refused.json()["error"]["message"]
        assert psutil.Process(bridge.process.pid).children(recursive=True) == processes
        assert session.call("token") == "tok_1", "a process that runs goes on"

        other.start({name: resource})
        assert Session(url, tokens).call("token") == "tok_1"
        assert operate(stack, "credentials", "remove", "octocat", name) == 0


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_an_unmodified_client_is_asked_once_and_again_after_a_removal(
    stack: RunningStack, vaults: dict[str, str], mode: str
) -> None:
    url = vaults["vault-modern"]
    storage, clicks = MemoryStorage(), Clicks()
    browser = clicks.browser = giving("tok_1")

    async def token() -> str:
        async with (
            httpx2.AsyncClient(auth=provider_for(url, storage, clicks), timeout=WAIT_SECONDS) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            result = await client.call_tool("token", {})
            return str(json.loads(result.content[0].text))  # type: ignore[union-attr]  # it says text

    assert asyncio.run(token()) == "tok_1"
    assert asyncio.run(token()) == "tok_1"
    assert times_asked(browser) == 1
    assert operate(stack, "credentials", "remove", "octocat", "vault-modern") == 0
    browser.credentials = {"TOKEN": "tok_2"}
    assert asyncio.run(token()) == "tok_2"
    assert times_asked(browser) == 2


@pytest.mark.parametrize(
    "path", ["/credentials/{name}", "/{name}/credentials/{name}", "/{name}/mcp/../../credentials/{name}"]
)
def test_nothing_leads_from_the_internet_to_where_bridges_ask(
    stack: RunningStack, vaults: dict[str, str], path: str
) -> None:
    internal = json.loads((stack.state_directory / "settings.json").read_text())["internal_url"]
    assert vaults
    assert requests.post(f"{internal}/credentials/vault-legacy", data="forged", timeout=60).status_code == 403
    session = requests.Session()
    prepared = session.prepare_request(requests.Request("POST", stack.issuer, data="forged"))
    prepared.url = stack.issuer + path.format(name="vault-legacy")
    assert session.send(prepared, timeout=60).status_code in {400, 401, 404}


def test_the_doctor_finds_nothing_wrong_with_a_server_whose_processes_need_a_user(
    stack: RunningStack, vaults: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    operate(stack, "doctor", "--json")
    findings = json.loads(capsys.readouterr().out)
    about = [each for each in findings if any(name in json.dumps(each) for name in vaults)]
    assert len(about) >= 2 * len(vaults), findings
    assert [each for each in about if each["status"] != "ok"] == []
    assert "no process, as each starts with a user's credentials" in json.dumps(about)
