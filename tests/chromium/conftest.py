"""The pages in a real browser: Chromium without a screen, the service and the stand-in GitHub on loopback.

With SCREENSHOTS=FOLDER in the environment, every page that is looked at is also painted there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from flask import Flask, Response
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from werkzeug.serving import make_server

from auth_service.app.flask_app import create_app
from auth_service.settings import Credentials, Settings
from auth_service.storage.store import Store
from local import github
from tests import connected_service
from tests.conftest import RedisServer
from tests.connected_service import CLIENT_ID, StandIn
from tests.flows.conftest import make_parts
from tests.internet import internet, respond_json

CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636 appendix B
DOCUMENT_HOST = "tools.example.com"
DOCUMENT_CLIENT = f"https://{DOCUMENT_HOST}/oauth/client.json"
HOSTILE_HELP = (
    "<script>document.title = 'taken'</script><img src=x onerror=alert(1)> javascript:alert(1) "
    "https://github.com@evil.example/ \u202ehttps://evil.example/ https://" + "long-" * 12 + "name.example.com/tokens "
)
WAIT_SECONDS = 60


@dataclass
class Site:
    """Where the service, GitHub and a client's own pages are."""

    issuer: str
    client: str
    stand_in: github.StandIn
    calendar: StandIn
    """Where users of the server `notes` have accounts."""
    store: Store
    foreign_pages: dict[str, str] = field(default_factory=dict)
    """Path → HTML, or the URL that it redirects to: pages of another site than the service's."""

    @property
    def redirect_uri(self) -> str:
        """The client's own."""
        return f"{self.client}/callback"

    def register(self, **metadata: Any) -> str:
        """Register a client and return its id."""
        body = {
            "client_name": "Inspector",
            "redirect_uris": [self.redirect_uri],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        } | metadata
        answer = requests.post(f"{self.issuer}/register", json=body, timeout=60)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    def authorize_url(self, client_id: str, **changes: str) -> str:
        """Return what a client would make the browser open."""
        parameters = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": self.redirect_uri,
            "state": "client state & more",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "resource": f"{self.issuer}/time/mcp",
        } | changes
        return f"{self.issuer}/authorize?{urlencode(parameters)}"


