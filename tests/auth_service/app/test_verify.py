"""`/verify`: which requests pass, and the answers to those that do not."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import time_machine

from auth_service.app.verify import endpoint, token_cache
from auth_service.app.verify.endpoint import MAX_TOKEN_BYTES, MAX_URI_BYTES, REFRESH_SECONDS, Verifier
from auth_service.app.verify.grant_liveness import GrantWatch
from auth_service.backends.assertions import derive_identity_key
from auth_service.keys.access_tokens import issue_access_token
from auth_service.keys.signing_keys import SigningKeys, create_key_file
from auth_service.settings import Credentials, Settings
from auth_service.storage.denials import Denials
from auth_service.storage.key_names import GRANT_PREFIX
from stdio_bridge.http.identity import AssertionVerifier
from stdio_bridge.protocol.errors import HttpError
from tests.auth_service.test_settings import MINIMAL
from tests.conftest import RedisServer

SID = "the-grant"
URL = MINIMAL["resources"]["time"]["url"]
TRACKER_URL = "https://tracker.example.com/mcp"
OWN_TOKEN = "the-gateways-own-token"
CREDENTIALS = Credentials(client_secret="x", master_key=b"k" * 32, backends={"tracker": OWN_TOKEN})


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class VerifyClient:
    """A verifier over a real Redis in which one grant lives."""

    def __init__(self, directory: Path, server: RedisServer) -> None:
        document = copy.deepcopy(MINIMAL)
        document["resources"]["wiki"] = {"url": "https://wiki.example.com/mcp", "backends": ["http://127.0.0.1:1/mcp"]}
        document["resources"]["time"]["scopes"] = {
            "mcp": {"description": "Use it"},
            "write": {"description": "Change it", "required": False},
        }
        document["resources"]["tracker"] = {
            "url": TRACKER_URL,
            "backends": ["http://127.0.0.1:1/mcp"],
            "backend_credential": True,
            "scopes": {
                "mcp": {"description": "Use it"},
                "read": {"description": "Read it", "required": False},
                "write": {"description": "Change it", "required": False, "allowed": {"teams": ["acme/writers"]}},
                "admin": {"description": "Own it", "required": False, "allowed": {}},
            },
        }
        self.settings = Settings.model_validate(document)
        self.keys = SigningKeys(directory, CREDENTIALS)
        self.server = server
        self.runner = asyncio.Runner()
        self.watch = GrantWatch(server.url, Denials(directory))
        self.verifier = Verifier(self.settings, CREDENTIALS, self.keys, self.watch)
        with server.client() as redis:
            redis.set(GRANT_PREFIX + SID, "{}")

    def token(self, **changes: Any) -> str:
        claims: dict[str, Any] = {
            "issuer": self.settings.issuer,
            "sub": "github:583231",
            "name": "octocat",
            "client_id": "client",
            "scope": "mcp",
            "resource": URL,
            "sid": SID,
            "lifetime": 3600,
            "now": int(time.time()),
        }
        return issue_access_token(self.keys, **{**claims, **changes})

    def verify(
        self, *authorization: str, name: str = "time", uri: str | None = "/mcp", method: str | None = "POST"
    ) -> Answer:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("the body is never read")

        headers = [(b"authorization", value.encode("latin-1")) for value in authorization]
        forwarded = {b"x-forwarded-method": method, b"x-forwarded-uri": uri}
        headers += [(header, value.encode("latin-1")) for header, value in forwarded.items() if value is not None]
        scope = {"path": f"/verify/{name}", "headers": headers}
        self.runner.run(self.verifier(scope, receive, send))
        headers_sent = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], headers_sent, sent[1].get("body", b""))


def forged(token: str) -> str:
    """Return the token with another signature."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


@pytest.fixture
def forward_auth(tmp_path: Path, redis_server: RedisServer, redis_url: str) -> Iterator[VerifyClient]:
    forward_auth = VerifyClient(tmp_path, redis_server)
    yield forward_auth
    forward_auth.runner.run(forward_auth.watch.close())
    forward_auth.runner.close()


def test_a_good_token_passes_with_the_identity_that_the_bridge_believes(forward_auth: VerifyClient) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token()}")
    assert answer.status == 200
    identity = AssertionVerifier(derive_identity_key(CREDENTIALS, "time"), now=time.time).identify(
        answer.headers["x-gateway-identity"]
    )
    assert (identity.user, identity.grant) == ("github:583231", SID)
    plain = {name: answer.headers[name] for name in ("x-user-id", "x-user-name", "x-client-id", "x-scopes")}
    assert plain == {
        "x-user-id": "github:583231",
        "x-user-name": "octocat",
        "x-client-id": "client",
        "x-scopes": "mcp",
    }
    assert "authorization" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD", "OPTIONS"])
