"""The authorization server of the gateway: OAuth 2.1 for MCP clients, login at an identity provider."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask

from auth_service.app.views.pages import ExactResponse
from auth_service.idp import IdentityProvider
from auth_service.idp.bounded import BoundedProvider
from auth_service.idp.github import GitHubProvider
from auth_service.idp.oidc import OidcProvider
from auth_service.keys.tokens import SigningKeys
from auth_service.oauth.client_lookup import Clients
from auth_service.oauth.document_probe import DocumentProbe
from auth_service.oauth.introspection import Introspection
from auth_service.oauth.safe_fetch import SafeFetcher, make_fetcher
from auth_service.oauth.server import AuthorizationServer
from auth_service.oauth.user_access import UserAccess
from auth_service.protocol.parameters import MAX_BODY_BYTES
from auth_service.settings import Credentials, OpenIDConnect, Settings
from auth_service.storage.store import Store

from .views import (
    Gateway,
    account,
    authorize,
    callback,
    client_address,
    discovery,
    errors,
    hosts,
    refusals,
    registration,
    token,
)


def create_app(
    settings: Settings,
    credentials: Credentials,
    store: Store,
    keys: SigningKeys,
    *,
    fetcher: SafeFetcher | None = None,
    probe: DocumentProbe | None = None,
) -> Flask:
    """Build the WSGI application that serves everything public but the MCP endpoints themselves.

    `fetcher` gets clients' documents, from the public internet unless given; `probe` knows whether they can be had.
    """
    fetcher = fetcher if fetcher is not None else make_fetcher(settings.client_documents)
    probe = probe if probe is not None else DocumentProbe(settings, store.connection, store.ephemeral, fetcher=fetcher)
    provider = BoundedProvider(_make_provider(settings, credentials))
    user_access = UserAccess(settings, store, provider, token_key=credentials.derive_key("upstream-token"))
    clients = Clients(
        store,
        documents=settings.client_documents,
        apps=settings.clients.redirect_schemes,
        fetcher=fetcher,
        probe=probe,
        requester=client_address,
    )
    server = AuthorizationServer(
        settings, store, keys, user_access, clients, refresh_key=credentials.derive_key("refresh-token")
    )
    app = Flask(__name__, static_folder=None, template_folder="views/templates")
    app.response_class = ExactResponse
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    app.extensions["gateway"] = Gateway(
        settings=settings,
        store=store,
        keys=keys,
        provider=provider,
        probe=probe,
        user_access=user_access,
        server=server,
        introspection=Introspection(settings, credentials, server),
        form_token_key=credentials.derive_key("ticket"),
        upstream_key=credentials.derive_key("upstream-verifier"),
    )
    path = urlsplit(settings.issuer).path
    app.register_blueprint(discovery.make_blueprint(settings))
    app.register_blueprint(refusals.blueprint)
    for blueprint in (
        account.blueprint,
        authorize.blueprint,
        callback.blueprint,
        registration.blueprint,
        token.blueprint,
    ):
        app.register_blueprint(blueprint, url_prefix=path)
    hosts.serve_at_root(app)
    errors.register(app)
    return app


def _make_provider(settings: Settings, credentials: Credentials) -> IdentityProvider:
    lists = [settings.allowed, *(each.allowed for each in settings.resources.values() if each.allowed)]
    callback_url = f"{settings.issuer}/callback"
    if isinstance(settings.identity_provider, OpenIDConnect):
        return OidcProvider(
            settings.identity_provider,
            client_secret=credentials.client_secret,
            callback_url=callback_url,
            groups=frozenset(name for each in lists for name in each.groups),
        )
    return GitHubProvider(
        settings.identity_provider,
        client_secret=credentials.client_secret,
        callback_url=callback_url,
        organizations=frozenset(name.lower() for each in lists for name in each.organizations),
        teams=frozenset(name.lower() for each in lists for name in each.teams),
    )
