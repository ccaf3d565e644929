"""Identity providers that refuse a login: the page and the log say what to do, and no user gets access."""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.settings import Settings
from local.github import Fault
from tests.browser import Form

from .conftest import GITHUB, ISSUER, AuditLog, OAuthTestClient, parameters_of

SIGN_ON = f"{GITHUB}/orgs/acme/sso?authorization_request=AZ-bc_1"
MEMBERSHIP = "/user/memberships/orgs/acme"
TEAM_MEMBERSHIP = "/orgs/acme/teams/platform/memberships/octocat"
ACCESS = f"{GITHUB}/settings/connections/applications/app"
PROTECTED = '{"message": "Resource protected by organization SAML enforcement."}'


def begin(oauth: OAuthTestClient) -> tuple[str, str]:
    """Approve a client; return its identifier and the upstream state."""
    client_id = oauth.register(grant_types=["authorization_code", "refresh_token"])["client_id"]
    approved = oauth.decide(oauth.authorize(client_id))
    return client_id, dict(parse_qsl(urlsplit(approved.location).query))["state"]


def come_back(oauth: OAuthTestClient, state: str, **parameters: str) -> TestResponse:
    """Let the provider send the browser back, as it does with an error."""
    return oauth.follow(f"{ISSUER}/callback?{urlencode({**parameters, 'state': state})}")


def sign_on_fault(header: str) -> Fault:
    return Fault(403, PROTECTED, {"X-GitHub-SSO": header})


