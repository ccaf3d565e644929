"""The one contract between deployment and service: settings.json, plus secrets as credential files.

The NixOS module, the local launcher and the tests all write this file; nothing else configures the service.
Secrets never stand in it: each is a file in the credentials directory (systemd's `LoadCredential`).
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

MASTER_KEY_MIN_BYTES = 32
OIDC_OWN_PARAMETERS = frozenset(
    {
        *("client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce"),
        *("code_challenge", "code_challenge_method", "request", "request_uri"),
    }
)
"""Parameters of a login at an OpenID Connect provider that its protection rests on."""

MAX_PROBE_URLS = 4
DEFAULT_PROBE_URLS: Final = (
    "https://claude.ai/oauth/claude-code-client-metadata",
    "https://chatgpt.com/oauth/codex/client.json",
    "https://vscode.dev/oauth/client-metadata.json",
)
"""Documents of widespread clients: some of their hosts refuse whole networks, and then only their own clients fail."""


OWN_PATHS = frozenset(
    {
        *("/register", "/authorize", "/consent", "/callback", "/account", "/token", "/revoke", "/introspect"),
        *("/jwks", "/style.css"),
    }
)
"""What the gateway answers itself at its issuer, beside `/register/ID` and well-known documents."""

SENTINEL_URL = re.compile(
    r"(?P<tls>rediss?)\+sentinel://(?P<hosts>[^\s/@,]+:\d{1,5}(?:,[^\s/@,]+:\d{1,5})*)/(?P<service>[\w.-]+)"
)
"""`redis+sentinel://HOST:PORT,HOST:PORT,…/SERVICE`, or `rediss+sentinel:` for TLS to Redis and the Sentinels."""

_PLAIN_URL = re.compile(r"https?://[a-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~!$&*+,;=:-]+)*")


class SettingsError(Exception):
    """The settings file or a credential is unusable; the text is one line for the operator."""


def is_loopback_host(host: str) -> bool:
    """Whether a URL's host (no brackets) can only ever mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_base_url(value: str) -> str:
    """Accept an absolute http(s) URL in the one canonical form that we compare bytewise (RFC 8414 §3.3)."""
    # urlsplit drops tabs and line breaks, so that what it reports is not what we would compare.
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must hold visible ASCII characters only (write an international host name in punycode)")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http or https URL")
    if any(character in value for character in "@?#\\"):
        raise ValueError("must have no user, password, query or fragment")
    if value.endswith("/"):
        raise ValueError("must not end with a slash")
    if parts.netloc != parts.netloc.lower() or "//" in parts.path:
        raise ValueError("must be in canonical form: lower-case host, no empty path segment")
    _ = parts.port  # raises ValueError on a port that is none
    return value


def _parse_secure_url(value: str) -> str:
    """As `_parse_base_url`, and https unless only this machine can reach it."""
    parts = urlsplit(_parse_base_url(value))
    if parts.scheme == "http" and not is_loopback_host(parts.hostname or ""):
        raise ValueError("must be https: plain http is accepted for a loopback host only")
    return value


def _parse_public_url(value: str) -> str:
    """As `_parse_secure_url`, and spelled so that clients and the router, in whose rules it is, read the same in it."""
    _parse_secure_url(value)
    if not _PLAIN_URL.fullmatch(value) or {".", ".."} & set(urlsplit(value).path.split("/")):
        raise ValueError("must have no dot segment, no percent-encoding and no quotes or brackets in its path")
    return value


def _parse_issuer(value: str) -> str:
    """As `_parse_secure_url`, but for one trailing slash, which some providers' issuers have."""
    _parse_secure_url(value.removesuffix("/"))
    return value


def _parse_redis_url(value: str) -> str:
    if not re.match(r"(unix|rediss?)://", value) and not SENTINEL_URL.fullmatch(value):
        raise ValueError("must begin with unix://, redis:// or rediss://, or be redis+sentinel://HOST:PORT,…/SERVICE")
    if urlsplit(value).password is not None:
        raise ValueError("must hold no password: that is the credential redis-password")
    return value


