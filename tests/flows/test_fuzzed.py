"""Every endpoint with arbitrary text in its parameters never answers 5xx."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from .conftest import ISSUER, REDIRECT, RESOURCE, OAuthTestClient

EXAMPLES = 25
TEXT = {"type": "string"}
URL = {"type": "string", "format": "uri"}
AUTHORIZATION = {
    **dict.fromkeys(("client_id", "state", "scope", "code_challenge", "request", "request_uri"), TEXT),
    "redirect_uri": {"enum": [REDIRECT, "javascript:1", "https://evil.example/"]},
    "response_type": {"enum": ["code", "token", "code token"]},
    "response_mode": {"enum": ["query", "fragment", "form_post"]},
    "code_challenge_method": {"enum": ["S256", "plain"]},
    "resource": {"enum": [RESOURCE, "https://fetch.example.com/mcp", "https://evil.example/mcp"]},
    "prompt": TEXT,
}
CLIENT = dict.fromkeys(("client_id", "client_secret", "client_assertion", "client_assertion_type"), TEXT)
TOKEN = {
    **CLIENT,
    **dict.fromkeys(("code", "code_verifier", "redirect_uri", "refresh_token", "resource", "scope"), TEXT),
    "grant_type": {"enum": ["authorization_code", "refresh_token", "client_credentials", "password"]},
}
ABOUT_A_TOKEN = {**CLIENT, "token": TEXT, "token_type_hint": {"enum": ["access_token", "refresh_token"]}}
METADATA = {
    "redirect_uris": {"type": "array", "items": URL},
    "token_endpoint_auth_method": {"enum": ["none", "client_secret_post", "client_secret_basic", "private_key_jwt"]},
    "grant_types": {"type": "array", "items": TEXT},
    "response_types": {"type": "array", "items": TEXT},
    "jwks": {"type": "object"},
    "contacts": {"type": "array", "items": TEXT},
    **dict.fromkeys(("client_name", "scope", "software_id", "application_type"), TEXT),
    **dict.fromkeys(("client_uri", "logo_uri", "tos_uri", "policy_uri", "jwks_uri"), URL),
}
QUERIES: dict[str, dict[str, Any]] = {
    "/authorize": AUTHORIZATION,
    "/callback": dict.fromkeys(("code", "state", "error", "iss"), TEXT),
    "/provide": {"login": TEXT},
    "/account": dict.fromkeys(("error", "next"), TEXT),
}
FORMS: dict[str, dict[str, Any]] = {
    "/token": TOKEN,
    "/revoke": ABOUT_A_TOKEN,
    "/introspect": ABOUT_A_TOKEN,
    "/consent": dict.fromkeys(("ticket", "decision"), TEXT),
    "/provide": dict.fromkeys(("ticket", "decision", "connect", "value:TOKEN"), TEXT),
}
DOCUMENTS: dict[str, dict[str, Any]] = {"/register": METADATA, "/register/{client_id}": {**METADATA, "client_id": TEXT}}


def describe(oauth: OAuthTestClient) -> dict[str, Any]:
    """Return an OpenAPI description of every route that the service has."""
    paths: dict[str, dict[str, Any]] = {}
    for rule in oauth.app.url_map.iter_rules():
        if rule.rule.startswith("/refusals/"):
            continue  # answers with the status that it is asked for
        path = rule.rule.replace("<", "{").replace(">", "}")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = _operation(path, method, rule.arguments)
    return {"openapi": "3.0.3", "info": {"title": "auth service", "version": "1"}, "paths": paths}


def _operation(path: str, method: str, arguments: Iterable[str]) -> dict[str, Any]:
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in arguments]
    parameters += [{"name": "Authorization", "in": "header", "schema": TEXT}]
    if method == "GET":
        parameters += [
            {"name": name, "in": "query", "schema": schema} for name, schema in QUERIES.get(path, {}).items()
        ]
    operation: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "any"}}}
    if method in {"POST", "PUT"}:
        kind = "application/json" if path in DOCUMENTS else "application/x-www-form-urlencoded"
        properties = DOCUMENTS.get(path) or FORMS.get(path, {"csrf": TEXT, "grant": TEXT, "ticket": TEXT})
        schema = {"type": "object", "properties": properties}
        operation["requestBody"] = {"content": {kind: {"schema": schema}}}
    return operation


def _encoded(form: Any) -> bytes | str | None:
    return urlencode(form, doseq=True, errors="surrogatepass") if isinstance(form, dict | list) else form


def test_no_input_makes_it_fail(oauth: OAuthTestClient) -> None:
    schema = schemathesis.openapi.from_dict(describe(oauth))
    client = oauth.app.test_client()
    tried: set[str] = set()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        tried.add(operation.label)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        def ask(case: Any) -> None:
            request = case.as_transport_kwargs(base_url=ISSUER)
            response = client.open(
                case.formatted_path,
                method=case.method,
                base_url=ISSUER,
                query_string=request.get("params") or {},
                headers={name: str(value) for name, value in (case.headers or {}).items() if str(value).isprintable()},
                json=request.get("json"),
                data=_encoded(request.get("data")),
                content_type=None if request.get("json") is not None else "application/x-www-form-urlencoded",
            )
            response.close()
            assert response.status_code < 500, (case.method, case.formatted_path, response.status_code)

        ask()
    assert {"GET /authorize", "POST /token", "POST /register", "DELETE /register/{client_id}"} <= tried
