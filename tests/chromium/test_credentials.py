"""Users' own credentials in a real browser: asked for during the login, replaced and removed on the account page."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from .conftest import Chromium, Site
from .test_logins import press, tab_to

TOKEN, KEY = "ghp_ABCDEFGHIJKL", "key-of-the-wiki"
TOKEN_FIELD, KEY_FIELD = "input[name='value:GITHUB_TOKEN']", "input[name='value:WIKI_KEY']"


def arrive(chromium: Chromium, site: Site, **changes: str) -> None:
    """Log in up to the page, for a client that has just registered."""
    chromium.open(site.authorize_url(site.register(), resource=f"{site.issuer}/tickets/mcp", **changes))
    chromium.click("button[value=approve]")
    chromium.wait().until(
        lambda driver: (
            driver.current_url.startswith(f"{site.issuer}/provide") or chromium.find_all("button[name=login]")
        )
    )
    if chromium.find_all("button[name=login]"):  # GitHub knows who is there from the second time on
        chromium.choose()
    chromium.wait_for_text("needs something from you", within="h1")


def enter(chromium: Chromium) -> None:
    chromium.find(TOKEN_FIELD).send_keys(TOKEN)
    chromium.find(KEY_FIELD).send_keys(KEY)
    chromium.click("button[value=approve]")


def test_a_login_goes_on_once_everything_is_entered(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    enter(chromium)
    answer = chromium.wait_for_url(site.redirect_uri)
    assert answer["code"]
    assert (answer["state"], answer["iss"]) == ("client state & more", site.issuer)
    assert not any("Content Security Policy" in each for each in chromium.complaints())


def test_it_needs_no_mouse(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    tab_to(chromium, TOKEN_FIELD)
    press(chromium, TOKEN + Keys.TAB)
    assert chromium.driver.switch_to.active_element == chromium.find(KEY_FIELD)
    press(chromium, KEY + Keys.ENTER)
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_no_value_is_in_a_url_or_comes_back(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    chromium.requests_until_failure()
    chromium.find(TOKEN_FIELD).send_keys("not-a-token")
    chromium.find(KEY_FIELD).send_keys(KEY)
    chromium.click("button[value=approve]")
    chromium.find(".problem")
    assert chromium.find(TOKEN_FIELD).get_attribute("value") == ""
    assert "not-a-token" not in chromium.driver.page_source
    assert KEY not in chromium.driver.page_source
    chromium.find(TOKEN_FIELD).send_keys(TOKEN)
    chromium.click("button[value=approve]")
    chromium.wait_for_url(site.redirect_uri)
    chromium.open(f"{site.issuer}/account")
    chromium.wait_for_text("GitHub token")
    assert TOKEN not in chromium.driver.page_source
    visited = chromium.requests_until_failure()
    assert any(url.startswith(f"{site.issuer}/provide") for url in visited)
    for value in (TOKEN, KEY, "not-a-token"):
        assert not any(value in url for url in visited)


def test_reload_and_back_show_an_empty_page_until_the_login_is_over(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    chromium.find(TOKEN_FIELD).send_keys(TOKEN)
    chromium.driver.refresh()
    assert chromium.find(TOKEN_FIELD).get_attribute("value") == ""
    page = chromium.driver.current_url
    chromium.click("footer a")
    chromium.wait_for_url(f"{site.issuer}/account")
    chromium.driver.back()
    chromium.wait_for_url(page)
    enter(chromium)
    chromium.wait_for_url(site.redirect_uri)
    chromium.open(page)
    chromium.wait_for_text("cannot be continued")


def test_cancel_needs_no_value_and_tells_the_client(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    chromium.click("button[value=deny]")
    answer = chromium.wait_for_url(site.redirect_uri)
    assert answer["error"] == "access_denied"
    assert "code" not in answer


def test_a_second_tab_goes_on_with_what_the_first_has_entered(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site, state="first")
    first = chromium.driver.current_window_handle
    chromium.driver.switch_to.new_window("tab")
    arrive(chromium, site, state="second")
    enter(chromium)
    assert chromium.wait_for_url(site.redirect_uri)["state"] == "second"
    chromium.driver.switch_to.window(first)
    chromium.driver.refresh()
    assert chromium.wait_for_url(site.redirect_uri)["state"] == "first"


@pytest.mark.parametrize("path", ["/provide", "/account"])
def test_another_site_can_not_send_the_forms(chromium: Chromium, site: Site, path: str) -> None:
    """Also with a form token that it has got hold of."""
    arrive(chromium, site)
    if path == "/account":
        enter(chromium)
        chromium.wait_for_url(site.redirect_uri)
        chromium.open(f"{site.issuer}/account")
    ticket = chromium.find("li[id] input[name=ticket]" if path == "/account" else "input[name=ticket]")
    fields = {
        "ticket": ticket.get_attribute("value"),
        "value:GITHUB_TOKEN": TOKEN,
        "decision": "approve",
        "action": "remove-credential",
    }
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    site.foreign_pages["/lure"] = (
        f'<!doctype html><form method="post" action="{site.issuer}{path}">{inputs}<button>Play</button>'
    )
    chromium.open(f"{site.client}/lure")
    chromium.click("button")
    chromium.wait_for_text("Another website tried to answer for you")
    chromium.open(f"{site.issuer}/account")
    chromium.find("h1")
    assert len(chromium.find_all("button[value=remove-credential]")) == (2 if path == "/account" else 0)


def test_a_credential_is_replaced_and_removed_on_the_account_page(chromium: Chromium, site: Site) -> None:
    arrive(chromium, site)
    enter(chromium)
    chromium.wait_for_url(site.redirect_uri)
    chromium.open(f"{site.issuer}/account")
    chromium.click("#tickets-GITHUB_TOKEN summary")
    field = chromium.find(f"#tickets-GITHUB_TOKEN {TOKEN_FIELD}")
    field.send_keys("ghp_ZYXWVUT" + Keys.ENTER)
    chromium.wait_for_text("Replaced.", within=".notice")
    chromium.click("#tickets-WIKI_KEY button[value=remove-credential]")
    chromium.wait_for_text("Removed.", within=".notice")
    assert len(chromium.find_all("button[value=remove-credential]")) == 1
    chromium.wait_for_text("No application has access.")
    save, sign_out = (chromium.find(f"button[value={action}]").rect for action in ("set-credential", "sign-out"))
    assert sign_out["y"] - (save["y"] + save["height"]) >= 8
    arrive(chromium, site)
    assert chromium.find_all(TOKEN_FIELD) == []
    chromium.find(KEY_FIELD).send_keys(KEY + Keys.ENTER)
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_an_account_is_connected_by_a_button_and_again_on_the_account_page(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register(), resource=f"{site.issuer}/notes/mcp"))
    chromium.approve()
    chromium.wait_for_text("needs something from you", within="h1")
    chromium.paint("provide-connect")
    site.calendar.access_tokens.clear()
    site.calendar.account = "ada"
    chromium.click("button[name=connect]")
    chromium.wait().until(lambda _: not chromium.find_all("button[name=connect]") and chromium.find_all("h1"))
    chromium.find("input[name='value:NOTES_KEY']").send_keys(KEY)
    chromium.click("button[value=approve]")
    assert chromium.wait_for_url(site.redirect_uri)["code"]
    assert list(site.calendar.access_tokens.values()) == ["ada"]
    chromium.open(f"{site.issuer}/account")
    chromium.paint("account-connect")
    site.calendar.account = "grace"
    chromium.click("button[value=connect-credential]")
    chromium.wait_for_text("Replaced.")
    assert list(site.calendar.access_tokens.values()) == ["ada", "grace"]
    assert not any("Content Security Policy" in each for each in chromium.complaints())