def _parse_proxy(value: str) -> str:
    """Accept an HTTP proxy's address. A password would be a secret, which has no place in this file."""
    parts = urlsplit(_parse_base_url(value))
    if parts.scheme != "http" or parts.port is None or parts.path:
        raise ValueError("must be http://HOST:PORT")
    return value


def _parse_network(value: str) -> str:
    return str(ipaddress.ip_network(value))


BaseUrl = Annotated[str, AfterValidator(_parse_base_url)]
PublicUrl = Annotated[str, AfterValidator(_parse_public_url)]
IssuerUrl = Annotated[str, AfterValidator(_parse_issuer)]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
# What a bridge puts before the ids of its sessions, followed by a dot.
ReplicaName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
SchemeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{0,62}$", description="RFC 3986 §3.1, in lower case")]
_SCHEMES_OF_BROWSERS: Final = frozenset(
    {
        *("http", "https", "ws", "wss", "ftp", "file", "data", "blob", "javascript", "vbscript", "about"),
        *("view-source", "filesystem", "chrome", "resource", "mailto", "tel", "sms", "intent"),
    }
)
"""Schemes that mean something to a browser or to every system, whatever applications there are."""
_CALLBACK_SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_CALLBACK = re.compile(rf"//[A-Za-z0-9-][A-Za-z0-9.-]*(?:/{_CALLBACK_SEGMENT})+")
ScopeName = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$", description="RFC 6749 §3.3 scope-token")]
Network = Annotated[str, AfterValidator(_parse_network)]
DocumentUrl = Annotated[str, Field(pattern=r"^https://[a-z0-9-]+(\.[a-z0-9-]+)+/[!-~]*$")]
Seconds = Annotated[int, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AllowList(_Model):
    """Who may log in. Empty everywhere means nobody."""

    users: tuple[str, ...] = Field(default=(), strict=False, description="Login names at the identity provider.")
    organizations: tuple[str, ...] = Field(default=(), strict=False, description="Members of these organizations.")
    teams: tuple[Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")], ...] = Field(
        default=(), strict=False, description="Members of these teams, as `organization/team-slug`."
    )
    groups: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), strict=False, description="Members of these groups of an OpenID Connect provider."
    )

    @property
    def is_empty(self) -> bool:
        """Whether this list admits nobody."""
        return not (self.users or self.organizations or self.teams or self.groups)


class GitHub(_Model):
    """GitHub, or GitHub Enterprise Server by its own URLs, as the identity provider."""

    type: Literal["github"]
    client_id: Annotated[str, Field(min_length=1)]
    url: BaseUrl = Field(default="https://github.com", description="Where users log in.")
    api_url: BaseUrl = Field(default="https://api.github.com", description="The REST API's base URL.")


class OpenIDConnect(_Model):
    """Any OpenID Connect provider, found by discovery, as the identity provider."""

    type: Literal["oidc"]
    issuer: IssuerUrl = Field(description="As the provider writes it: its discovery document must name the same.")
    client_id: Annotated[str, Field(min_length=1)]
    title: Annotated[str, Field(min_length=1)] = Field(
        default="your organization's login", description="What people are shown: Continue with TITLE."
    )
    scopes: tuple[ScopeName, ...] = Field(
        default=("openid", "profile", "email"),
        strict=False,
        description="Asked for at each login; `offline_access` is added where the provider offers it.",
    )
    username_claim: Annotated[str, Field(min_length=1)] = Field(
        default="preferred_username",
        description="Matched against `users`. `email` counts only while `email_verified` is true.",
    )
    groups_claim: Annotated[str, Field(min_length=1)] = Field(
        default="groups", description="A list of strings, matched against `groups` letter by letter."
    )
    authorization_parameters: dict[str, str] = Field(
        default={},
        description="Added to each authorization request, for example `prompt: consent` or `access_type: offline`.",
    )

    @model_validator(mode="after")
    def _is_login(self) -> OpenIDConnect:
        if "openid" not in self.scopes:
            raise ValueError("scopes must contain openid")
        if taken := sorted(OIDC_OWN_PARAMETERS & self.authorization_parameters.keys()):
            raise ValueError(f"authorization_parameters may not set {taken[0]}")
        return self