def test_the_methods_of_mcp_and_of_browsers_pass(forward_auth: VerifyClient, method: str) -> None:
    assert forward_auth.verify(f"Bearer {forward_auth.token()}", method=method).status == 200


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "PROPFIND", "PUT", "PATCH", "CONNECT", "get", "trace", "X", ""])
def test_no_other_method_passes(forward_auth: VerifyClient, method: str) -> None:
    """A server that answers TRACE would send the client the headers that the gateway adds."""
    token = f"Bearer {forward_auth.token()}"
    assert forward_auth.verify(token).status == 200  # the token is remembered now
    for answer in (forward_auth.verify(token, method=method), forward_auth.verify(method=method)):
        assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS, POST")
        assert not {"authorization", "x-gateway-identity"} & set(answer.headers)
    assert forward_auth.verifier.outcomes["time"]["method_not_allowed"] == 2


@pytest.mark.parametrize("missing", [{"method": None}, {"uri": None}, {"method": None, "uri": None}])
def test_no_token_passes_without_the_method_and_url_that_the_router_adds(
    forward_auth: VerifyClient, missing: dict[str, Any]
) -> None:
    token = f"Bearer {forward_auth.token()}"
    assert forward_auth.verify(token).status == 200  # the token is remembered now
    answer = forward_auth.verify(token, **missing)
    assert answer.status == 400
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]
    assert not {"authorization", "x-gateway-identity"} & set(answer.headers)
    assert forward_auth.verifier.outcomes["time"]["malformed_request"] == 1
    assert forward_auth.verify(**missing).status == 401, "without a token it is refused in any case"


@pytest.mark.parametrize(
    ("scope", "held", "grantable"),
    [
        ("mcp", {"mcp"}, {"write"}),
        ("mcp write", {"mcp", "write"}, set()),
        # Of a scope that the operator has taken away, or of another server, nothing follows.
        ("mcp gone", {"mcp", "gone"}, {"write"}),
    ],
)
def test_the_bridge_is_told_which_scopes_the_user_has_and_can_still_be_granted(
    forward_auth: VerifyClient, scope: str, held: set[str], grantable: set[str]
) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token(scope=scope)}")
    identity = AssertionVerifier(derive_identity_key(CREDENTIALS, "time"), now=time.time).identify(
        answer.headers["x-gateway-identity"]
    )
    assert (set(identity.scopes), set(identity.grantable)) == (held, grantable)


@pytest.mark.parametrize(
    ("scope", "claim", "grantable"),
    [
        ("mcp", "write", {"read", "write"}),
        ("mcp write", "", {"read"}),
        ("mcp", "write admin", {"read", "write", "admin"}),
        ("mcp", "", {"read"}),
        ("mcp admin", "admin", {"read"}),
        # What this server does not have, or no longer has.
        ("mcp", "gone write", {"read", "write"}),
        ("mcp read", "gone", set()),
    ],
)
def test_a_scope_with_an_allow_list_is_grantable_only_if_the_token_says_so(
    forward_auth: VerifyClient, scope: str, claim: str, grantable: set[str]
) -> None:
    token = forward_auth.token(scope=scope, grantable_scope=claim, resource=TRACKER_URL)
    answer = forward_auth.verify(f"Bearer {token}", name="tracker")
    identity = AssertionVerifier(derive_identity_key(CREDENTIALS, "tracker"), now=time.time).identify(
        answer.headers["x-gateway-identity"]
    )
    assert set(identity.scopes) == set(scope.split())
    assert set(identity.grantable) == grantable


@pytest.mark.parametrize("sub", ["client:nightly", "workload:ci:repo:acme/app"])
def test_a_machine_can_be_granted_nothing_beyond_its_declaration(forward_auth: VerifyClient, sub: str) -> None:
    token = forward_auth.token(sub=sub, scope="mcp read", resource=TRACKER_URL)
    answer = forward_auth.verify(f"Bearer {token}", name="tracker")
    identity = AssertionVerifier(derive_identity_key(CREDENTIALS, "tracker"), now=time.time).identify(
        answer.headers["x-gateway-identity"]
    )
    assert (identity.user, set(identity.scopes)) == (sub, {"mcp", "read"})
    assert set(identity.grantable) == set()


