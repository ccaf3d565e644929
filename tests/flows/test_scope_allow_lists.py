"""Scopes that only some users may be granted: on the page, at the login, at refresh, and after changes of lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jwt
import pytest
from werkzeug.test import TestResponse

from auth_service.ops.audit import Event
from auth_service.settings import Settings
from auth_service.storage.key_names import grant_key
from local import github
from tests.browser import Form

from .conftest import ISSUER, RESOURCE, AuditLog, OAuthTestClient, parameters_of

WRITER = github.User("wendy", 1, organizations=("acme",), teams=("acme/writers",))
READER = github.User("rita", 2, organizations=("acme",))
NAMED = github.User("nora", 3, organizations=("acme",))
ALL = "read write admin"
SCOPES: dict[str, Any] = {
    "read": {"description": "Read issues"},
    "write": {
        "description": "Change issues",
        "required": False,
        "allowed": {"teams": ["Acme/Writers"], "users": ["Nora"]},
    },
    "admin": {"description": "Delete issues", "required": False, "allowed": {"organizations": ["owners"]}},
    "notify": {"description": "Send messages", "required": False},
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Members of one organization may use a server. Some of its scopes are for some of them."""
    document = settings.model_dump(exclude_unset=True, mode="json")
    document["allowed"] = {"organizations": ["acme"]}
    document["resources"]["time"]["scopes"] = SCOPES
    return Settings.model_validate(document)


@pytest.fixture
def oauth(oauth: OAuthTestClient) -> OAuthTestClient:
    """GitHub knows these users."""
    oauth.stand_in.users[:] = [WRITER, READER, NAMED]
    return oauth


class Client:
    """A client, and the browser of one user."""

    def __init__(self, oauth: OAuthTestClient, login: str = "wendy", **metadata: Any) -> None:
        self.oauth, self.login = oauth, login
        self.id = str(oauth.register(**metadata)["client_id"])
        self.refresh_token = ""

    def open(self, scope: str | None = ALL) -> TestResponse:
        """Open the consent page."""
        return self.oauth.authorize(self.id, scope=scope)

    def go_on(self, approved: TestResponse) -> TestResponse:
        """Log in at GitHub, and come back."""
        return self.oauth.follow(self.oauth.log_in(approved, self.login))

    def log_in(self, scope: str | None = ALL) -> dict[str, Any]:
        """Approve everything, and return the answer with the tokens."""
        return self.redeem(parameters_of(self.go_on(self.oauth.decide(self.open(scope))))["code"])

    def redeem(self, code: str) -> dict[str, Any]:
        """Redeem a code."""
        issued: dict[str, Any] = self.oauth.redeem(self.id, code).get_json()
        self.refresh_token = issued.get("refresh_token", "")
        return issued

    def refresh(self, **changes: str) -> dict[str, Any]:
        """Refresh the token."""
        body: dict[str, Any] = self.oauth.token(
            grant_type="refresh_token", client_id=self.id, refresh_token=self.refresh_token, **changes
        ).get_json()
        self.refresh_token = body.get("refresh_token", self.refresh_token)
        return body


def claims_of(issued: dict[str, Any]) -> dict[str, Any]:
    """Return the claims of the access token of an answer."""
    claims: dict[str, Any] = jwt.decode(issued["access_token"], options={"verify_signature": False})
    assert claims["scope"] == issued["scope"]
    return claims


