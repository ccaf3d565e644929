"""Dynamic client registration (RFC 7591), and a client's management of its own registration (RFC 7592)."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import Any

from flask import Response, jsonify, make_response, request
from werkzeug.exceptions import BadRequest

from auth_service.app.composition import Parts
from auth_service.ops.audit import Event
from auth_service.protocol import clients
from auth_service.protocol.clients import Client, ClientMetadata
from auth_service.protocol.errors import OAuthError

from . import Endpoints, allow_any_origin, client_address, forbid_storing, note, record

QUOTA_SECONDS = 3600

blueprint = Endpoints("registration", __name__)
blueprint.after_request(allow_any_origin)


@blueprint.post("/register")
def register(parts: Parts) -> Response:
    """Register a client (RFC 7591 §3). Raises TooManyRequests if its address has used up its quota."""
    metadata = _parse_metadata(parts, _parse_body())
    parts.store.quotas.take(
        "registrations",
        client_address(parts),
        limit=parts.settings.limits.registrations_per_hour,
        window=QUOTA_SECONDS,
    )
    has_secret = metadata.token_endpoint_auth_method.startswith("client_secret_")
    secret = secrets.token_urlsafe(32) if has_secret else None
    registration_token = secrets.token_urlsafe(32)
    client = Client(
        client_id=clients.GENERATED_ID_PREFIX + secrets.token_urlsafe(16),
        metadata=metadata,
        secret_hash=clients.hash_secret(secret) if secret else None,
        registration_token_hash=clients.hash_secret(registration_token),
        issued_at=int(time.time()),
    )
    parts.store.clients.add(client)
    record(Event.CLIENT_REGISTERED, client=client.client_id, name=client.name)
    return _respond(parts, client, registration_token=registration_token, secret=secret, status=201)


@blueprint.get("/register/<client_id>")
def read(parts: Parts, client_id: str) -> Response:
    """Return a client its registration (RFC 7592 §2.1), without its secret, of which only the hash is stored."""
    client, registration_token = _authenticate(parts, client_id)
    return _respond(parts, client, registration_token=registration_token)


@blueprint.put("/register/<client_id>")
def update(parts: Parts, client_id: str) -> Response:
    """Replace a client's metadata (RFC 7592 §2.2), by the rules of registration."""
    client, registration_token = _authenticate(parts, client_id)
    document = _parse_body()
    if document.get("client_id") != client_id:
        raise OAuthError("invalid_client_metadata", "client_id must be that of this registration")
    unverified_secret = document.get("client_secret")
    if unverified_secret is not None and not (
        isinstance(unverified_secret, str) and client.check_client_secret(unverified_secret)
    ):
        raise OAuthError("invalid_client_metadata", "client_secret must be the current one")
    # Without the member, the method stays as it is (RFC 7592 §2.2).
    method = document.get("token_endpoint_auth_method") or client.auth_method
    metadata = _parse_metadata(parts, {**document, "token_endpoint_auth_method": method})
    if metadata.token_endpoint_auth_method != client.auth_method:
        raise OAuthError("invalid_client_metadata", "token_endpoint_auth_method cannot be changed: register again")
    updated = dataclasses.replace(client, metadata=metadata)
    parts.store.clients.update(updated)
    record(Event.CLIENT_UPDATED, name=updated.name)
    return _respond(parts, updated, registration_token=registration_token)


@blueprint.delete("/register/<client_id>")
def delete(parts: Parts, client_id: str) -> Response:
    """Remove a client and end all its grants (RFC 7592 §2.3)."""
    client, _ = _authenticate(parts, client_id)
    parts.revocation.remove_client(client.client_id, by="client")
    return make_response("", 204)


def _parse_body() -> dict[str, Any]:
    media_type = request.mimetype
    if media_type not in {"", "application/json"}:
        text = f"send the metadata as application/json, not as {media_type[:100]}"
        raise OAuthError("invalid_client_metadata", text)
    try:
        document = request.get_json(force=True)  # without a type it can be nothing else
    except (BadRequest, RecursionError) as error:
        raise OAuthError("invalid_client_metadata", "the body must be a JSON object") from error
    if not isinstance(document, dict):
        raise OAuthError("invalid_client_metadata", "the body must be a JSON object")
    return document


def _parse_metadata(parts: Parts, document: dict[str, Any]) -> ClientMetadata:
    supported = {scope for resource in parts.settings.resources.values() for scope in resource.scopes}
    return clients.with_known_scopes(
        clients.parse_metadata(document, apps=parts.settings.clients.redirect_schemes), supported=supported
    )


def _authenticate(parts: Parts, client_id: str) -> tuple[Client, str]:
    """Return the client whose registration token the request has. Raises OAuthError with 401 (RFC 7592 §2)."""
    note(client=client_id)
    # Werkzeug fails on HTTP Basic that is not ASCII.
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    unverified_token = token.strip() if scheme.lower() == "bearer" else None
    client = parts.store.clients.find(client_id)
    if unverified_token is None or client is None or not client.check_registration_token(unverified_token):
        raise OAuthError("invalid_token", "the registration access token is not this client's", status=401)
    return client, unverified_token


def _respond(
    parts: Parts, client: Client, *, registration_token: str, secret: str | None = None, status: int = 200
) -> Response:
    uri = f"{parts.settings.issuer}/register/{client.client_id}"
    body = clients.information_response(client, registration_uri=uri)
    body["registration_access_token"] = registration_token
    if secret is not None:
        body["client_secret"] = secret
    return forbid_storing(make_response(jsonify(body), status))