def test_a_token_with_a_malformed_claim_is_refused(forward_auth: VerifyClient) -> None:
    token = forward_auth.token(grantable_scope=["write"])
    assert forward_auth.verify(f"Bearer {token}").status == 401


def test_another_servers_bridge_does_not_believe_it(forward_auth: VerifyClient) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token()}")
    wiki = AssertionVerifier(derive_identity_key(CREDENTIALS, "wiki"), now=time.time)
    with pytest.raises(HttpError, match="does not verify"):
        wiki.identify(answer.headers["x-gateway-identity"])


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_has_no_case(forward_auth: VerifyClient, scheme: str) -> None:
    assert forward_auth.verify(f"{scheme} {forward_auth.token()}").status == 200


@pytest.mark.parametrize("authorization", [(), ("Basic eDp5",), ("",)])
def test_without_a_bearer_token_the_challenge_names_no_error(
    forward_auth: VerifyClient, authorization: tuple[str, ...]
) -> None:
    answer = forward_auth.verify(*authorization)
    assert answer.status == 401
    metadata = "https://time.mcp.example.com/.well-known/oauth-protected-resource/mcp"
    assert answer.headers["www-authenticate"] == f'Bearer resource_metadata="{metadata}", scope="mcp"'


def test_a_token_of_another_resource_is_invalid(forward_auth: VerifyClient) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token()}", name="wiki")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "changes", [{"lifetime": -1}, {"issuer": "https://evil.example"}, {"sid": "no-grant"}, {"now": 4102444800}]
)
def test_an_expired_foreign_future_or_revoked_token_is_invalid(
    forward_auth: VerifyClient, changes: dict[str, Any]
) -> None:
    assert forward_auth.verify(f"Bearer {forward_auth.token(**changes)}").status == 401


def test_too_little_scope_names_what_is_needed(forward_auth: VerifyClient) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token(scope='other')}")
    assert answer.status == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert 'scope="mcp"' in answer.headers["www-authenticate"]


def test_a_step_up_keeps_what_the_token_had(forward_auth: VerifyClient) -> None:
    answer = forward_auth.verify(f"Bearer {forward_auth.token(scope='write other')}")
    assert answer.status == 403
    assert 'scope="mcp write"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("token", ["", "a b", "é", "a" * (MAX_TOKEN_BYTES + 1), 'x"y'])
def test_text_that_is_no_token_is_malformed(forward_auth: VerifyClient, token: str) -> None:
    assert forward_auth.verify(f"Bearer {token}").status == 400


def test_two_tokens_are_malformed_even_if_both_are_good(forward_auth: VerifyClient) -> None:
    good = f"Bearer {forward_auth.token()}"
    assert forward_auth.verify(good, good).status == 400


@pytest.mark.parametrize(
    "uri", ["/mcp?access_token=x", "/mcp/%2e%2e/x", "/mcp%2fx", "/mcp/..", "/mcp;x", "/mcp//x", "/mcp%00"]
)
def test_a_token_in_the_query_and_an_ambiguous_path_are_malformed(forward_auth: VerifyClient, uri: str) -> None:
    assert forward_auth.verify(f"Bearer {forward_auth.token()}", uri=uri).status == 400


@pytest.mark.parametrize("uri", ["/mcp?" + "x" * MAX_URI_BYTES, "/mcp?" + "&" * 1_000_000])
def test_a_url_that_is_too_long_is_refused_unread(forward_auth: VerifyClient, uri: str) -> None:
    assert forward_auth.verify(f"Bearer {forward_auth.token()}", uri=uri).status == 414
    assert forward_auth.verify(f"Bearer {forward_auth.token()}", uri=uri[:MAX_URI_BYTES]).status == 200


def test_every_refusal_has_a_json_rpc_error_that_names_its_status(forward_auth: VerifyClient, tmp_path: Path) -> None:
    good = f"Bearer {forward_auth.token()}"
    answers = {
        401: [forward_auth.verify(), forward_auth.verify("Bearer x"), forward_auth.verify("Basic eDp5")],
        403: [forward_auth.verify(f"Bearer {forward_auth.token(scope='other')}")],
        400: [
            forward_auth.verify("Bearer a b"),
            forward_auth.verify(good, good),
            forward_auth.verify(good, uri="/mcp/.."),
        ],
        414: [forward_auth.verify(good, uri="/" + "x" * MAX_URI_BYTES)],
    }
    forward_auth.verifier = Verifier(
        forward_auth.settings,
        CREDENTIALS,
        forward_auth.keys,
        GrantWatch(f"unix://{tmp_path / 'absent.sock'}", Denials(tmp_path)),
    )
    answers[503] = [forward_auth.verify(good)]
    for status, refusals in answers.items():
        for answer in refusals:
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
            document = json.loads(answer.body)
            assert (document["jsonrpc"], document["id"], document["error"]["code"]) == ("2.0", None, -32000)
            assert document["error"]["message"].startswith(f"{status} ")


