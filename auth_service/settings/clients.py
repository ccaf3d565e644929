"""Rules for clients and their metadata."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from .values import Model, parse_base_url

MAX_PROBE_URLS = 4
DEFAULT_PROBE_URLS: Final = (
    "https://claude.ai/oauth/claude-code-client-metadata",
    "https://chatgpt.com/oauth/codex/client.json",
    "https://vscode.dev/oauth/client-metadata.json",
)
"""Client documents of widespread clients. A host may refuse some networks: then only its own clients fail there."""

SchemeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]{0,62}$", description="RFC 3986 §3.1, in lower case")]
_SCHEMES_OF_BROWSERS: Final = frozenset(
    {
        *("http", "https", "ws", "wss", "ftp", "file", "data", "blob", "javascript", "vbscript", "about"),
        *("view-source", "filesystem", "chrome", "resource", "mailto", "tel", "sms", "intent"),
    }
)
"""Schemes with a meaning in browsers or in the system, whatever applications are installed."""
_CALLBACK_SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_CALLBACK = re.compile(rf"//[A-Za-z0-9-][A-Za-z0-9.-]*(?:/{_CALLBACK_SEGMENT})+")
DocumentUrl = Annotated[str, Field(pattern=r"^https://[a-z0-9-]+(\.[a-z0-9-]+)+/[!-~]*$")]


def _parse_proxy(value: str) -> str:
    """Accept the address of an HTTP proxy, without a password, as this file holds no secrets."""
    parts = urlsplit(parse_base_url(value))
    if parts.scheme != "http" or parts.port is None or parts.path:
        raise ValueError("must be http://HOST:PORT")
    return value


class ClientDocuments(Model):
    """Client documents: the metadata of clients whose client_id is an https URL."""

    enabled: bool = True
    allowed_hosts: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="The hosts that may have documents and key sets; without it, any public host.",
    )
    probe_urls: tuple[DocumentUrl, ...] = Field(
        default=DEFAULT_PROBE_URLS,
        min_length=1,
        max_length=MAX_PROBE_URLS,
        strict=False,
        description="Documents that are fetched every ten minutes. Metadata offers client documents while all of these "
        "can be fetched. Those that allowed_hosts excludes are not fetched.",
    )
    proxy: Annotated[str, AfterValidator(_parse_proxy)] | None = Field(
        default=None,
        description="http://HOST:PORT of the HTTP proxy (CONNECT) for fetching documents and key sets.",
    )
    proxy_resolves_names: bool = Field(
        default=False,
        description="Whether the proxy looks up names, for a host that cannot. Then the proxy alone can refuse "
        "addresses that are not public.",
    )

    @model_validator(mode="after")
    def _has_proxy(self) -> ClientDocuments:
        if self.proxy_resolves_names and self.proxy is None:
            raise ValueError("proxy_resolves_names needs proxy")
        return self


class AppScheme(Model):
    """An application with redirect URIs of its own scheme, in addition to the known ones."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = Field(description="What people call it.")
    callbacks: tuple[str, ...] = Field(
        min_length=1,
        max_length=20,
        strict=False,
        description="The full redirect URIs: `myapp://mcp/oauth/callback`. No other URI of the scheme is accepted.",
    )


class ClientRules(Model):
    """Rules for clients."""

    redirect_schemes: dict[SchemeName, AppScheme] = Field(
        default={}, description="Applications by the scheme of their redirect URIs."
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
