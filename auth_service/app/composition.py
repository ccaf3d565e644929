"""Make the parts of the service from its settings, for workers and for `mcp-gatewayctl`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from auth_service.backends.revocation_notices import RevocationNotices
from auth_service.backends.server_states import ServerStates
from auth_service.idp.bounded import BoundedProvider
from auth_service.idp.github import GitHubProvider
from auth_service.idp.oidc import OidcProvider
from auth_service.keys.signing_key_rotation import KeyRotation
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.assertion_grant import AssertionGrant
from auth_service.oauth.authorization_requests import AuthorizationRequests
from auth_service.oauth.client_lookup import ClientLookup
from auth_service.oauth.connections import Connections
from auth_service.oauth.credential_changes import CredentialChanges
from auth_service.oauth.declared_clients import find_created, make_clients
from auth_service.oauth.document_probe import DocumentProbe
from auth_service.oauth.id_jag import UserAssertions
from auth_service.oauth.introspection import Introspection
from auth_service.oauth.revocation import Revocation
from auth_service.oauth.safe_fetch import SafeFetcher, make_fetcher
from auth_service.oauth.server import AuthorizationServer
from auth_service.oauth.settings_trust import SettingsTrust, make_trust
from auth_service.oauth.token_grants import TOKEN_GRANTS
from auth_service.oauth.user_access import UserAccess
from auth_service.oauth.workloads import Workloads
from auth_service.protocol.errors import ServiceUnavailable
from auth_service.settings import Credentials, OpenIDConnect, Settings
from auth_service.storage.denials import Denials
from auth_service.storage.store import Store
from auth_service.storage.user_credentials import UserCredentials

SIGNING_KEYS_DIRECTORY: Final = "signing-keys"


class Parts:
    """The parts, each of which is made once, when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        load_credentials: Callable[[], Credentials],
        *,
        redis_password: str | None,
        requester: Callable[[Parts], str] = lambda _parts: "",
    ) -> None:
        """Credentials are loaded when a part first needs them.

        `requester` returns the address by which the current request is counted.
        """
        self.settings = settings
        self._load_credentials = load_credentials
        self._redis_password = redis_password
        self._requester = requester

    @property
    def host(self) -> str:
        """The name of this service on its pages."""
        return urlsplit(self.settings.issuer).netloc

    @cached_property
    def credentials(self) -> Credentials:
        """The credentials. Raises SettingsError."""
        return self._load_credentials()

    @cached_property
    def form_token_key(self) -> bytes:
        """The key that signs form tokens."""
        return self.credentials.derive_key("ticket")

    @cached_property
    def provider_login_key(self) -> bytes:
        """The key from which the code verifiers of logins at the identity provider are derived."""
        return self.credentials.derive_key("upstream-verifier")

    # State

    @cached_property
    def denials(self) -> Denials:
        """The denied grants of this host."""
        return Denials(Path(self.settings.state_directory))

    @cached_property
    def store(self) -> Store:
        """Redis."""
        return Store(self.settings, password=self._redis_password, denials=self.denials)

    @cached_property
    def user_credentials(self) -> UserCredentials:
        """The users' own credentials."""
        return UserCredentials(
            self.store.redis,
            derive_key=self.credentials.derive_key,
            grant_lifetime=self.settings.lifetimes.refresh_token,
            sources={
                (name, variable): connection.source
                for name, resource in self.settings.resources.items()
                for variable, connection in resource.connections.items()
            },
        )

    @cached_property
    def connections(self) -> Connections:
        """The users' accounts at other services, which must be closed at the end."""
        return Connections(self.settings, self.credentials, self.user_credentials, self.store.locks)

    @cached_property
    def signing_keys(self) -> SigningKeys:
        """This host's keys. Each signature is noted for all hosts, so that no key is retired too early.

        Raises SigningKeyError.
        """
        keys = SigningKeys(Path(self.settings.state_directory) / SIGNING_KEYS_DIRECTORY, self.credentials)
        keys.on_sign = self._note_signature
        return keys

    def _note_signature(self, kid: str, until: int) -> None:
        self.rotation.note_signature(kid, until)

    @cached_property
    def rotation(self) -> KeyRotation:
        """The rotation of the keys of all hosts."""
        return KeyRotation(self.signing_keys, self.store.redis, self.settings.lifetimes)

    # Servers behind the gateway

    @cached_property
    def notices(self) -> RevocationNotices:
        """The revocation notices to bridges, which must be closed at the end."""
        return RevocationNotices(self.settings, self.credentials)

    @cached_property
    def server_states(self) -> ServerStates:
        """Whether the servers answer."""
        return ServerStates(self.settings.resources)

    @cached_property
    def revocation(self) -> Revocation:
        """The part that ends access."""
        return Revocation(
            self.store,
            grants_per_client=self.settings.limits.grants_per_client,
            notify=self.notices,
            after_last_grant={
                resource.url: partial(self._forget_user_at, name)
                for name, resource in self.settings.resources.items()
                if resource.user_credentials
            },
        )

    def _forget_user_at(self, resource_name: str, sub: str) -> None:
        """End what a user without a grant has at a server: processes at once, credentials after a while."""
        self.notices.end_processes(resource_name, sub)
        with contextlib.suppress(ServiceUnavailable):  # they end by themselves, only later
            self.user_credentials.end_soon(resource_name, sub)

    @cached_property
    def credential_changes(self) -> CredentialChanges:
        """The part that changes users' own credentials."""
        return CredentialChanges(
            self.settings,
            self.store,
            self.user_credentials,
            self.connections,
            revocation=self.revocation,
            end_processes=self.notices.end_processes,
        )

    # Users

    @cached_property
    def provider(self) -> BoundedProvider:
        """The identity provider."""
        return BoundedProvider(self._unbounded_provider)

    @cached_property
    def _unbounded_provider(self) -> GitHubProvider | OidcProvider:
        return _make_provider(self.settings, self.credentials)

    @cached_property
    def user_access(self) -> UserAccess:
        """The part that decides which users may use which server."""
        token_key = self.credentials.derive_key("upstream-token")
        return UserAccess(self.settings, self.store, self.provider, token_key=token_key)

    # Clients

    @cached_property
    def fetcher(self) -> SafeFetcher:
        """The fetcher of client documents."""
        return make_fetcher(self.settings.client_documents)

    @cached_property
    def probe(self) -> DocumentProbe:
        """The probe of client documents. It has a fetcher of its own, so that clients cannot occupy its places."""
        fetcher = make_fetcher(self.settings.client_documents)
        return DocumentProbe(self.settings, self.store.redis, self.store.locks, fetcher=fetcher)

    @cached_property
    def clients(self) -> ClientLookup:
        """The lookup of clients."""
        return ClientLookup(
            self.store,
            documents=self.settings.client_documents,
            apps=self.settings.clients.redirect_schemes,
            fetcher=self.fetcher,
            probe=self.probe,
            requester=partial(self._requester, self),
            declared=make_clients(self.settings, self.credentials),
            find_created=partial(find_created, self.store, self.settings),
        )

    @cached_property
    def trust(self) -> SettingsTrust:
        """What decides whether the settings still allow what workloads and declared clients were granted."""
        return make_trust(self.settings, self.credentials)

    @cached_property
    def issuer_fetcher(self) -> SafeFetcher:
        """The fetcher of trusted issuers' keys. It is another one, so that clients cannot occupy its places."""
        return make_fetcher(self.settings.client_documents)

    @cached_property
    def workloads(self) -> Workloads:
        """The part that verifies workloads' tokens."""
        return Workloads(self.settings, self.store.identifiers, self.issuer_fetcher)

    @cached_property
    def user_assertions(self) -> UserAssertions | None:
        """The part that verifies ID-JAGs; None if no client may use them."""
        provider = self._unbounded_provider
        if not self.settings.accepts_user_assertions or not isinstance(provider, OidcProvider):
            return None
        return UserAssertions(
            provider, self.store.identifiers, issuer=self.settings.issuer, waiting=self.provider.waiting
        )

    # The authorization server

    @cached_property
    def authorization_requests(self) -> AuthorizationRequests:
        """The validation of authorization requests."""
        return AuthorizationRequests(self.settings, self.clients)

    @cached_property
    def server(self) -> AuthorizationServer:
        """The part that issues codes and tokens."""
        server = AuthorizationServer(
            self.settings,
            self.store,
            self.signing_keys,
            self.user_access,
            self.clients,
            trust=self.trust,
            workloads=self.workloads,
            user_assertions=self.user_assertions,
            revocation=self.revocation,
            user_credentials=self.user_credentials,
            refresh_key=self.credentials.derive_key("refresh-token"),
        )
        for grant in TOKEN_GRANTS:
            server.register_grant(grant)
        if self.settings.trusted_issuers or self.user_assertions is not None:
            server.register_grant(AssertionGrant)
        return server

    @cached_property
    def introspection(self) -> Introspection:
        """The introspection of tokens."""
        return Introspection(self.settings, self.credentials, self.server)


def _make_provider(settings: Settings, credentials: Credentials) -> GitHubProvider | OidcProvider:
    lists = settings.allow_lists.values()
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