def held_and_grantable(issued: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the scopes of a token, and those with an allow-list that its user may be granted besides."""
    claims = claims_of(issued)
    return set(claims["scope"].split()), set(claims.get("grantable_scope", "").split())


def grants_of(oauth: OAuthTestClient, user: github.User) -> list[str]:
    """Return the scopes of the user's grants, the oldest first."""
    return [found.grant.scope for found in oauth.store.grants.find_of_user(f"github:{user.id}")]


def make_member(oauth: OAuthTestClient, user: github.User, **memberships: tuple[str, ...]) -> None:
    """Change what a user is a member of."""
    changed = replace(user, **memberships)  # type: ignore[arg-type]  # these members alone
    oauth.stand_in.users[:] = [changed if each.id == user.id else each for each in oauth.stand_in.users]


@pytest.mark.parametrize(
    ("login", "scope", "expected"),
    [
        ("wendy", ALL, ({"read", "write"}, set())),
        ("wendy", "read", ({"read"}, {"write"})),
        ("wendy", None, ({"read"}, {"write"})),
        ("nora", ALL, ({"read", "write"}, set())),
        ("rita", ALL, ({"read"}, set())),
        ("rita", "read", ({"read"}, set())),
        ("rita", "notify read write", ({"read", "notify"}, set())),
    ],
)
def test_a_login_grants_what_was_asked_for_and_this_user_may_have(
    oauth: OAuthTestClient, audit_log: AuditLog, login: str, scope: str | None, expected: tuple[set[str], set[str]]
) -> None:
    assert held_and_grantable(Client(oauth, login).log_in(scope)) == expected
    held, asked = expected[0], set((scope or "read").split())
    withheld = audit_log.of(Event.SCOPE_WITHHELD)
    assert [set(each["scope"].split()) for each in withheld] == ([asked - held] if asked - held else [])
    assert all(each["name"] == login and each["reason"] == f"{login} may not have it" for each in withheld)
    assert set(audit_log.of(Event.CODE_ISSUED)[0]["scope"].split()) == held


def test_the_page_says_that_the_login_decides_and_then_offers_only_what_the_user_may_have(
    oauth: OAuthTestClient,
) -> None:
    reader = Client(oauth, "rita")
    first = reader.open()
    assert first.text.count("for some users only, as your sign-in decides") == 2
    assert "may not have it" not in first.text
    assert reader.redeem(parameters_of(reader.go_on(oauth.decide(first)))["code"])["scope"] == "read"
    second = reader.open()
    assert "for some users only" not in second.text
    assert set(Form(second.text).fields) == {"ticket"}, "nothing is left to choose"
    shown = " ".join(second.text.split())
    assert (
        "<dt>Asked for too, but <bdi>rita</bdi> may not have it</dt> "
        '<dd>Change issues <span class="scope quiet">write</span></dd> '
        '<dd>Delete issues <span class="scope quiet">admin</span></dd> </div>' in shown
    )
    writer = Client(oauth, "wendy")
    oauth.browser = oauth.new_browser()
    writer.log_in()
    assert set(Form(writer.open().text).fields) == {"ticket", "scope:write"}


def test_a_scope_that_was_not_offered_cannot_be_posted(oauth: OAuthTestClient) -> None:
    reader = Client(oauth, "rita")
    reader.log_in("read")
    # As a writer, whom the page does not know to be one.
    make_member(oauth, READER, teams=("acme/writers",))
    fields = Form(reader.open().text).fields
    assert "scope:write" not in fields
    posted = fields | {"decision": "approve", "scope:write": "on", "scope:admin": "on", "withheld": ""}
    approved = oauth.browser.post("/consent", data=posted, base_url=ISSUER)
    issued = reader.redeem(parameters_of(reader.go_on(approved))["code"])
    assert held_and_grantable(issued) == ({"read"}, {"write"})


def test_a_scope_that_was_not_asked_for_cannot_be_posted(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    posted = Form(writer.open("read").text).fields | {"decision": "approve", "scope:write": "on"}
    approved = oauth.browser.post("/consent", data=posted, base_url=ISSUER)
    issued = writer.redeem(parameters_of(writer.go_on(approved))["code"])
    assert held_and_grantable(issued) == ({"read"}, {"write"})


def test_a_page_for_one_user_grants_nothing_to_another(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    writer.log_in("read")
    page = writer.open()
    assert "scope:write" in Form(page.text).fields
    writer.login = "rita"
    again = writer.go_on(oauth.decide(page))
    assert again.status_code == 200
    assert "You are now signed in as <bdi>rita</bdi>" in again.text
    assert set(Form(again.text).fields) == {"ticket"}
    issued = writer.redeem(parameters_of(writer.go_on(oauth.decide(again)))["code"])
    assert held_and_grantable(issued) == ({"read"}, set())


@pytest.mark.parametrize("scope", ["write", "write admin"])
def test_a_user_who_may_have_nothing_of_what_was_asked_for_reads_so(
    oauth: OAuthTestClient, audit_log: AuditLog, scope: str
) -> None:
    reader = Client(oauth, "rita")
    reader.log_in("read")
    # The page offers it, as the user may have got it since: the login decides.
    page = reader.open(scope)
    assert "scope:write" in Form(page.text).fields
    refused = reader.go_on(oauth.decide(page))
    assert refused.status_code == 403
    assert "rita may not do this with time" in refused.text
    assert "Change issues (write)" in refused.text
    entry = audit_log.of(Event.LOGIN_REFUSED)[-1]
    assert (entry["scope"], entry["reason"]) == (scope, "rita may not have these scopes of this server")
    # The page offers another account, for which the same consent counts.
    reader.login = "wendy"
    fields = Form(refused.text).fields
    assert fields["account"] == "other"
    approved = oauth.browser.post("/consent", data=fields | {"decision": "approve"}, base_url=ISSUER)
    assert "prompt=select_account" in approved.location


@pytest.mark.parametrize("scope", ["read", "notify", None])
def test_a_user_who_may_not_have_a_required_scope_does_not_get_in(
    oauth: OAuthTestClient, audit_log: AuditLog, scope: str | None
) -> None:
    oauth.reload(resources={"time": {"scopes": {"read": {"allowed": {"teams": ["acme/writers"]}}}}})
    reader = Client(oauth, "rita")
    refused = reader.go_on(oauth.decide(reader.open(scope)))
    assert refused.status_code == 403
    assert "rita may not use this server" in refused.text
    assert "what every use of time needs: Read issues (read)" in refused.text
    assert "mcp-gateway-session" not in str(refused.headers)
    assert audit_log.of(Event.LOGIN_REFUSED)[0]["scope"] == "read"
    assert audit_log.of(Event.CODE_ISSUED) == []
    assert grants_of(oauth, READER) == []
    oauth.browser = oauth.new_browser()
    assert "read" in Client(oauth, "wendy").log_in("read write")["scope"].split()


def test_what_a_user_loses_leaves_the_next_token_and_the_grant_for_good(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    writer = Client(oauth)
    writer.log_in("read write notify")
    lifetime = oauth.store.redis.ttl(grant_key(oauth.store.grants.find_of_user("github:1")[0].grant.sid))
    make_member(oauth, WRITER, teams=())
    assert held_and_grantable(writer.refresh()) == ({"read", "notify"}, set())
    assert grants_of(oauth, WRITER) == ["read notify"]
    sid = oauth.store.grants.find_of_user("github:1")[0].grant.sid
    assert oauth.store.redis.ttl(grant_key(sid)) >= lifetime - 60
    assert audit_log.of(Event.SCOPE_REMOVED) == [
        {
            "user": "github:1",
            "name": "wendy",
            "client": writer.id,
            "resource": RESOURCE,
            "grant": sid,
            "scope": "write",
            "by": "gateway",
            "reason": "the user may not have it any more",
        }
    ]
    # Regained, it can be granted again. No refresh does that (RFC 6749 §6).
    make_member(oauth, WRITER, teams=("acme/writers",))
    assert held_and_grantable(writer.refresh()) == ({"read", "notify"}, {"write"})
    assert held_and_grantable(writer.refresh(scope="read write")) == ({"read"}, {"write"})
    assert writer.refresh(scope="write")["error"] == "invalid_scope"
    assert grants_of(oauth, WRITER) == ["read notify"]
    assert len(audit_log.of(Event.SCOPE_REMOVED)) == 1


def test_a_narrower_token_says_that_the_rest_can_be_had(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    writer.log_in("read write")
    assert held_and_grantable(writer.refresh(scope="read")) == ({"read"}, {"write"})
    assert held_and_grantable(writer.refresh()) == ({"read", "write"}, set())


@pytest.mark.parametrize("asked", ["write", "admin", "read admin"])
def test_no_refresh_widens_a_grant(oauth: OAuthTestClient, asked: str) -> None:
    writer = Client(oauth)
    writer.log_in("read")
    make_member(oauth, WRITER, organizations=("acme", "owners"))
    body = writer.refresh(scope=asked)
    if "read" in asked:
        assert held_and_grantable(body) == ({"read"}, {"write", "admin"})
    else:
        assert body["error"] == "invalid_scope"
    assert grants_of(oauth, WRITER) == ["read"]


def test_losing_all_granted_scopes_or_a_required_one_ends_the_grant(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    only_write = Client(oauth)
    only_write.log_in("write")
    other = Client(oauth)
    other.log_in("read write")
    make_member(oauth, WRITER, teams=())
    refused = only_write.refresh()
    assert refused["error"] == "invalid_grant"
    assert audit_log.of(Event.GRANT_REVOKED)[0]["reason"] == "the user may no longer have any scope that was granted"
    assert held_and_grantable(other.refresh()) == ({"read"}, set())
    assert grants_of(oauth, WRITER) == ["read"], "the grants of one user are independent of each other"
    oauth.reload(resources={"time": {"scopes": {"read": {"allowed": {"users": ["nora"]}}}}})
    assert other.refresh()["error"] == "invalid_grant"
    assert audit_log.of(Event.GRANT_REVOKED)[1]["reason"] == "the user may no longer use this resource"
    assert grants_of(oauth, WRITER) == []


def test_nothing_is_lost_while_github_does_not_answer(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    writer.log_in("read write")
    oauth.stand_in.faults["/orgs/acme/teams/writers/memberships/wendy"] = github.Fault()
    assert "access_token" not in writer.refresh()
    assert grants_of(oauth, WRITER) == ["read write"]
    oauth.stand_in.faults.clear()
    assert held_and_grantable(writer.refresh()) == ({"read", "write"}, set())


def test_a_named_user_goes_on_without_github_unless_a_scope_depends_on_it(oauth: OAuthTestClient) -> None:
    oauth.reload(resources={"time": {"allowed": {"users": ["wendy", "nora"]}}})
    named, member = Client(oauth, "nora"), Client(oauth, "wendy")
    named.log_in("read write")
    oauth.browser = oauth.new_browser()
    member.log_in("read write")
    oauth.stand_in.faults["/user"] = github.Fault()
    assert held_and_grantable(named.refresh()) == ({"read", "write"}, set())
    assert "access_token" not in member.refresh()
    assert grants_of(oauth, WRITER) == ["read write"]


@pytest.mark.parametrize("header", ["required; url=https://github.com/orgs/acme/sso?authorization_request=A1", None])
def test_a_team_behind_a_single_sign_on_leads_there(oauth: OAuthTestClient, header: str | None) -> None:
    oauth.reload(resources={"time": {"allowed": {"users": ["wendy"]}}})
    path = "/orgs/acme/teams/writers/memberships/wendy"
    oauth.stand_in.faults[path] = github.Fault(403, "{}", {} if header is None else {"X-GitHub-SSO": header})
    writer = Client(oauth)
    if header is None:
        assert held_and_grantable(writer.log_in("read write")) == ({"read"}, set())
        return
    page = writer.go_on(oauth.decide(writer.open("read write")))
    assert page.status_code == 403
    assert "https://github.com/orgs/acme/sso?authorization_request=A1" in page.text
    assert grants_of(oauth, WRITER) == []
    # Without that scope nobody needs it.
    assert held_and_grantable(writer.log_in("read")) == ({"read"}, set())
    oauth.stand_in.faults.clear()
    again = oauth.browser.post("/consent", data=Form(page.text).fields | {"decision": "approve"}, base_url=ISSUER)
    assert held_and_grantable(writer.redeem(parameters_of(writer.go_on(again))["code"])) == ({"read", "write"}, set())


def test_a_gained_membership_is_offered_after_a_refresh(oauth: OAuthTestClient) -> None:
    reader = Client(oauth, "rita")
    reader.log_in()
    assert "scope:write" not in Form(reader.open().text).fields
    make_member(oauth, READER, teams=("acme/writers",))
    assert held_and_grantable(reader.refresh()) == ({"read"}, {"write"})
    # What the bridge now asks for by step-up is on the page.
    assert "scope:write" in Form(reader.open("read write").text).fields
    assert held_and_grantable(reader.log_in("read write")) == ({"read", "write"}, set())


SILENT = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Remembered(Client):
    """A client whose user need not see the page twice."""

    def __init__(self, oauth: OAuthTestClient, login: str = "wendy") -> None:
        super().__init__(oauth, login, token_endpoint_auth_method="none", redirect_uris=["https://app.example/cb"])

    def open(self, scope: str | None = ALL) -> TestResponse:
        """Open the page as a browser does that no site sent here."""
        query = {"scope": scope} if scope else {}
        return self.oauth.browser.get(
            "/authorize",
            query_string={
                "response_type": "code",
                "client_id": self.id,
                "redirect_uri": "https://app.example/cb",
                "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                "code_challenge_method": "S256",
                "resource": RESOURCE,
                **query,
            },
            headers=SILENT,
            base_url=ISSUER,
        )


def test_a_remembered_consent_brings_back_no_scope_that_the_user_may_not_have(
    oauth: OAuthTestClient, audit_log: AuditLog
) -> None:
    writer = Remembered(oauth)
    assert writer.go_on(oauth.decide(writer.open("read write"))).status_code == 303
    remembered = writer.open("read write")
    assert remembered.status_code == 303, "it is remembered"
    make_member(oauth, WRITER, teams=())
    # The user has lost it since: first the login notices, then the page.
    assert writer.go_on(remembered).status_code == 303
    assert [each["scope"] for each in audit_log.of(Event.CODE_ISSUED)] == ["read write", "read"]
    assert [each["scope"] for each in audit_log.of(Event.SCOPE_WITHHELD)] == ["write"]
    page = writer.open("read write")
    assert page.status_code == 200, "the consent to both is not one to this alone"
    assert "scope:write" not in Form(page.text).fields
    assert writer.go_on(oauth.decide(page)).status_code == 303
    silent = writer.open("read write")
    assert silent.status_code == 303, "what is left is remembered"
    assert writer.go_on(silent).status_code == 303
    assert [each["scope"] for each in audit_log.of(Event.CODE_ISSUED)] == ["read write", "read", "read", "read"]


def test_what_was_withheld_is_not_remembered_as_allowed(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    reader = Remembered(oauth, "rita")
    assert reader.go_on(oauth.decide(reader.open("read write"))).status_code == 303
    assert reader.open("read write").status_code == 303
    make_member(oauth, READER, teams=("acme/writers",))
    oauth.browser = oauth.new_browser()
    assert reader.go_on(oauth.decide(reader.open("read"))).status_code == 303
    page = reader.open("read write")
    assert page.status_code == 200, "it was never granted"
    assert "scope:write" in Form(page.text).fields


def test_allow_lists_are_no_part_of_what_is_remembered(oauth: OAuthTestClient) -> None:
    writer = Remembered(oauth)
    assert writer.go_on(oauth.decide(writer.open("read write"))).status_code == 303
    oauth.reload(resources={"time": {"scopes": {"write": {"allowed": {"teams": ["acme/writers"], "users": ["x"]}}}}})
    assert writer.open("read write").status_code == 303


def test_a_list_that_is_tightened_while_the_page_is_open_counts(oauth: OAuthTestClient, audit_log: AuditLog) -> None:
    writer = Client(oauth)
    page = writer.open()
    oauth.reload(resources={"time": {"scopes": {"write": {"allowed": {"users": ["nora"], "teams": []}}}}})
    assert held_and_grantable(writer.redeem(parameters_of(writer.go_on(oauth.decide(page)))["code"])) == (
        {"read"},
        set(),
    )
    assert set(audit_log.of(Event.SCOPE_WITHHELD)[0]["scope"].split()) == {"write", "admin"}


def test_a_list_that_is_tightened_before_the_code_is_redeemed_counts(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    code = parameters_of(writer.go_on(oauth.decide(writer.open())))["code"]
    oauth.reload(resources={"time": {"scopes": {"write": {"allowed": {"users": ["nora"], "teams": []}}}}})
    assert held_and_grantable(writer.redeem(code)) == ({"read"}, set())
    assert grants_of(oauth, WRITER) == ["read"]


@pytest.mark.parametrize("allowed", [{"users": ["nora"], "teams": []}, {"users": [], "teams": []}])
def test_a_list_that_is_tightened_takes_hold_at_the_refresh(oauth: OAuthTestClient, allowed: dict[str, Any]) -> None:
    writer = Client(oauth)
    writer.log_in("read write")
    oauth.reload(resources={"time": {"scopes": {"write": {"allowed": allowed}}}})
    assert held_and_grantable(writer.refresh()) == ({"read"}, set())
    oauth.reload(resources={"time": {"scopes": {"write": {"allowed": None}}}})
    assert held_and_grantable(writer.refresh()) == ({"read"}, set()), "it was removed from the grant"


def test_a_scope_that_the_server_does_not_have_for_a_while_is_checked_when_it_is_back(oauth: OAuthTestClient) -> None:
    writer = Client(oauth)
    writer.log_in("read write")
    oauth.reload(resources={"time": {"scopes": {"write": None}}})
    assert held_and_grantable(writer.refresh()) == ({"read"}, set())
    assert grants_of(oauth, WRITER) == ["read write"]
    oauth.reload(resources={"time": {"scopes": {"write": SCOPES["write"]}}})
    assert held_and_grantable(writer.refresh()) == ({"read", "write"}, set())
    make_member(oauth, WRITER, teams=())
    assert held_and_grantable(writer.refresh()) == ({"read"}, set())


def test_introspection_and_the_account_page_show_what_is_left(oauth: OAuthTestClient) -> None:
    writer = Client(
        oauth, token_endpoint_auth_method="client_secret_post", grant_types=["authorization_code", "refresh_token"]
    )
    registered = oauth.register(token_endpoint_auth_method="client_secret_post")
    writer.id, secret = registered["client_id"], registered["client_secret"]
    code = parameters_of(writer.go_on(oauth.decide(writer.open("read write"))))["code"]
    issued = oauth.redeem(writer.id, code, client_secret=secret).get_json()
    writer.refresh_token = issued["refresh_token"]
    make_member(oauth, WRITER, teams=())
    refreshed = writer.refresh(client_secret=secret)

    def introspect(token: str) -> str:
        answer = oauth.app.test_client().post(
            "/introspect", data={"token": token, "client_id": writer.id, "client_secret": secret}, base_url=ISSUER
        )
        return str(answer.get_json()["scope"])

    assert introspect(refreshed["access_token"]) == introspect(refreshed["refresh_token"]) == "read"
    # A token that was issued before keeps its scope until it ends, here as at `/verify`.
    assert introspect(issued["access_token"]) == "read write"
    page = oauth.browser.get("/account", base_url=ISSUER).text
    assert '<dd class="scope">read</dd>' in page


ODD = "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"


def test_scopes_of_odd_characters_are_offered_posted_and_withheld_like_others(oauth: OAuthTestClient) -> None:
    odd = {"description": "<b>Odd</b>", "required": False, "allowed": {"teams": ["acme/writers"]}}
    oauth.reload(resources={"time": {"scopes": {ODD: odd}}})
    reader = Client(oauth, "rita")
    assert held_and_grantable(reader.log_in(f"read {ODD}")) == ({"read"}, set())
    page = reader.open(f"read {ODD}").text
    assert "&lt;b&gt;Odd&lt;/b&gt;" in page
    assert "<b>Odd</b>" not in page
    oauth.browser = oauth.new_browser()
    writer = Client(oauth, "wendy")
    assert held_and_grantable(writer.log_in("read")) == ({"read"}, {ODD, "write"})
    assert f"scope:{ODD}" in Form(writer.open(f"read {ODD}").text).fields
    assert held_and_grantable(writer.log_in(f"read {ODD}")) == ({"read", ODD}, {"write"})
