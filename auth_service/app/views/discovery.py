"""The metadata documents and the public keys."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlsplit

from flask import Blueprint, Response, abort, jsonify, request

from auth_service.app.composition import Parts
from auth_service.protocol import metadata
from auth_service.protocol.errors import ServiceUnavailable

from . import allow_any_origin


def make_blueprint(parts: Parts) -> Blueprint:
    """Make the routes of all documents, whose paths follow from the settings.

    Every host serves the authorization server's metadata: clients of MCP 2025-03-26 look for it at the root of the MCP
    server's host.
    """
    settings = parts.settings
    blueprint = Blueprint("discovery", __name__)
    blueprint.after_request(allow_any_origin)
    scopes = list(dict.fromkeys(scope for resource in settings.resources.values() for scope in resource.scopes))
    locations = metadata.protected_resource_locations(
        {name: resource.url for name, resource in settings.resources.items()}
    )

    def has_machines() -> bool:
        if any(client.servers for client in settings.declared_clients.values()):
            return True
        with suppress(ServiceUnavailable):  # the documents are there without Redis
            return any(each.declared.servers for each in parts.store.created_clients.find_all())
        return False

    def authorization_server() -> Response:
        document = metadata.authorization_server(
            settings.issuer,
            scopes=scopes,
            client_documents=parts.probe.works,
            machines=has_machines(),
            workloads=bool(settings.trusted_issuers),
            user_assertions=settings.accepts_user_assertions,
        )
        # Whether client documents work may change.
        return _cacheable(jsonify(document), seconds=60)

    def protected_resource() -> Response:
        name = metadata.find_protected_resource(locations, host=request.host, path=request.path)
        if name is None:
            abort(404)
        resource = settings.resources[name]
        document = metadata.protected_resource(
            resource.url, issuer=settings.issuer, title=resource.title or name, scopes=list(resource.scopes)
        )
        return _cacheable(jsonify(document))

    def jwks() -> Response:
        return _cacheable(jsonify(parts.signing_keys.jwks()))

    for path in metadata.authorization_server_paths(settings.issuer):
        blueprint.add_url_rule(path, view_func=authorization_server)
    for path in sorted({path for _, path in locations}):
        blueprint.add_url_rule(path, view_func=protected_resource)
    blueprint.add_url_rule(f"{urlsplit(settings.issuer).path}/jwks", view_func=jwks)
    return blueprint


def _cacheable(response: Response, *, seconds: int = 300) -> Response:
    response.headers["Cache-Control"] = f"public, max-age={seconds}"
    return response