class TestSingleSignOn:
    """An organization that has its members sign in by itself."""

    @pytest.fixture(params=["organizations", "teams"])
    def path(self, request: pytest.FixtureRequest) -> str:
        return {"organizations": MEMBERSHIP, "teams": TEAM_MEMBERSHIP}[request.param]

    @pytest.fixture
    def settings(self, settings: Settings, path: str) -> Settings:
        allowed = {"organizations": ["acme"]} if path == MEMBERSHIP else {"teams": ["acme/platform"]}
        resources = settings.model_dump()["resources"]
        resources["fetch"]["allowed"] = {"organizations": ["umbrella"]}
        return Settings.model_validate({**settings.model_dump(), "allowed": allowed, "resources": resources})

    def log_in(self, oauth: OAuthTestClient) -> TestResponse:
        client_id = oauth.register()["client_id"]
        return oauth.follow(oauth.log_in(oauth.decide(oauth.authorize(client_id))))

    def test_githubs_own_link_is_offered_and_the_next_try_works(
        self, oauth: OAuthTestClient, path: str, audit_log: AuditLog
    ) -> None:
        oauth.stand_in.faults[path] = sign_on_fault(f"required; url={SIGN_ON}")
        page = self.log_in(oauth)
        assert page.status_code == 403
        assert page.location is None
        assert f'href="{SIGN_ON}"' in page.text
        assert "acme wants you to sign in" in page.text
        (refused,) = audit_log.of(Event.LOGIN_REFUSED)
        assert refused["reason"] == "GitHub requires single sign-on for acme"
        oauth.stand_in.faults.clear()
        again = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
        assert "code" in parameters_of(oauth.follow(oauth.log_in(again)))

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example/orgs/acme/sso",
            f"{GITHUB}.evil.example/orgs/acme/sso",
            f"{GITHUB}@evil.example/orgs/acme/sso",
            f"{GITHUB}:8443/orgs/acme/sso",
            "http://github.example.net/orgs/acme/sso",
            "https://github.example.com/orgs/acme/sso",
            "//evil.example/",
            "/orgs/acme/sso",
            "javascript:alert(1)",
            f'{GITHUB}/"><script>',
            f"{GITHUB}/\\evil",
            f"{GITHUB}/{'x' * 3000}",
            "",
        ],
    )
    def test_a_link_to_anywhere_else_becomes_githubs_page_of_the_application(
        self, oauth: OAuthTestClient, path: str, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        oauth.stand_in.faults[path] = sign_on_fault(f"required; url={url}")
        page = self.log_in(oauth)
        assert page.status_code == 403
        assert f'href="{ACCESS}"' in page.text
        assert "evil" not in page.text
        assert "<script" not in page.text
        assert "X-GitHub-SSO does not lead to" in caplog.text

    def test_a_header_without_a_link_leads_to_the_page_of_the_application(
        self, oauth: OAuthTestClient, path: str
    ) -> None:
        oauth.stand_in.faults[path] = sign_on_fault("required")
        assert f'href="{ACCESS}"' in self.log_in(oauth).text

    def test_a_refusal_without_the_header_is_no_membership(self, oauth: OAuthTestClient, path: str) -> None:
        for headers in ({}, {"X-GitHub-SSO": "partial-results; organizations=21955855"}):
            oauth.stand_in.faults[path] = Fault(403, PROTECTED, headers)
            page = self.log_in(oauth)
            assert page.status_code == 403
            assert "may not use this server" in page.text
            assert "sso" not in page.text

    def test_an_organization_that_is_not_on_the_servers_list_is_not_named(
        self, oauth: OAuthTestClient, path: str
    ) -> None:
        oauth.stand_in.faults[path] = sign_on_fault(f"required; url={SIGN_ON}")
        client_id = oauth.register()["client_id"]
        request = oauth.authorize(client_id, resource="https://fetch.example.com/mcp")
        page = oauth.follow(oauth.log_in(oauth.decide(request)))
        assert "may not use this server" in page.text
        assert "acme" not in page.text

    def test_a_refresh_is_refused_if_the_membership_is_not_known(self, oauth: OAuthTestClient, path: str) -> None:
        client_id = oauth.register()["client_id"]
        issued = oauth.redeem(client_id, oauth.obtain_code(client_id)).get_json()
        oauth.stand_in.faults[path] = sign_on_fault(f"required; url={SIGN_ON}")
        refreshed = oauth.token(grant_type="refresh_token", client_id=client_id, refresh_token=issued["refresh_token"])
        assert (refreshed.status_code, refreshed.get_json()["error"]) == (400, "invalid_grant")
        assert SIGN_ON in self.log_in(oauth).text


def test_a_sign_on_before_github_names_the_user_fails_the_login(oauth: OAuthTestClient) -> None:
    client_id = oauth.register()["client_id"]
    callback = oauth.log_in(oauth.decide(oauth.authorize(client_id)))
    oauth.stand_in.faults["/user"] = sign_on_fault(f"required; url={SIGN_ON}")
    assert parameters_of(oauth.follow(callback))["error"] == "access_denied"


OPERATORS = [
    ("application_suspended", "has suspended this gateway&#39;s application", "register another application"),
    ("redirect_uri_mismatch", "does not know this gateway&#39;s address", f"{ISSUER}/callback"),
    ("incorrect_client_credentials", "does not accept this gateway&#39;s credentials", "client-secret"),
    ("invalid_client", "does not accept this gateway&#39;s credentials", "client-secret"),
    ("invalid_scope", "does not know a scope that this gateway asks for", "identityProvider.oidc.scopes"),
    ("unauthorized_client", "does not let this gateway log anyone in", "authorization code grant"),
    ("unsupported_response_type", "does not let this gateway log anyone in", "response type"),
    ("invalid_request", "refuses this gateway&#39;s login", f"{ISSUER}/callback"),
    ("something_of_next_year", "refuses this gateway&#39;s login", f"{ISSUER}/callback"),
]


@pytest.mark.parametrize(("code", "title", "remedy"), OPERATORS)
@pytest.mark.parametrize("at", ["callback", "token endpoint"])
def test_what_the_operator_has_to_mend_is_on_the_page_and_in_the_log(  # noqa: PLR0917 - fixtures and cases
    oauth: OAuthTestClient,
    audit_log: AuditLog,
    caplog: pytest.LogCaptureFixture,
    code: str,
    title: str,
    remedy: str,
    at: str,
) -> None:
    _, state = begin(oauth)
    if at == "callback":
        page = come_back(oauth, state, error=code, error_description="See the docs\nERROR: forged <b>")
    else:
        oauth.stand_in.faults["/login/oauth/access_token"] = Fault(
            200, f'{{"error": "{code}", "error_description": "See the docs"}}', {"Content-Type": "application/json"}
        )
        page = come_back(oauth, state, code="anything")
    assert page.status_code == 503
    assert page.location is None
    assert title in page.text
    assert remedy.replace("'", "&#39;") in page.text
    assert "forged" not in page.text
    (logged,) = [record for record in caplog.records if "See the docs" in record.getMessage()]
    # What a browser brings back may be of anyone's making.
    assert logged.levelno == (logging.WARNING if at == "callback" else logging.ERROR)
    assert code in logged.getMessage()
    assert remedy in logged.getMessage()
    assert "\n" not in logged.getMessage()
    (refused,) = audit_log.of(Event.LOGIN_REFUSED)
    assert refused["reason"].startswith("GitHub refused: ")
    oauth.stand_in.faults.clear()
    again = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
    assert "code" in parameters_of(oauth.follow(oauth.log_in(again)))


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("unverified_user_email", "Your e-mail address is not verified"),
        ("login_required", "GitHub wants you to sign in there first"),
        ("interaction_required", "GitHub wants you to sign in there first"),
        ("account_selection_required", "GitHub wants you to sign in there first"),
        ("consent_required", "GitHub wants you to sign in there first"),
    ],
)
def test_what_the_user_has_to_mend_is_on_the_page(oauth: OAuthTestClient, code: str, title: str) -> None:
    _, state = begin(oauth)
    page = come_back(oauth, state, error=code)
    assert page.status_code == 403
    assert title in page.text
    assert "What the operator can do" not in page.text
    denied = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "deny"}, base_url=ISSUER)
    assert parameters_of(denied)["error"] == "access_denied"


