"""settings.json as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from .access import AllowList, GitHub, OpenIDConnect
from .clients import ClientDocuments, ClientRules
from .declared_clients import ClientName, DeclaredClient
from .limits import Lifetimes, Limits
from .resources import Resource
from .tracing import Tracing
from .trusted_issuers import IssuerName, TrustedIssuer
from .values import BaseUrl, Model, Network, PublicUrl, ResourceName, SettingsError, is_loopback_host

OWN_PATHS = frozenset(
    {
        *("/register", "/authorize", "/consent", "/callback", "/provide", "/account"),
        *("/token", "/revoke", "/introspect", "/jwks", "/style.css"),
    }
)
"""Paths of the gateway's own endpoints at its issuer, without those in `_OWN_PATTERN`."""
_OWN_PATTERN: Final = re.compile(r"/register/[^/]+|/connections/callback/[^/]+/[^/]+|/\.well-known(/.*)?")

SENTINEL_URL = re.compile(
    r"(?P<tls>rediss?)\+sentinel://(?P<hosts>[^\s/@,]+:\d{1,5}(?:,[^\s/@,]+:\d{1,5})*)/(?P<service>[\w.-]+)"
)
"""`redis+sentinel://HOST:PORT,HOST:PORT,…/SERVICE`, or `rediss+sentinel:` for TLS to Redis and the Sentinels."""

_TAG = re.compile(r"^identity_provider\.(?:github|oidc)(?=\.|$)")
"""In these, Pydantic names the chosen type like a key."""


def _parse_redis_url(value: str) -> str:
    if not re.match(r"(unix|rediss?)://", value) and not SENTINEL_URL.fullmatch(value):
        raise ValueError("must begin with unix://, redis:// or rediss://, or be redis+sentinel://HOST:PORT,…/SERVICE")
    if urlsplit(value).password is not None:
        raise ValueError("must hold no password: put it into the credential redis-password")
    return value


class Router(Model):
    """The parts of Traefik's static configuration that the routes depend on."""

    entry_points: tuple[str, ...] = Field(min_length=1, strict=False)
    tls: bool = False
    certificate_resolver: str | None = None
    hsts_seconds: Annotated[int, Field(ge=0)] = Field(
        default=365 * 24 * 3600,
        description="For how many seconds browsers use only https for our hosts (RFC 6797); 0 sends no header.",
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        strict=False,
        description="Addresses or networks of the proxies in front of Traefik, as in the `forwardedHeaders.trustedIPs` "
        "of its entry points: a client's address is then the last one that they saw.",
    )


class HomePage(Model):
    """The page at the issuer's URL, and those at servers' URLs for people who open them in a browser."""

    enabled: bool = True
    public: bool = Field(default=False, description="Whether visitors who are not signed in see the servers.")


