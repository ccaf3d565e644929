"""Dynamic client registration (RFC 7591)."""

from __future__ import annotations

import secrets
import time

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest

from auth_service.errors import OAuthError
from auth_service.protocol import clients
from auth_service.protocol.clients import Client

from . import allow_any_origin, gateway

blueprint = Blueprint("registration", __name__)
blueprint.after_request(allow_any_origin)


@blueprint.post("/register")
def register() -> tuple[Response, int]:
    """Register a client. The answer is the only time its secrets are shown."""
    try:
        document = request.get_json()
    except BadRequest as error:
        raise OAuthError("invalid_client_metadata", "the body must be a JSON object") from error
    metadata = clients.parse_metadata(document)
    is_public = metadata.token_endpoint_auth_method == "none"  # noqa: S105 -- the method's name
    secret = None if is_public else secrets.token_urlsafe(32)
    registration_token = secrets.token_urlsafe(32)
    client = Client(
        client_id=clients.GENERATED_ID_PREFIX + secrets.token_urlsafe(16),
        metadata=metadata,
        secret_hash=clients.hash_secret(secret) if secret else None,
        registration_token_hash=clients.hash_secret(registration_token),
        issued_at=int(time.time()),
    )
    gateway().store.add_client(client)
    body = clients.information_response(
        client, registration_uri=f"{gateway().settings.issuer}/register/{client.client_id}"
    )
    body["registration_access_token"] = registration_token
    if secret is not None:
        body["client_secret"] = secret
    response = jsonify(body)
    response.headers["Cache-Control"] = "no-store"
    return response, 201