class Lifetimes(_Model):
    """How long things live, in seconds."""

    access_token: Seconds = 3600
    refresh_token: Seconds = 30 * 24 * 3600
    authorization_code: Annotated[int, Field(gt=0, le=60)] = 60
    login: Annotated[int, Field(gt=0, le=600)] = 600
    session: Seconds = Field(
        default=7 * 24 * 3600, description="How long a browser stays signed in to the account page, at most."
    )
    signing_key: Annotated[int, Field(ge=3600)] | None = Field(
        default=90 * 24 * 3600, description="How long a key signs before the next does; null: until told otherwise."
    )
    unused_client: Seconds = Field(
        default=7 * 24 * 3600,
        description="How long a registration waits for a first login, and outlives its last grant.",
    )
    unconfirmed_user: Seconds = Field(
        default=24 * 3600,
        description="How long after a login tokens can be refreshed where the provider gave nothing to ask again with.",
    )


class RateLimit(_Model):
    """How often one address (one /64 in IPv6) may ask for something; Traefik answers 429 beyond it."""

    average: Annotated[int, Field(ge=1)] = Field(description="Requests per period, for as long as it likes.")
    period: Seconds = Field(default=1, description="In seconds.")
    burst: Annotated[int, Field(ge=1)] = Field(description="Requests at once.")


class RateLimits(_Model):
    """Rate limits of the public endpoints. Users of one hosted client share its addresses."""

    registration: RateLimit = RateLimit(average=1, burst=30)
    authorization: RateLimit = Field(
        default=RateLimit(average=5, burst=100), description="The pages of a login, which is three requests or more."
    )
    token: RateLimit = Field(
        default=RateLimit(average=50, burst=200), description="The token, revocation and introspection endpoints."
    )
    metadata: RateLimit = Field(default=RateLimit(average=50, burst=200), description="Discovery documents and keys.")


class Limits(_Model):
    """What one address, client or user may have."""

    registrations_per_hour: Annotated[int, Field(ge=1)] = Field(
        default=60, description="New registrations from one address (one /64 in IPv6)."
    )
    unused_clients: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="Registrations without a login, in all; the oldest go first."
    )
    grants_per_client: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Live grants of one user for one client; the least recently used go first."
    )
    token_requests_per_minute: Annotated[int, Field(ge=1)] = Field(
        default=120, description="Token requests in the name of one client from one address."
    )
    rates: RateLimits = RateLimits()


class ClientDocuments(_Model):
    """Clients that are known by an https URL, where their metadata is fetched from."""

    enabled: bool = True
    allowed_hosts: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="The hosts where metadata and key sets may be; any public one where absent.",
    )
    probe_urls: tuple[DocumentUrl, ...] = Field(
        default=DEFAULT_PROBE_URLS,
        min_length=1,
        max_length=MAX_PROBE_URLS,
        strict=False,
        description="Documents that are fetched every ten minutes: metadata says that clients may be known by a URL "
        "while all of these can be fetched. Those that allowed_hosts leaves out are not.",
    )
    proxy: Annotated[str, AfterValidator(_parse_proxy)] | None = Field(
        default=None,
        description="http://HOST:PORT of an HTTP proxy that documents and key sets are fetched through (CONNECT).",
    )
    proxy_resolves_names: bool = Field(
        default=False,
        description="Whether the proxy looks names up, for a host that cannot: then the proxy alone can refuse "
        "addresses that are not public.",
    )

    @model_validator(mode="after")
    def _has_proxy(self) -> ClientDocuments:
        if self.proxy_resolves_names and self.proxy is None:
            raise ValueError("proxy_resolves_names needs proxy")
        return self


class Router(_Model):
    """What the routes handed to Traefik need to know of its static configuration."""

    entry_points: tuple[str, ...] = Field(min_length=1, strict=False)
    tls: bool = False
    certificate_resolver: str | None = None
    hsts_seconds: Annotated[int, Field(ge=0)] = Field(
        default=365 * 24 * 3600, description="How long browsers use https alone for our hosts (RFC 6797); 0: not told."
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        strict=False,
        description="Addresses or networks of the proxies in front of Traefik, as in the `forwardedHeaders.trustedIPs` "
        "of its entry points: a client's address is then the last one that they saw.",
    )


