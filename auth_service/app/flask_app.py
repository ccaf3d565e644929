"""The Flask application: all public endpoints except those of MCP servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask

from auth_service.protocol.parameters import MAX_BODY_BYTES

from .composition import Parts
from .views import (
    account,
    authorize,
    callback,
    connections,
    credential_delivery,
    discovery,
    error_handlers,
    home,
    hosts,
    provide,
    registration,
    router_refusals,
    token,
)
from .views.pages import ExactResponse


def create_app(parts: Parts) -> Flask:
    """Build the application from these parts."""
    app = Flask(__name__, static_folder=None, template_folder="views/templates")
    app.response_class = ExactResponse
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    app.extensions["gateway"] = parts
    path = urlsplit(parts.settings.issuer).path
    app.register_blueprint(discovery.make_blueprint(parts))
    app.register_blueprint(router_refusals.blueprint)
    app.register_blueprint(credential_delivery.blueprint)
    if parts.settings.home_page.enabled:
        app.register_blueprint(home.blueprint, url_prefix=path)
        app.register_blueprint(home.visits)
    for blueprint in (
        account.blueprint,
        authorize.blueprint,
        callback.blueprint,
        connections.blueprint,
        provide.blueprint,
        registration.blueprint,
        token.blueprint,
    ):
        app.register_blueprint(blueprint, url_prefix=path)
    hosts.serve_at_root(app, path)
    error_handlers.register(app, parts)
    return app