class Settings(Model):
    """settings.json, validated. Field names are the file's keys."""

    issuer: PublicUrl = Field(description="The authorization server's public URL: RFC 8414 `issuer`.")
    identity_provider: Annotated[GitHub | OpenIDConnect, Field(discriminator="type")]
    allowed: AllowList = AllowList()
    redis_url: Annotated[str, AfterValidator(_parse_redis_url)] = Field(
        description="`unix://PATH`, `redis://HOST:PORT` (`rediss:` for TLS), or for Redis Sentinel "
        "`redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`. A password is the credential `redis-password`."
    )
    state_directory: Annotated[str, Field(pattern=r"^/")] = Field(description="Holds the token-signing keys.")
    listen: Annotated[str, Field(pattern=r"^\S+:\d+$")] = Field(default="127.0.0.1:9000")
    internal_url: BaseUrl = Field(
        default="http://127.0.0.1:9000", description="Where Traefik reaches this service; never public."
    )
    instances: tuple[BaseUrl, ...] = Field(
        default=(),
        strict=False,
        description="Where Traefik reaches each instance of this service, if there are several. Then internal_url must "
        "always lead to a live one.",
    )
    workers: Annotated[int, Field(ge=1)] = 1
    log_level: Literal["debug", "info", "warning"] = Field(
        default="info", description="The lowest level that is logged; audit events are `info`. No level logs a secret."
    )
    audit_socket: Annotated[str, Field(pattern=r"^/")] | None = Field(
        default=None,
        description="A datagram socket with syslog's protocol, as each journal has one. Audit events go there, at any "
        "`log_level`. They go to standard error only while nothing listens there.",
    )
    tracing: Tracing | None = Field(default=None, description="Traces of `/verify`; null: none.")
    router: Router
    lifetimes: Lifetimes = Lifetimes()
    limits: Limits = Limits()
    clients: ClientRules = ClientRules()
    client_documents: ClientDocuments = ClientDocuments()
    declared_clients: dict[ClientName, DeclaredClient] = Field(
        default={}, description="Clients of the operator, by their client_id."
    )
    trusted_issuers: dict[IssuerName, TrustedIssuer] = Field(
        default={}, description="Issuers of tokens that workloads exchange for access tokens, by names of the operator."
    )
    home_page: HomePage = HomePage()
    default_resource: ResourceName | None = Field(
        default=None,
        description="The resource for requests that name none (MCP 2025-03-26); without it these are refused.",
    )
    resources: dict[ResourceName, Resource] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Settings:
        owners: dict[str, str] = {}
        for name, resource in self.resources.items():
            if (other := owners.setdefault(resource.url, name)) != name:
                raise ValueError(f"resources.{name}.url is already the URL of resources.{other}")
        for url, name in owners.items():
            if self._is_page(url):
                raise ValueError(
                    f"resources.{name}.url is the URL of one of the gateway's own pages: choose another path"
                )
            for above, other in owners.items():
                if url.startswith(f"{above}/"):
                    raise ValueError(f"resources.{name}.url lies below that of resources.{other}, which answers there")
        if self.default_resource is not None and self.default_resource not in self.resources:
            raise ValueError(f"default_resource names no resource: {self.default_resource}")
        for name, client in self.declared_clients.items():
            self._check_declared_client(name, client)
        self._check_trusted_issuers()
        provider = self.identity_provider
        key, url = ("url", provider.url) if isinstance(provider, GitHub) else ("issuer", provider.issuer)
        if is_loopback_host(urlsplit(url).hostname or "") and not self.is_loopback:
            raise ValueError(
                f"identity_provider.{key} is a loopback stand-in, which only a loopback issuer may use: "
                "name the real provider"
            )
        self._check_lists(self.allow_lists)
        for name, resource in self.resources.items():
            for variable, credential in resource.user_credentials.items():
                if credential.oauth is not None and credential.oauth.is_stand_in and not self.is_loopback:
                    raise ValueError(
                        f"resources.{name}.user_credentials.{variable}.oauth has a loopback stand-in, which only a "
                        "loopback issuer may use: name the real service"
                    )
        return self

    @property
    def allow_lists(self) -> dict[str, AllowList]:
        """All allow-lists, by their keys in the file."""
        lists: dict[str, AllowList | None] = {"allowed": self.allowed}
        for name, resource in self.resources.items():
            lists[f"resources.{name}.allowed"] = resource.allowed
            for scope, definition in resource.scopes.items():
                lists[f"resources.{name}.scopes.{scope}.allowed"] = definition.allowed
        return {key: allowed for key, allowed in lists.items() if allowed is not None}

    def _check_declared_client(self, name: str, client: DeclaredClient) -> None:
        if name in self.resources:
            raise ValueError(
                f"declared_clients.{name}: has the name of a server, which is its identifier at /introspect"
            )
        if client.user_assertions and not isinstance(self.identity_provider, OpenIDConnect):
            raise ValueError(
                f"declared_clients.{name}.user_assertions: only an OpenID Connect provider vouches for its users"
            )
        self._check_machine(f"declared_clients.{name}", client)

    def _check_trusted_issuers(self) -> None:
        owners: dict[tuple[str, str], str] = {}
        for name, issuer in self.trusted_issuers.items():
            key = f"trusted_issuers.{name}"
            if (other := owners.setdefault((issuer.issuer, issuer.audience), name)) != name:
                raise ValueError(f"{key} has the issuer and audience of trusted_issuers.{other}: choose an audience")
            if issuer.issuer.removesuffix("/") == self.issuer.removesuffix("/"):
                raise ValueError(f"{key}.issuer: is this gateway, whose own tokens are for MCP servers only")
            provider = self.identity_provider
            if provider.type == "oidc" and (issuer.issuer, issuer.audience) == (provider.issuer, provider.client_id):
                raise ValueError(f"{key}: ID tokens of users have this issuer and audience: choose another audience")
            self._check_machine(key, issuer)

    def _check_machine(self, key: str, machine: DeclaredClient | TrustedIssuer) -> None:
        """Refuse servers and scopes that do not exist."""
        if unknown := [server for server in machine.servers if server not in self.resources]:
            raise ValueError(f"{key}.servers: there is no server {unknown[0]}")
        if asking := [server for server in machine.servers if self.resources[server].user_credentials]:
            raise ValueError(f"{key}.servers: {asking[0]} needs user_credentials, which only users can provide")
        known = {scope for server in machine.servers for scope in self.resources[server].scopes}
        if foreign := [scope for scope in machine.scopes if scope not in known]:
            raise ValueError(f"{key}.scopes: none of its servers has the scope {foreign[0]}")

    def _is_page(self, url: str) -> bool:
        """Whether this is an endpoint of the gateway, so that no request there would reach a server."""
        issuer, parts = urlsplit(self.issuer), urlsplit(url)
        if f"{parts.path}/".startswith("/.well-known/"):
            return True
        path = parts.path.removeprefix(issuer.path)
        is_own = parts.hostname == issuer.hostname and parts.path == issuer.path + path
        return is_own and (path in OWN_PATHS or _OWN_PATTERN.fullmatch(path) is not None)

    def _check_lists(self, lists: Mapping[str, AllowList]) -> None:
        """Refuse entries of a kind that the identity provider does not have, as they would admit no user."""
        foreign = ("groups",) if isinstance(self.identity_provider, GitHub) else ("organizations", "teams")
        for key, allowed in lists.items():
            for kind in foreign:
                if getattr(allowed, kind):
                    raise ValueError(f"{key}.{kind}: identity provider {self.identity_provider.type} has none")

    def find_resource_name(self, url: str) -> str | None:
        """Return the name of the resource with this URL, which is all that tokens and grants hold of it."""
        return next((name for name, resource in self.resources.items() if resource.url == url), None)

    @property
    def resources_with_credential(self) -> list[str]:
        """The names of the resources whose backends get a bearer token of the gateway's own."""
        return [name for name, resource in self.resources.items() if resource.backend_credential]

    @property
    def accepts_user_assertions(self) -> bool:
        """Whether the identity provider may vouch for the users of a client."""
        return any(client.user_assertions for client in self.declared_clients.values())

    @property
    def is_loopback(self) -> bool:
        """Whether the gateway is for this machine only, so that plain http is allowed."""
        return is_loopback_host(urlsplit(self.issuer).hostname or "")


def load_settings(path: Path) -> Settings:
    """Read and validate settings.json.

    Raises SettingsError with one line that names the file and the offending key.
    """
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_refuse_duplicate_keys)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: is not valid JSON: {error}") from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = _TAG.sub("identity_provider", ".".join(str(part) for part in first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{path}: {key + ': ' if key else ''}{message}") from error


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        repeated = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"key {repeated!r} is there twice in one object")
    return document