class Scope(_Model):
    """One scope of a resource."""

    description: str = Field(description="Shown on the consent page.")
    required: bool = Field(default=True, description="Whether every request needs it.")


class Resource(_Model):
    """One MCP server. It is its URL: routes, metadata, audience and challenges all follow from that."""

    url: PublicUrl
    backends: tuple[BaseUrl, ...] = Field(
        default=(), strict=False, description="MCP endpoints that serve it, each as good as another for any request."
    )
    replicas: dict[ReplicaName, BaseUrl] = Field(
        default={}, description="Instead of backends: bridges that were each told their name (`--replica NAME`)."
    )
    title: str | None = Field(default=None, description="What people see; the name where absent.")
    scopes: dict[ScopeName, Scope] = Field(
        default={"mcp": Scope(description="Use this server's tools and read its data")}, min_length=1
    )
    allowed: AllowList | None = Field(default=None, description="Who may use it; the gateway's list where absent.")

    @model_validator(mode="after")
    def _is_routable(self) -> Resource:
        if not urlsplit(self.url).path:
            raise ValueError("url must have a path, for example https://time.example.com/mcp")
        if bool(self.backends) == bool(self.replicas):
            raise ValueError("must have either backends or replicas")
        if len({urlsplit(endpoint).path for endpoint in self.endpoints}) > 1:
            raise ValueError("backends and replicas must all have the same path")
        if "offline_access" in self.scopes:
            raise ValueError("scopes must not contain offline_access, which no server has: it asks for a refresh token")
        return self

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URL of every backend or replica."""
        return self.backends or tuple(self.replicas.values())


class AppScheme(_Model):
    """An application whose answers go to a URI scheme of its own, beside those that are known already."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = Field(description="What people call it.")
    callbacks: tuple[str, ...] = Field(
        min_length=1,
        max_length=20,
        strict=False,
        description="Where answers go, in full: `myapp://mcp/oauth/callback`. Nothing else of the scheme is reached.",
    )


class ClientRules(_Model):
    """What clients may be."""

    redirect_schemes: dict[SchemeName, AppScheme] = Field(
        default={}, description="Applications by the scheme that their redirect URIs begin with."
    )

    @model_validator(mode="after")
    def _are_callbacks(self) -> ClientRules:
        for scheme, app in self.redirect_schemes.items():
            if scheme in _SCHEMES_OF_BROWSERS:
                raise ValueError(f"redirect_schemes.{scheme}: is no application's scheme")
            for callback in app.callbacks:
                if not _CALLBACK.fullmatch(callback.removeprefix(f"{scheme}:")):
                    raise ValueError(
                        f"redirect_schemes.{scheme}.callbacks: {callback} must be {scheme}://HOST/PATH, "
                        "with no query and no dot segment"
                    )
        return self