class Chromium:
    """A browser, and what a person does with it."""

    def __init__(self, driver: webdriver.Chrome, screenshots: Path | None) -> None:
        self.driver = driver
        self._screenshots = screenshots

    def open(self, url: str) -> None:
        """Open a URL as if it was typed, or opened by a program."""
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """Return the first element, as soon as it is there."""
        return self.wait().until(lambda driver: driver.find_element(By.CSS_SELECTOR, selector))

    def find_all(self, selector: str) -> list[WebElement]:
        """Return all elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.find(selector).click()

    def wait(self) -> WebDriverWait[webdriver.Chrome]:
        """Wait for something that is going to happen."""
        return WebDriverWait(self.driver, WAIT_SECONDS)

    def wait_for_url(self, prefix: str) -> dict[str, str]:
        """Wait until the browser is there, and return the query."""
        self.wait().until(lambda driver: driver.current_url.startswith(prefix))
        return dict(parse_qsl(urlsplit(self.driver.current_url).query))

    def wait_for_text(self, text: str, *, within: str = "body") -> str:
        """Wait until a text can be read, and return all of it."""
        condition = expected_conditions.text_to_be_present_in_element((By.CSS_SELECTOR, within), text)
        self.wait().until(condition)
        return self.find(within).text

    def approve(self, login: str = "octocat") -> None:
        """Approve, and choose an account at GitHub, which does not know yet who is there."""
        self.click("button[value=approve]")
        self.choose(login)

    def choose(self, login: str = "octocat") -> None:
        """Choose an account at GitHub."""
        self.click(f"button[name=login][value={login}]")

    def complaints(self) -> list[str]:
        """Return what the browser has written to its console since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests_until_failure(self) -> list[str]:
        """Return what the browser has asked for since it was last asked, and `FAILED` where a page did not come."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        return [
            "FAILED" if event["method"] == "Network.loadingFailed" else event["params"]["request"]["url"]
            for event in events
            if event["method"] in {"Network.requestWillBeSent", "Network.loadingFailed"}
            and event["params"].get("type") == "Document"
        ]

    def log_in(self, site: Site, url: str) -> dict[str, str]:
        """Open an authorization URL, approve, be octocat, and return what the client gets."""
        self.open(url)
        self.click("button[value=approve]")
        self.wait().until(
            lambda driver: driver.current_url.startswith(site.redirect_uri) or self.find_all("button[name=login]")
        )
        if self.find_all("button[name=login]"):  # GitHub knows who is there from the second time on
            self.choose()
        return self.wait_for_url(site.redirect_uri)

    def forget(self) -> None:
        """Lose every cookie, open page and setting."""
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.open("about:blank")
        self.show()

    def show(self, *, theme: str = "light", width: int = 1100, height: int = 1000) -> None:
        """Show pages in a theme and size."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def paint(self, name: str) -> None:
        """Keep a picture of the whole page, if someone wants to see it."""
        if self._screenshots is not None:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.execute_script("return window.innerWidth")
            metrics = {"width": width, "height": max(height, 500), "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))


@pytest.fixture(scope="session")
def served(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The service, GitHub and the client, each on a port of its own."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        net = stack.enter_context(internet(folder, DOCUMENT_HOST))
        apps = [Flask(f"later-{number}") for number in range(4)]  # their ports go into the settings
        service, upstream, foreign, calendar_port = (stack.enter_context(_serve(app)) for app in apps)
        # Another host than the service's: between them, the browser sees another site.
        issuer, upstream_url, client = (
            f"http://localhost:{service}",
            f"http://127.0.0.1:{upstream}",
            f"http://127.0.0.1:{foreign}",
        )
        stand_in = github.StandIn("app", "secret", f"{issuer}/callback", list(github.DEFAULT_USERS))
        credentials = Credentials(client_secret="secret", master_key=b"m" * 32)
        calendar = StandIn(
            auth_method="none",
            origin=f"http://127.0.0.1:{calendar_port}",
            redirect_uris=[f"{issuer}/connections/callback/notes/CALENDAR_TOKEN"],
        )
        settings = Settings.model_validate(_settings(issuer, upstream_url, calendar.origin, redis_server.url, folder))
        store = Store(settings)
        stack.callback(store.close)
        site = Site(issuer, client, stand_in, calendar, store)
        apps[0].wsgi_app = create_app(make_parts(settings, credentials, store, fetcher=net.fetcher()))  # type: ignore[method-assign]
        apps[1].wsgi_app = github.create_app(stand_in)  # type: ignore[method-assign]
        apps[2].wsgi_app = _foreign_app(site)  # type: ignore[method-assign]
        apps[3].wsgi_app = connected_service.create_app(calendar)  # type: ignore[method-assign]
        net.pages["/oauth/client.json"] = respond_json(
            {
                "client_id": DOCUMENT_CLIENT,
                "client_name": "Example Tools",
                "redirect_uris": ["http://127.0.0.1/callback"],
                "token_endpoint_auth_method": "none",
            }
        )
        yield site


def _settings(issuer: str, upstream: str, calendar: str, redis_url: str, folder: Path) -> dict[str, Any]:
    optional = {
        "time:read": {"description": "Read the clock and all time zones"},
        "time:set": {"description": "Set the clock", "required": False},
        "time:stop": {"description": "Stop the clock for everyone", "required": False},
    }
    return {
        "issuer": issuer,
        "identity_provider": {"type": "github", "client_id": "app", "url": upstream, "api_url": upstream},
        "allowed": {"users": ["octocat", "hubot"]},
        "redis_url": redis_url,
        "state_directory": str(folder),
        "router": {"entry_points": ["web"]},
        "resources": {
            "time": {"url": f"{issuer}/time/mcp", "backends": ["http://127.0.0.1:9/mcp"], "title": "Time"},
            "clock": {"url": f"{issuer}/clock/mcp", "backends": ["http://127.0.0.1:9/mcp"], "scopes": optional},
            "wiki": {
                "url": f"{issuer}/wiki-of-the-department-of-long-names-and-other-things/mcp",
                "backends": ["http://127.0.0.1:9/mcp"],
                "title": "Knowledge base of the department of very long names and everything that belongs to it",
            },
            "tickets": {
                "url": f"{issuer}/tickets/mcp",
                "backends": ["http://127.0.0.1:9/mcp"],
                "title": "Tickets",
                "user_credentials": {
                    "GITHUB_TOKEN": {
                        "label": "GitHub token",
                        "help": "Make one at https://github.com/settings/tokens with the scope repo, and copy it here.",
                        "pattern": "ghp_[A-Za-z0-9]+",
                    },
                    "WIKI_KEY": {"label": "Key of the wiki"},
                },
            },
            "notes": {
                "url": f"{issuer}/notes/mcp",
                "backends": ["http://127.0.0.1:9/mcp"],
                "title": "Notes",
                "user_credentials": {
                    "CALENDAR_TOKEN": {
                        "label": "Calendar of " + "W" * 80,
                        "help": HOSTILE_HELP,
                        "oauth": {
                            "authorization_endpoint": f"{calendar}/authorize",
                            "token_endpoint": f"{calendar}/token",
                            "client_id": CLIENT_ID,
                            "scopes": [],
                        },
                    },
                    "NOTES_KEY": {"label": "<b>Key</b> \u202eyek", "help": HOSTILE_HELP},
                },
            },
        },
    }


def _foreign_app(site: Site) -> Flask:
    app = Flask("foreign")

    @app.get("/callback")
    def callback() -> str:
        return "<!doctype html><title>Client</title><p>Connected.</p>"

    @app.get("/<path:path>")
    def page(path: str) -> Response:
        content = site.foreign_pages.get(f"/{path}")
        if content is None:
            return Response(status=404)
        if content.startswith("http"):
            return Response(status=302, headers={"Location": content})
        return Response(content, mimetype="text/html")

    return app


@contextmanager
def _serve(app: Flask) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests, from what the system has installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("Chromium is not installed: on Debian, install chromium and chromium-driver")
    options = Options()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it cannot be had by root, which CI is
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--force-color-profile=srgb",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield running
    finally:
        running.quit()


@pytest.fixture
def site(served: Site, redis_url: str) -> Site:
    """The service with nothing remembered."""
    served.stand_in.faults.clear()
    served.foreign_pages.clear()
    return served


@pytest.fixture
def chromium(driver: webdriver.Chrome) -> Iterator[Chromium]:
    """The browser with nothing remembered."""
    folder = os.environ.get("SCREENSHOTS")
    screenshots = Path(folder) if folder else None
    if screenshots is not None:
        screenshots.mkdir(parents=True, exist_ok=True)
    browser = Chromium(driver, screenshots)
    browser.forget()
    yield browser
    for handle in driver.window_handles[1:]:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(driver.window_handles[0])
