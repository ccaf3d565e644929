"""A browser for flows: follows redirects, keeps cookies, fills in the forms that a person would click through.

Also a program: `python -m tests.browser URL` is what clients start as $BROWSER.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from types import MappingProxyType
from urllib.parse import urljoin, urlsplit

import requests

MAX_STEPS = 20
TIMEOUT_SECONDS = 60


class Form(HTMLParser):
    """The first form of a page: its action and method, its hidden fields and ticked boxes, its buttons.

    `entered` are the names of the fields in which a user enters a secret.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.entered: list[str] = []
        self.buttons: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a submission needs."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action = values.get("action", "")
        elif tag == "input" and values.get("type") == "hidden":
            self.fields.setdefault(values["name"], values.get("value", ""))
        elif tag == "input" and values.get("type") == "checkbox" and "checked" in values:
            self.fields[values["name"]] = values.get("value", "on")
        elif tag == "input" and values.get("type") == "password":
            self.entered.append(values["name"])
        elif tag == "button" and "name" in values:
            self.buttons.append((values["name"], values.get("value", "")))


class Browser:
    """One browser profile. `login` is whom it picks at the identity provider.

    `credentials` are what it enters for the variables that a page asks for.
    """

    def __init__(
        self,
        *,
        login: str = "octocat",
        decision: str = "approve",
        credentials: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        self.login = login
        self.decision = decision
        self.credentials = credentials
        self.pages: list[str] = []

    def open(self, url: str, *, stop_at: str | None = None) -> requests.Response | str:
        """Open a URL and click through; return the last response, or the first URL that begins with `stop_at`."""
        response = self._get(url, site="none")
        for _ in range(MAX_STEPS):
            if response.is_redirect:
                target = urljoin(response.url, response.headers["Location"])
                if stop_at is not None and target.startswith(stop_at):
                    return target
                response = self._get(target, site="cross-site")
                continue
            form = Form(response.text) if response.ok and "html" in response.headers.get("Content-Type", "") else None
            if form is None or form.action is None or not form.buttons:
                return response
            self.pages.append(response.text)
            response = self.submit(response.url, form)
        raise AssertionError(f"no end after {MAX_STEPS} steps: {response.url}")

    def _get(self, url: str, *, site: str) -> requests.Response:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
        return self.session.get(url, headers=headers, allow_redirects=False, timeout=TIMEOUT_SECONDS)

    def submit(self, page_url: str, form: Form) -> requests.Response:
        """Fill in a form of a page, and click the button that fits; return the answer, which may be a redirect."""
        wanted = {"decision": self.decision, "login": self.login}
        clicked = dict([next(each for each in form.buttons if wanted.get(*each) == each[1])] if form.buttons else [])
        entered = {name: self.credentials[name.removeprefix("value:")] for name in form.entered}
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page_url))
        return self.session.post(
            urljoin(page_url, form.action or ""),
            data={**form.fields, **entered, **clicked},
            headers={"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Origin": origin},
            allow_redirects=False,
            timeout=TIMEOUT_SECONDS,
        )


if __name__ == "__main__":
    Browser().open(sys.argv[1])
