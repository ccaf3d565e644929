"""What clients may be, and where their metadata may come from."""

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
"""Documents of widespread clients: some of their hosts refuse whole networks, and then only their own clients fail."""

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
DocumentUrl = Annotated[str, Field(pattern=r"^https://[a-z0-9-]+(\.[a-z0-9-]+)+/[!-~]*$")]


def _parse_proxy(value: str) -> str:
    """Accept an HTTP proxy's address. A password would be a secret, which has no place in this file."""
    parts = urlsplit(parse_base_url(value))
    if parts.scheme != "http" or parts.port is None or parts.path:
        raise ValueError("must be http://HOST:PORT")
    return value


class ClientDocuments(Model):
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


class AppScheme(Model):
    """An application whose answers go to a URI scheme of its own, beside those that are known already."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = Field(description="What people call it.")
    callbacks: tuple[str, ...] = Field(
        min_length=1,
        max_length=20,
        strict=False,
        description="Where answers go, in full: `myapp://mcp/oauth/callback`. Nothing else of the scheme is reached.",
    )


class ClientRules(Model):
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
