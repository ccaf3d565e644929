"""The token, revocation and introspection endpoints."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, jsonify, request

from auth_service.app.composition import Parts
from auth_service.keys.access_tokens import InvalidTokenError, verify_access_token
from auth_service.oauth.client_authentication import parse_basic
from auth_service.oauth.server import FormRequest
from auth_service.protocol.errors import OAuthError

from . import Endpoints, allow_any_origin, body_parameters, client_address, forbid_storing, note

blueprint = Endpoints("token", __name__)
blueprint.after_request(allow_any_origin)


@blueprint.after_request
def _forbid_storing(response: Response) -> Response:
    response.headers["Pragma"] = "no-cache"
    return forbid_storing(response)


@blueprint.post("/token")
def token(parts: Parts) -> Response:
    """Redeem a code or a refresh token (RFC 6749 §3.2)."""
    form = _parse_form(parts)
    _count(parts, form)
    if "grant_type" not in form.form:
        raise OAuthError(
            "invalid_request",
            "grant_type is missing: send the parameters in the body, as application/x-www-form-urlencoded",
        )
    return jsonify(parts.server.create_token_response(form))


@blueprint.post("/revoke")
def revoke(parts: Parts) -> Response:
    """End the grant of a token of this client (RFC 7009). The answer for any other token is the same."""
    form = _parse_form(parts)
    server = parts.server
    client = server.authenticate_client(form, [])
    unverified_token = form.form.get("token")
    if unverified_token is None:
        raise OAuthError("invalid_request", "token is missing")
    sid = _find_sid(parts, unverified_token)
    grant = parts.store.grants.find(sid) if sid else None
    if grant is not None and grant.client_id == client.client_id:
        parts.revocation.revoke_grant(grant.sid, by="client", reason="the client revoked one of its tokens")
    return jsonify({})


@blueprint.post("/introspect")
def introspect(parts: Parts) -> Response:
    """Describe a token to its confidential client or its resource's server (RFC 7662)."""
    form = _parse_form(parts)
    return jsonify(parts.introspection.answer(form.form, authorization=request.headers.get("Authorization")))


def _parse_form(parts: Parts) -> FormRequest:
    form = body_parameters()
    note(client=form.get("client_id"), resource=form.get("resource"))
    note(client=_claimed_client(form))
    return FormRequest(
        f"{parts.settings.issuer}{request.path}", form, authorization=request.headers.get("Authorization")
    )


def _claimed_client(form: Mapping[str, str]) -> str | None:
    """Return the client that the request names. Raises OAuthError if its HTTP Basic header is malformed."""
    basic = parse_basic(request.headers.get("Authorization"))
    return form.get("client_id", basic[0] if basic is not None else None)


def _count(parts: Parts, form: FormRequest) -> None:
    """Count the request against the quota of this client at this address. Raises TooManyRequests."""
    holder = f"{client_address(parts)} {_claimed_client(form.form)}"
    limit = parts.settings.limits.token_requests_per_minute
    parts.store.quotas.take("token", holder, limit=limit, window=60)


def _find_sid(parts: Parts, unverified_token: str) -> str | None:
    """Return the grant id of an access token or refresh token that this service issued."""
    if (parsed := parts.server.parse_refresh_token(unverified_token)) is not None:
        return parsed[0]
    settings = parts.settings
    try:
        claims = verify_access_token(
            parts.signing_keys,
            unverified_token,
            issuer=settings.issuer,
            resources=[resource.url for resource in settings.resources.values()],
        )
    except InvalidTokenError:
        return None
    return claims.sid
