"""Every page as people see it: in both themes, on a phone, by contrast, by axe's rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from local import github
from tests.peers import NPM_FOLDER

from .conftest import DOCUMENT_CLIENT, Chromium, Site

SENTENCE = "Claude to use Time? It is verified. Allow Claude"
HOSTILE = (
    "<script>alert(1)</script>\"'> \u202eedualc\u202c\u200b C\u0337\u0338\u0335\u0336\u0337l\u0430ude " + "W" * 120
)


def consent(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register()))


def consent_for_a_website(chromium: Chromium, site: Site) -> None:
    uri = "https://claude.ai/api/mcp/auth_callback"
    chromium.open(site.authorize_url(site.register(client_name="Claude", redirect_uris=[uri]), redirect_uri=uri))


def consent_for_an_application(chromium: Chromium, site: Site) -> None:
    uri = "cursor://anysphere.cursor-mcp/oauth/callback"
    chromium.open(site.authorize_url(site.register(client_name="Cursor", redirect_uris=[uri]), redirect_uri=uri))


def consent_for_a_published_client(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(DOCUMENT_CLIENT, scope="mcp"))


def consent_with_choices(chromium: Chromium, site: Site) -> None:
    client_id = site.register()
    clock = f"{site.issuer}/clock/mcp"
    chromium.log_in(site, site.authorize_url(client_id, resource=clock))
    chromium.open(site.authorize_url(client_id, resource=clock, scope="time:read time:set time:stop"))
    assert len(chromium.find_all(".badge")) == 2


def consent_with_long_names(chromium: Chromium, site: Site) -> None:
    uri = f"https://{'very-long-' * 5}label.{'subdomain.' * 12}example.com/callback"
    client_id = site.register(client_name="Pneumonoultramicroscopicsilicovolcanoconiosis" * 4, redirect_uris=[uri])
    wiki = f"{site.issuer}/wiki-of-the-department-of-long-names-and-other-things/mcp"
    chromium.open(site.authorize_url(client_id, redirect_uri=uri, resource=wiki))


def consent_with_a_hostile_name(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register(client_name=HOSTILE)))


def consent_with_a_name_that_is_a_sentence(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register(client_name=SENTENCE)))


def nothing_ticked(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register(), resource=f"{site.issuer}/clock/mcp", scope="time:set"))
    chromium.click("input[type=checkbox]")
    chromium.click("button[value=approve]")
    chromium.find(".notice")


def unknown_client(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url("mcp_gone"))


def malformed_request(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url("x") + "&state=twice")


def malformed_request_of_a_website(chromium: Chromium, site: Site) -> None:
    uri = f"https://{'very-long-' * 5}label.{'subdomain.' * 12}example.com/callback"
    client_id = site.register(redirect_uris=[uri])
    chromium.open(site.authorize_url(client_id, redirect_uri=uri, resource=f"https://{'x' * 100}.example/mcp"))
    assert chromium.find("a.button").text.startswith("Go back to very-long-")


def not_allowed(chromium: Chromium, site: Site) -> None:
    consent(chromium, site)
    chromium.approve("stranger")
    chromium.wait_for_text("may not use", within="h1")


def provider_down(chromium: Chromium, site: Site) -> None:
    site.stand_in.faults["/login/oauth/access_token"] = github.Fault(500)
    consent(chromium, site)
    chromium.approve()
    chromium.wait_for_text("does not answer", within="h1")


def used_callback(chromium: Chromium, site: Site) -> None:
    chromium.open(f"{site.issuer}/callback?state=used&code=used")


def sign_in(chromium: Chromium, site: Site) -> None:
    chromium.open(f"{site.issuer}/account")


def home(chromium: Chromium, site: Site) -> None:
    chromium.open(f"{site.issuer}/")


def home_of_a_user(chromium: Chromium, site: Site) -> None:
    home(chromium, site)
    chromium.click("button.primary")
    chromium.choose()
    chromium.click(".clients > summary")
    for panel in chromium.find_all(".cards > li:first-child .clients details > summary"):
        panel.click()
    chromium.find("a.button")


def home_of_a_stranger(chromium: Chromium, site: Site) -> None:
    home(chromium, site)
    chromium.click("button.primary")
    chromium.choose("stranger")
    chromium.wait_for_text("does not know now which servers are open to you", within="form")


def server_in_a_browser(chromium: Chromium, site: Site) -> None:
    chromium.open(f"{site.issuer}/visits/time/200")


def empty_account(chromium: Chromium, site: Site) -> None:
    sign_in(chromium, site)
    chromium.click("button.primary")
    chromium.choose()
    chromium.find(".empty")


def account(chromium: Chromium, site: Site) -> None:
    account_of(chromium, site, ("Claude", "time"), ("Cursor", "clock"))


def account_with_a_hostile_name(chromium: Chromium, site: Site) -> None:
    account_of(chromium, site, ("Claude", "time"), (HOSTILE, "wiki-of-the-department-of-long-names-and-other-things"))


def account_of(chromium: Chromium, site: Site, *grants: tuple[str, str]) -> None:
    for name, resource in grants:
        client_id = site.register(client_name=name)
        chromium.log_in(site, site.authorize_url(client_id, resource=f"{site.issuer}/{resource}/mcp"))
    chromium.open(f"{site.issuer}/account")
    assert len(chromium.find_all("button[value=end]")) == len(grants)


def ask_for_credentials(chromium: Chromium, site: Site, server: str) -> None:
    chromium.open(site.authorize_url(site.register(client_name="Claude"), resource=f"{site.issuer}/{server}/mcp"))
    chromium.approve()
    chromium.wait_for_text("needs something from you", within="h1")


def provide(chromium: Chromium, site: Site) -> None:
    ask_for_credentials(chromium, site, "tickets")
    assert len(chromium.find_all("input[type=password]")) == 2


def provide_with_a_problem(chromium: Chromium, site: Site) -> None:
    provide(chromium, site)
    chromium.find("input[name='value:GITHUB_TOKEN']").send_keys("not a token")
    chromium.find("input[name='value:WIKI_KEY']").send_keys("w")
    chromium.click("button[value=approve]")
    chromium.find(".problem")


def provide_with_hostile_texts(chromium: Chromium, site: Site) -> None:
    ask_for_credentials(chromium, site, "notes")
    assert len(chromium.find_all("button[name=connect]")) == 1
    assert chromium.driver.title.startswith("Credentials for Notes")


def account_with_credentials(chromium: Chromium, site: Site) -> None:
    provide(chromium, site)
    chromium.find("input[name='value:GITHUB_TOKEN']").send_keys("ghp_ABCDEFGHIJKL")
    chromium.find("input[name='value:WIKI_KEY']").send_keys("w")
    chromium.click("button[value=approve]")
    chromium.wait_for_url(site.redirect_uri)
    chromium.open(f"{site.issuer}/account")
    chromium.click(".replace > summary")
    chromium.find(".replace input[type=password]")


def account_with_a_problem(chromium: Chromium, site: Site) -> None:
    account_with_credentials(chromium, site)
    chromium.find(".replace input[type=password]").send_keys("not a token")
    chromium.click("button[value=replace-credential]")
    chromium.find(".problem")


def home_with_credentials(chromium: Chromium, site: Site) -> None:
    account_with_credentials(chromium, site)
    home(chromium, site)
    chromium.wait_for_text("Replace or remove it", within="#tickets")


PAGES: list[Callable[[Chromium, Site], None]] = [
    consent,
    consent_for_a_website,
    consent_for_an_application,
    consent_for_a_published_client,
    consent_with_choices,
    consent_with_long_names,
    consent_with_a_hostile_name,
    consent_with_a_name_that_is_a_sentence,
    nothing_ticked,
    unknown_client,
    malformed_request,
    malformed_request_of_a_website,
    not_allowed,
    provider_down,
    used_callback,
    sign_in,
    home,
    home_of_a_user,
    home_of_a_stranger,
    server_in_a_browser,
    empty_account,
    account,
    account_with_a_hostile_name,
    provide,
    provide_with_a_problem,
    provide_with_hostile_texts,
    account_with_credentials,
    account_with_a_problem,
    home_with_credentials,
]

# Each element with text of its own: its colours as painted (the nearest ground that is not transparent), and its size.
_PAINTED_TEXT = """
const painted = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.getClientRects().length === 0) continue;
  const style = getComputedStyle(element);
  let ground = element;
  while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  painted.push({
    what: element.tagName + '.' + element.className + ': ' + element.textContent.trim().slice(0, 40),
    text: style.color,
    ground: getComputedStyle(ground || document.documentElement).backgroundColor,
    size: parseFloat(style.fontSize),
    bold: parseInt(style.fontWeight) >= 700,
  });
}
return painted;
"""


def luminance(color: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def run_axe(chromium: Chromium) -> list[Any]:
    """Return what axe finds wrong by WCAG 2.2 AA and its best practices."""
    script = NPM_FOLDER / "node_modules/axe-core/axe.min.js"
    if not script.exists():
        pytest.skip("npm package axe-core is not installed: run `make test-browser`, with Node.js and npm")
    chromium.driver.execute_script(script.read_text())
    found = chromium.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        ".then(found => done(found.violations), failure => done([String(failure)]));"
    )
    return list(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_a_page_can_be_read_by_everyone_on_every_screen(
    page: Callable[[Chromium, Site], None], chromium: Chromium, site: Site
) -> None:
    page(chromium, site)
    assert chromium.driver.title.endswith(f" · {site.issuer.removeprefix('http://')}")
    assert chromium.find("html").get_attribute("lang") == "en"
    for theme in ("light", "dark"):
        chromium.show(theme=theme)
        painted = chromium.driver.execute_script(_PAINTED_TEXT)
        assert len(painted) > 4
        poor = [each for each in painted if contrast(each["text"], each["ground"]) < 4.5]
        assert not poor, f"too little contrast in the {theme} theme"
        ground = chromium.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (luminance(ground) > 0.5) is (theme == "light"), "the theme is not followed"
        assert run_axe(chromium) == []
        chromium.paint(f"{page.__name__}-{theme}")
    for width in (320, 390):
        chromium.show(width=width)
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert chromium.driver.execute_script(overflow) == 0
        chromium.paint(f"{page.__name__}-{width}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_edge_and_focus_ring_can_be_seen(chromium: Chromium, site: Site, theme: str) -> None:
    consent_with_choices(chromium, site)
    chromium.show(theme=theme)
    for selector in ("button[value=deny]", "button[value=approve]", "input[type=checkbox]", "footer a"):
        element = chromium.find(selector)
        # By script, and after a key: the ring is for those who use the keyboard.
        outline = chromium.driver.execute_script(
            "arguments[0].focus({focusVisible: true}); const style = getComputedStyle(arguments[0]);"
            "return [style.outlineStyle, parseFloat(style.outlineWidth), style.outlineColor];",
            element,
        )
        ground = "footer" if selector.startswith("footer") else "main"
        behind = chromium.driver.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor",
            "body" if ground == "footer" else "main",
        )
        assert (outline[0], outline[1] >= 2) == ("solid", True)
        assert contrast(outline[2], behind) >= 3
    edge = chromium.find("button[value=deny]").value_of_css_property("border-top-color")
    behind = chromium.find("main").value_of_css_property("background-color")
    assert contrast(_opaque(edge), _opaque(behind)) >= 3


def _opaque(color: str) -> str:
    """Return `rgb(…)` of what Selenium gives as `rgba(…, 1)`."""
    if not color.startswith("rgba("):
        return color
    parts = color.removeprefix("rgba(").removesuffix(")").split(", ")
    assert parts[3] == "1", json.dumps(color)
    return f"rgb({', '.join(parts[:3])})"