@pytest.mark.parametrize("code", ["server_error", "temporarily_unavailable"])
def test_what_passes_by_itself_can_be_tried_again(oauth: OAuthTestClient, code: str) -> None:
    _, state = begin(oauth)
    page = come_back(oauth, state, error=code)
    assert page.status_code == 503
    assert int(page.headers["Retry-After"]) > 0
    assert "GitHub does not answer" in page.text


@pytest.mark.parametrize("parameters", [{"error": "access_denied"}, {}, {"error": ""}])
def test_a_user_who_cancels_goes_back_to_the_client(oauth: OAuthTestClient, parameters: dict[str, str]) -> None:
    _, state = begin(oauth)
    assert parameters_of(come_back(oauth, state, **parameters))["error"] == "access_denied"


@pytest.mark.parametrize("code", ["bad_verification_code", "invalid_grant"])
def test_a_code_that_the_provider_does_not_take_ends_the_login(oauth: OAuthTestClient, code: str) -> None:
    _, state = begin(oauth)
    oauth.stand_in.faults["/login/oauth/access_token"] = Fault(
        200, f'{{"error": "{code}"}}', {"Content-Type": "application/json"}
    )
    assert parameters_of(come_back(oauth, state, code="old"))["error"] == "access_denied"


def test_an_error_without_the_login_of_this_browser_shows_nothing_of_it(oauth: OAuthTestClient) -> None:
    page = come_back(oauth, "made-up", error="application_suspended")
    assert page.status_code == 400
    assert "suspended" not in page.text


@pytest.mark.parametrize(("code", "title"), [(code, title) for code, title, _ in OPERATORS[:2]])
def test_the_account_page_tells_of_it_too(oauth: OAuthTestClient, code: str, title: str) -> None:
    page = oauth.browser.get("/account", base_url=ISSUER)
    leaving = oauth.browser.post("/account", data=Form(page.text).fields, base_url=ISSUER)
    state = dict(parse_qsl(urlsplit(leaving.location).query))["state"]
    answer = come_back(oauth, state, error=code)
    assert answer.status_code == 503
    assert title in answer.text
    assert "Back to the account page" in answer.text
