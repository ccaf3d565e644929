"""The MCP servers behind the gateway."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .access import AllowList
from .user_credentials import Connection, UserCredential, VariableName
from .values import BaseUrl, Model, PublicUrl, ReplicaName, ScopeName


class Scope(Model):
    """One scope of a resource."""

    description: str = Field(description="Shown on the consent page.")
    required: bool = Field(default=True, description="Whether every request needs it.")
    allowed: AllowList | None = Field(
        default=None, description="Who may be granted it; by default everyone who may use the server."
    )


class BackendTls(Model):
    """The files with which Traefik connects to a backend, as Traefik finds them."""

    ca_file: str | None = Field(
        default=None,
        pattern="^/",
        description="The authorities, one of which must have signed the backend's certificate; by default the host's.",
    )
    certificate_file: str | None = Field(default=None, pattern="^/", description="The certificate of Traefik.")
    key_file: str | None = Field(default=None, pattern="^/", description="The private key of that certificate.")

    @model_validator(mode="after")
    def _has_whole_pairs(self) -> BackendTls:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("must have both certificate_file and key_file, or neither")
        return self


class Resource(Model):
    """One MCP server. Routes, metadata, audience and challenges follow from its URL."""

    url: PublicUrl
    backends: tuple[BaseUrl, ...] = Field(
        default=(), strict=False, description="MCP endpoints that serve it, each of which can take any request."
    )
    replicas: dict[ReplicaName, BaseUrl] = Field(
        default={}, description="Instead of backends: bridges by their names (`--replica NAME`)."
    )
    status_urls: dict[BaseUrl, BaseUrl] = Field(
        default={},
        description="Where to ask for a bridge's status without waking it, by its URL in backends or replicas.",
    )
    backend_credential: bool = Field(
        default=False,
        description="Whether its backends get the bearer token of the credential `backend-credential.NAME`.",
    )
    backend_tls: BackendTls | None = Field(
        default=None, description="How Traefik connects to backends with https URLs."
    )
    title: str | None = Field(default=None, description="The name on pages; by default the name of the resource.")
    description: str | None = Field(default=None, description="What the server is for, in a sentence for its users.")
    network: Literal["none", "domains", "internet", "full"] | None = Field(
        default=None, description="What the server's sandbox lets it reach, as the home page shows it."
    )
    egress_socket: str | None = Field(
        default=None,
        pattern="^/",
        description="Where the egress proxy of the server listens on this host, for `mcp-gatewayctl doctor`.",
    )
    scopes: dict[ScopeName, Scope] = Field(
        default={"mcp": Scope(description="Use this server's tools and read its data")}, min_length=1
    )
    allowed: AllowList | None = Field(default=None, description="Who may use it; by default the gateway's list.")
    user_credentials: dict[VariableName, UserCredential] = Field(
        default={}, max_length=20, description="What each user provides, by the environment variable that it is for."
    )

    @model_validator(mode="after")
    def _is_routable(self) -> Resource:
        if not urlsplit(self.url).path:
            raise ValueError("url must have a path, for example https://time.example.com/mcp")
        if bool(self.backends) == bool(self.replicas):
            raise ValueError("must have either backends or replicas")
        if len({urlsplit(endpoint).path for endpoint in self.endpoints}) > 1:
            raise ValueError("backends and replicas must all have the same path")
        if self.backend_credential and self.replicas:
            raise ValueError("backend_credential is for backends; replicas are bridges, which take none")
        if self.backend_tls is not None and not all(url.startswith("https://") for url in self.endpoints):
            raise ValueError("backend_tls needs backends with https URLs")
        if "offline_access" in self.scopes:
            raise ValueError("scopes must not contain offline_access, which no server has: it asks for a refresh token")
        return self

    @property
    def connections(self) -> dict[str, Connection]:
        """The accounts that each user connects, by the environment variable that the token is for."""
        return {name: each.oauth for name, each in self.user_credentials.items() if each.oauth is not None}

    @property
    def required_scopes(self) -> frozenset[str]:
        """The scopes that every request needs."""
        return frozenset(scope for scope, definition in self.scopes.items() if definition.required)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URL of every backend or replica."""
        return self.backends or tuple(self.replicas.values())