def test_a_revoked_grant_is_refused_at_the_next_request(forward_auth: VerifyClient) -> None:
    authorization = f"Bearer {forward_auth.token()}"
    assert forward_auth.verify(authorization).status == 200
    with forward_auth.server.client() as redis:
        redis.delete(GRANT_PREFIX + SID)
    assert forward_auth.verify(authorization).status == 401


def test_a_remembered_token_still_expires(forward_auth: VerifyClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        authorization = f"Bearer {forward_auth.token(lifetime=20)}"
        assert forward_auth.verify(authorization).status == 200
        clock.shift(19)
        assert forward_auth.verify(authorization).status == 200
        clock.shift(1)
        assert forward_auth.verify(authorization).status == 401


def test_without_redis_nobody_passes(tmp_path: Path, forward_auth: VerifyClient) -> None:
    nowhere = GrantWatch(f"unix://{tmp_path / 'absent.sock'}", Denials(tmp_path))
    forward_auth.verifier = Verifier(forward_auth.settings, CREDENTIALS, forward_auth.keys, nowhere)
    answer = forward_auth.verify(f"Bearer {forward_auth.token()}")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0


def test_a_flood_of_bad_tokens_is_not_remembered(forward_auth: VerifyClient) -> None:
    for number in range(50):
        assert forward_auth.verify(f"Bearer bad{number}").status == 401
    assert len(forward_auth.verifier.cache) == 0


def test_the_number_of_remembered_tokens_is_limited(
    forward_auth: VerifyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "MAX_FORGERIES", 3)
    monkeypatch.setattr(token_cache, "MAX_TOKENS", 3)
    for _ in range(6):
        good = forward_auth.token()
        assert forward_auth.verify(f"Bearer {good}").status == 200
        assert forward_auth.verify(f"Bearer {forged(good)}").status == 401
    assert forward_auth.verifier.cache.forgeries == 3
    assert len(forward_auth.verifier.cache) == 3


def test_a_token_is_remembered_once_however_its_header_is_written(forward_auth: VerifyClient) -> None:
    token = forward_auth.token()
    for authorization in (f"Bearer {token}", f"bearer {token}", f"BEARER   {token}", f"Bearer{' ' * 900}{token}"):
        for _ in range(2):
            assert forward_auth.verify(authorization).status == 200
    assert len(forward_auth.verifier.cache) == 1


@pytest.mark.parametrize(
    "spell",
    [
        lambda signature: signature + "==",
        lambda signature: signature[:40] + "~" + signature[40:],
        lambda signature: signature.replace("-", "+").replace("_", "/") if set("-_") & set(signature) else "~",
        lambda signature: signature[:-1] + chr(ord(signature[-1]) + 1),
    ],
)
def test_a_signature_is_taken_in_one_spelling_only(forward_auth: VerifyClient, spell: Callable[[str], str]) -> None:
    token = forward_auth.token()
    head, _, signature = token.rpartition(".")
    assert forward_auth.verify(f"Bearer {token}").status == 200
    answer = forward_auth.verify(f"Bearer {head}.{spell(signature)}")
    assert (answer.status, 'error="invalid_token"' in answer.headers["www-authenticate"]) == (401, True)
    assert len(forward_auth.verifier.cache) == 1


def test_a_forged_signature_is_checked_once(forward_auth: VerifyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    authorization = f"Bearer {forged(forward_auth.token())}"
    assert forward_auth.verify(authorization).status == 401
    monkeypatch.setattr(endpoint, "verify_access_token", None)
    assert forward_auth.verify(authorization).status == 401


def test_a_token_that_was_refused_before_its_key_was_there_is_good_with_it(
    forward_auth: VerifyClient, tmp_path: Path
) -> None:
    authorization = f"Bearer {forward_auth.token()}"
    (key,) = tmp_path.glob("*.pem")
    newer = create_key_file(tmp_path, CREDENTIALS, activation=4102444800)
    hidden = key.rename(tmp_path / "hidden")
    assert forward_auth.verify(authorization).status == 401
    hidden.rename(key)
    assert forward_auth.verify(authorization).status == 200
    newer.unlink()


def test_a_token_of_a_key_that_was_taken_away_is_refused_once_its_answer_has_lapsed(
    forward_auth: VerifyClient, tmp_path: Path
) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        authorization = f"Bearer {forward_auth.token()}"
        assert forward_auth.verify(authorization).status == 200
        (key,) = tmp_path.glob("*.pem")
        create_key_file(tmp_path, CREDENTIALS, activation=1_800_000_001)
        key.unlink()
        clock.shift(REFRESH_SECONDS)
        assert forward_auth.verify(authorization).status == 401


def test_the_assertion_is_renewed_before_a_bridge_would_refuse_it(forward_auth: VerifyClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        authorization = f"Bearer {forward_auth.token()}"
        identity = AssertionVerifier(derive_identity_key(CREDENTIALS, "time"), now=time.time)
        for _ in range(8):
            assert identity.identify(forward_auth.verify(authorization).headers["x-gateway-identity"]).grant == SID
            clock.shift(REFRESH_SECONDS - 1)


def test_a_clock_that_is_set_back_makes_no_old_token_good(forward_auth: VerifyClient) -> None:
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        authorization = f"Bearer {forward_auth.token()}"
        assert forward_auth.verify(authorization).status == 200
        clock.shift(-3600)  # now it is from the future
        assert forward_auth.verify(authorization).status == 401


def test_an_unknown_resource_is_not_found(forward_auth: VerifyClient) -> None:
    assert forward_auth.verify(f"Bearer {forward_auth.token()}", name="nothing").status == 404


KNOWN_TOKEN = {"grant_ended", "insufficient_scope"}


def test_every_answer_is_counted_and_what_is_refused_written_down(
    forward_auth: VerifyClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "auth_service.ops.audit")
    good = f"Bearer {forward_auth.token()}"
    for authorization in (good, good, "Bearer bad", f"Bearer {forward_auth.token(scope='other')}", "Bearer a b"):
        forward_auth.verify(authorization)
    forward_auth.verify()
    forward_auth.verify(f"Bearer {forward_auth.token(resource='https://other.example.com/mcp')}")
    forward_auth.verify(f"Bearer {forward_auth.token(lifetime=-1)}")
    with forward_auth.server.client() as redis:
        redis.delete(GRANT_PREFIX + SID)
    forward_auth.verify(good)
    outcomes = {
        "passed": 2,
        "unknown_key": 1,
        "insufficient_scope": 1,
        "malformed_request": 1,
        "no_token": 1,
        "other_resource": 1,
        "expired": 1,
        "grant_ended": 1,
    }
    assert forward_auth.verifier.outcomes == {"time": outcomes, "wiki": {}, "tracker": {}}
    written = [json.loads(str(record.msg)) for record in caplog.records]
    assert {entry["event"] for entry in written} == {"verify.refused"}
    assert {entry["resource"] for entry in written} == {URL}
    assert {entry["reason"] for entry in written} == outcomes.keys() - {"passed", "no_token"}
    known = {"grant": SID, "user": "github:583231", "client": "client"}
    assert all(known.items() <= entry.items() for entry in written if entry["reason"] in KNOWN_TOKEN)
    assert not any(known.keys() & entry.keys() for entry in written if entry["reason"] not in KNOWN_TOKEN)


def test_a_backend_gets_the_gateways_own_token_and_no_other_backend_does(forward_auth: VerifyClient) -> None:
    own = forward_auth.verify(f"Bearer {forward_auth.token(resource=TRACKER_URL)}", name="tracker")
    assert own.status == 200
    assert own.headers["authorization"] == f"Bearer {OWN_TOKEN}"
    other = forward_auth.verify(f"Bearer {forward_auth.token()}")
    assert other.status == 200
    assert "authorization" not in other.headers


@pytest.mark.parametrize("scope", ["", "read"])
def test_a_refused_request_is_told_nothing_of_the_gateways_own_token(forward_auth: VerifyClient, scope: str) -> None:
    refused = [
        forward_auth.verify(name="tracker"),
        forward_auth.verify("Bearer forged", name="tracker"),
        forward_auth.verify(f"Bearer {forward_auth.token()}", name="tracker"),
        forward_auth.verify(f"Bearer {forward_auth.token(resource=TRACKER_URL, scope=scope)}", name="tracker"),
    ]
    for answer in refused:
        assert answer.status in (401, 403)
        assert "authorization" not in answer.headers
        assert OWN_TOKEN not in str(answer)
