"""Whole logins as people do them, and as others try to do them for them."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from local import github

from .conftest import WAIT_SECONDS, Chromium, Site


def is_asked(chromium: Chromium, site: Site, url: str) -> bool:
    """Open a URL and say whether the user has to decide."""
    chromium.open(url)
    chromium.wait().until(lambda driver: driver.current_url.startswith((f"{site.issuer}/authorize", site.redirect_uri)))
    return chromium.driver.current_url.startswith(site.issuer)


def press(chromium: Chromium, key: str) -> None:
    chromium.driver.switch_to.active_element.send_keys(key)


def tab_to(chromium: Chromium, selector: str) -> None:
    """Press the tab key until an element has the focus; it must then show that."""
    wanted = chromium.find(selector)
    for _ in range(20):
        press(chromium, Keys.TAB)
        focused = chromium.driver.switch_to.active_element
        assert focused.value_of_css_property("outline-style") == "solid"
        if focused == wanted:
            return
    pytest.fail(f"{selector} cannot be reached by keyboard")


def test_a_login_ends_at_the_client_with_a_code_its_state_and_the_issuer(chromium: Chromium, site: Site) -> None:
    answer = chromium.log_in(site, site.authorize_url(site.register()))
    assert answer["state"] == "client state & more"
    assert answer["iss"] == site.issuer
    assert answer["code"]
    chromium.wait_for_text("Connected")


def test_declining_ends_at_the_client_without_a_code(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register()))
    chromium.click("button[value=deny]")
    answer = chromium.wait_for_url(site.redirect_uri)
    assert answer["error"] == "access_denied"
    assert "code" not in answer


def test_a_login_needs_no_mouse(chromium: Chromium, site: Site) -> None:
    clock = f"{site.issuer}/clock/mcp"
    client_id = site.register()
    chromium.open(site.authorize_url(client_id, resource=clock, scope="time:read time:set time:stop"))
    tab_to(chromium, "input[name='scope:time:stop']")
    press(chromium, Keys.SPACE)
    tab_to(chromium, "button[value=approve]")
    press(chromium, Keys.ENTER)
    chromium.choose()
    code = chromium.wait_for_url(site.redirect_uri)["code"]
    token = requests.post(
        f"{site.issuer}/token",
        data={
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": code,
            "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        },
        timeout=60,
    )
    assert token.json()["scope"] == "time:read time:set"


def test_what_was_approved_is_not_asked_again_when_a_program_opens_the_browser(chromium: Chromium, site: Site) -> None:
    client_id = site.register(token_endpoint_auth_method="client_secret_post")
    chromium.log_in(site, site.authorize_url(client_id))
    assert not is_asked(chromium, site, site.authorize_url(client_id))
    assert is_asked(chromium, site, site.authorize_url(client_id, resource=f"{site.issuer}/clock/mcp"))


def test_another_site_that_sends_the_browser_here_makes_the_user_look(chromium: Chromium, site: Site) -> None:
    client_id = site.register(token_endpoint_auth_method="client_secret_post")
    chromium.log_in(site, site.authorize_url(client_id))
    url = site.authorize_url(client_id).replace("&", "&amp;")
    site.foreign_pages["/lure"] = f'<!doctype html><a href="{url}">Free tickets</a>'
    chromium.open(f"{site.client}/lure")
    chromium.click("a")
    chromium.find("button[value=approve]")


def test_a_program_on_this_computer_is_asked_for_even_behind_a_redirect(chromium: Chromium, site: Site) -> None:
    """A hostile server that a client takes for its authorization server redirects here: browsers call that `none`."""
    public, confidential = site.register(), site.register(token_endpoint_auth_method="client_secret_post")
    for client_id in (public, confidential):
        chromium.log_in(site, site.authorize_url(client_id))
    site.foreign_pages["/authorize"] = site.authorize_url(confidential)
    assert not is_asked(chromium, site, f"{site.client}/authorize"), "why Sec-Fetch-Site is not enough"
    site.foreign_pages["/authorize"] = site.authorize_url(public)
    assert is_asked(chromium, site, f"{site.client}/authorize")
    chromium.wait_for_text("You have allowed this before")


def test_going_back_and_deciding_again_works(chromium: Chromium, site: Site) -> None:
    client_id = site.register()
    chromium.open(site.authorize_url(client_id))
    chromium.click("button[value=approve]")
    chromium.find("button[name=login]")
    chromium.driver.back()
    chromium.approve()
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_reloading_after_a_login_does_no_harm(chromium: Chromium, site: Site) -> None:
    chromium.log_in(site, site.authorize_url(site.register()))
    chromium.driver.back()
    chromium.open(f"{site.issuer}/callback?code=x&state=y")
    chromium.wait_for_text("cannot be continued")


def test_two_tabs_do_not_disturb_each_other(chromium: Chromium, site: Site) -> None:
    first = site.register(client_name="First")
    second = site.register(client_name="Second")
    chromium.open(site.authorize_url(first))
    first_tab = chromium.driver.current_window_handle
    chromium.driver.switch_to.new_window("tab")
    chromium.open(site.authorize_url(second))
    second_tab = chromium.driver.current_window_handle
    chromium.driver.switch_to.window(first_tab)
    chromium.approve()
    assert "code" in chromium.wait_for_url(site.redirect_uri)
    chromium.driver.switch_to.window(second_tab)
    chromium.click("button[value=approve]")
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_a_page_that_lost_its_cookie_is_asked_again_instead_of_failing(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register()))
    chromium.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.click("button[value=approve]")
    chromium.wait_for_text("decide again", within=".notice")
    chromium.approve()
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_someone_who_is_not_on_the_list_can_use_another_account_or_go_back(chromium: Chromium, site: Site) -> None:
    client_id = site.register()
    chromium.open(site.authorize_url(client_id))
    chromium.approve("stranger")
    chromium.wait_for_text("stranger may not use this server")
    chromium.click("button[value=approve]")
    chromium.choose("octocat")
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_a_login_can_be_tried_again_once_github_is_back(chromium: Chromium, site: Site) -> None:
    site.stand_in.faults["/user"] = github.Fault(503)
    chromium.open(site.authorize_url(site.register()))
    chromium.approve()
    chromium.wait_for_text("GitHub does not answer")
    site.stand_in.faults.clear()
    chromium.click("button[value=approve]")
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_access_is_ended_on_the_account_page(chromium: Chromium, site: Site) -> None:
    client_id = site.register(client_name="Unwanted")
    chromium.log_in(site, site.authorize_url(client_id))
    chromium.open(f"{site.issuer}/account")
    chromium.wait_for_text("Unwanted")
    chromium.click("button[value=end]")
    chromium.wait_for_text("Access ended", within=".notice")
    assert "Unwanted" not in chromium.find("body").text
    assert site.store.grants.find_of_user("github:583231") == []
    chromium.click("button[value=sign-out]")
    chromium.wait_for_text("You are signed out", within=".notice")


def test_all_access_is_ended_on_the_account_page(chromium: Chromium, site: Site) -> None:
    for name in ("Inspector", "Cursor"):
        chromium.log_in(site, site.authorize_url(site.register(client_name=name)))
    chromium.open(f"{site.issuer}/account")
    chromium.click("summary")
    chromium.click("button[value=end-all]")
    chromium.wait_for_text("All access ended", within=".notice")
    assert site.store.grants.find_of_user("github:583231") == []


@pytest.mark.parametrize("path", ["/account", "/authorize?client_id=x", "/callback", "/provide?login=x"])
def test_no_page_can_be_framed(chromium: Chromium, site: Site, path: str) -> None:
    chromium.complaints()
    site.foreign_pages["/frame"] = f'<!doctype html><iframe src="{site.issuer}{path}"></iframe>'
    chromium.open(f"{site.client}/frame")
    chromium.driver.switch_to.frame(chromium.find("iframe"))
    assert "MCP gateway" not in chromium.find("html").text
    chromium.driver.switch_to.default_content()
    assert any("frame-ancestors 'none'" in complaint for complaint in chromium.complaints())


@pytest.mark.parametrize("path", ["/account", "/consent"])
def test_a_form_of_another_site_is_refused(chromium: Chromium, site: Site, path: str) -> None:
    chromium.log_in(site, site.authorize_url(site.register()))
    site.foreign_pages["/forge"] = (
        f'<!doctype html><form method="post" action="{site.issuer}{path}"><input name="ticket" value="x">'
        '<button name="action" value="end-all">Win</button></form>'
    )
    chromium.open(f"{site.client}/forge")
    chromium.click("button")
    chromium.wait_for_text("Another website tried to answer for you")
    assert len(site.store.grants.find_of_user("github:583231")) == 1


def test_a_hostile_name_runs_nothing(chromium: Chromium, site: Site) -> None:
    name = "<img src=x onerror='owned=1'><script>owned=1</script>"
    chromium.open(site.authorize_url(site.register(client_name=name)))
    assert chromium.find("h1").text.startswith("Allow <img src=x")
    assert chromium.find_all("main img, main script") == []
    assert chromium.driver.execute_script("return typeof owned") == "undefined"


def test_sending_a_form_once_more_by_reloading_does_no_harm(chromium: Chromium, site: Site) -> None:
    chromium.open(site.authorize_url(site.register()))
    chromium.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.click("button[value=approve]")
    chromium.wait_for_text("decide again", within=".notice")
    chromium.driver.refresh()
    chromium.wait_for_text("decide again", within=".notice")
    chromium.approve()
    assert "code" in chromium.wait_for_url(site.redirect_uri)


def test_the_policy_of_the_page_lets_the_client_pass_the_browser_on(chromium: Chromium, site: Site) -> None:
    """A program shows its own website in the end, say: that is one more redirect of the form."""
    chromium.log_in(site, site.authorize_url(site.register()))
    site.foreign_pages["/login-done"] = "<!doctype html><p>You can close this window.</p>"
    elsewhere = site.client.replace("127.0.0.1", "localhost")
    site.foreign_pages["/own"] = f"{elsewhere}/login-done"
    redirect_uri = f"{site.client}/own"
    chromium.open(site.authorize_url(site.register(redirect_uris=[redirect_uri]), redirect_uri=redirect_uri))
    chromium.click("button[value=approve]")
    chromium.wait_for_url(f"{elsewhere}/login-done")


def test_the_answer_reaches_a_program_that_listens_on_ipv6(chromium: Chromium, site: Site) -> None:
    chromium.log_in(site, site.authorize_url(site.register()))
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as program, ThreadPoolExecutor(1) as pool:
        program.settimeout(WAIT_SECONDS)
        heard = pool.submit(_answer_one, program)
        redirect_uri = f"http://[::1]:{program.getsockname()[1]}/callback"
        client_id = site.register(redirect_uris=[redirect_uri])
        chromium.open(site.authorize_url(client_id, redirect_uri=redirect_uri))
        chromium.click("button[value=approve]")
        assert heard.result().startswith(b"GET /callback?code=")


def _answer_one(program: socket.socket) -> bytes:
    """Answer one request, and return its beginning."""
    connection, _ = program.accept()
    with connection:
        request = connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    return request


def test_the_policy_of_the_page_lets_the_answer_through_to_an_application(chromium: Chromium, site: Site) -> None:
    """Chromium holds every redirect after the form against `form-action`, up to the last one."""
    chromium.log_in(site, site.authorize_url(site.register()))
    uri = "cursor://anysphere.cursor-mcp/oauth/callback"
    client_id = site.register(client_name="Cursor", redirect_uris=[uri])
    chromium.open(site.authorize_url(client_id, redirect_uri=uri))
    chromium.requests_until_failure()
    chromium.complaints()
    chromium.click("button[value=approve]")  # GitHub knows who is there: no other page comes in between
    requested: list[str] = []

    def has_ended(_: object) -> bool:
        requested.extend(chromium.requests_until_failure())
        return "FAILED" in requested

    chromium.wait().until(has_ended)
    # Nobody has registered the scheme on this computer: that the browser turned to it is all there is to see.
    assert requested[-2].startswith(f"{uri}?code="), requested
    assert [complaint for complaint in chromium.complaints() if "Content Security Policy" in complaint] == []