class Settings(_Model):
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
        description="Where Traefik reaches each instance of this service, if there are several; internal_url is then "
        "an address that always leads to a live one.",
    )
    workers: Annotated[int, Field(ge=1)] = 1
    log_level: Literal["debug", "info", "warning"] = Field(
        default="info", description="The least that is logged; audit events are `info`. No secret is at any level."
    )
    audit_socket: Annotated[str, Field(pattern=r"^/")] | None = Field(
        default=None,
        description="A datagram socket that speaks syslog's protocol, as each journal has one. Audit events go there, "
        "whatever `log_level` is, instead of to standard error, and to the latter only while nothing listens there.",
    )
    router: Router
    lifetimes: Lifetimes = Lifetimes()
    limits: Limits = Limits()
    clients: ClientRules = ClientRules()
    client_documents: ClientDocuments = ClientDocuments()
    default_resource: ResourceName | None = Field(
        default=None,
        description="The resource of clients that name none (MCP 2025-03-26); refused where absent.",
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
        provider = self.identity_provider
        key, url = ("url", provider.url) if isinstance(provider, GitHub) else ("issuer", provider.issuer)
        if is_loopback_host(urlsplit(url).hostname or "") and not self.is_loopback:
            raise ValueError(
                f"identity_provider.{key} is a loopback stand-in, which only a loopback issuer may use: "
                "name the real provider"
            )
        self._check_lists({"allowed": self.allowed})
        self._check_lists({f"resources.{name}.allowed": each.allowed for name, each in self.resources.items()})
        return self

    def _is_page(self, url: str) -> bool:
        """Whether the gateway answers there itself, whatever the port: no request would reach a server."""
        issuer, parts = urlsplit(self.issuer), urlsplit(url)
        if f"{parts.path}/".startswith("/.well-known/"):
            return True
        path = parts.path.removeprefix(issuer.path)
        is_own = parts.hostname == issuer.hostname and parts.path == issuer.path + path
        return is_own and (path in OWN_PATHS or re.fullmatch(r"/register/[^/]+|/\.well-known(/.*)?", path) is not None)

    def _check_lists(self, lists: Mapping[str, AllowList | None]) -> None:
        """Refuse entries that the identity provider has no notion of: they would admit nobody, silently."""
        foreign = ("groups",) if isinstance(self.identity_provider, GitHub) else ("organizations", "teams")
        for key, allowed in lists.items():
            for kind in foreign:
                if allowed is not None and getattr(allowed, kind):
                    raise ValueError(f"{key}.{kind}: identity provider {self.identity_provider.type} has none")

    def find_resource_name(self, url: str) -> str | None:
        """Return the name of the resource that has this URL, of which tokens and grants know nothing else."""
        return next((name for name, resource in self.resources.items() if resource.url == url), None)

    @property
    def is_loopback(self) -> bool:
        """Whether the gateway is for this machine only, which is where plain http is tolerated."""
        return is_loopback_host(urlsplit(self.issuer).hostname or "")


class Credentials:
    """The secrets, read once from the credentials directory. Its `repr` shows none of them."""

    def __init__(self, *, client_secret: str, master_key: bytes, redis_password: str | None = None) -> None:
        self.client_secret = client_secret
        self.redis_password = redis_password
        self._master_key = master_key

    def __repr__(self) -> str:
        return "Credentials(<redacted>)"

    def derive_key(self, purpose: str) -> bytes:
        """Return the 64 hex digits of HMAC-SHA256(master key, purpose): one independent key per purpose.

        `identity-key:NAME` is the key that resource NAME's identity assertions are signed with, and the only
        one that leaves this service: its bridge holds it too.
        """
        return hmac.new(self._master_key, b"mcp-oauth-gateway:" + purpose.encode(), "sha256").hexdigest().encode()


_TAG = re.compile(r"^identity_provider\.(?:github|oidc)(?=\.|$)")
"""Where Pydantic names the chosen type as if it were a key."""


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


def load_credentials(directory: Path) -> Credentials:
    """Read the secrets `client-secret`, `master-key` and, if there, `redis-password` from the credentials directory.

    Raises SettingsError with one line that names the file that is missing or unusable.
    """
    master_key = load_master_key(directory / "master-key")
    try:
        client_secret = _read_credential(directory / "client-secret").decode("ascii")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{directory / 'client-secret'}: must be ASCII text") from error
    return Credentials(
        client_secret=client_secret, master_key=master_key, redis_password=load_redis_password(directory)
    )


def load_redis_password(directory: Path) -> str | None:
    """Read Redis' password, if there is one. Raises SettingsError with one line that names the file."""
    path = directory / "redis-password"
    return _read_credential(path).decode() if path.exists() else None


def load_master_key(path: Path) -> bytes:
    """Read the master key. Raises SettingsError with one line that names the file."""
    master_key = _read_credential(path)
    if len(master_key) < MASTER_KEY_MIN_BYTES:
        raise SettingsError(f"{path}: must hold at least {MASTER_KEY_MIN_BYTES} bytes")
    return master_key


def load_identity_key(path: Path) -> bytes:
    """Read the identity key of one resource. Raises SettingsError with one line that names the file."""
    return _read_credential(path)


def _read_credential(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"{path}: the credential cannot be read: {error.strerror}") from error
    if not secret:
        raise SettingsError(f"{path}: the credential is empty")
    return secret


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        repeated = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"key {repeated!r} stands twice in one object")
    return document
