"""Where an authorization response may go (OAuth 2.1 §2.3; RFC 8252 §7; RFC 9700 §4.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from auth_service.settings import AppScheme

from .errors import OAuthError

MAX_LENGTH = 2048
NO_APPS: Final[Mapping[str, AppScheme]] = MappingProxyType({})
"""The operator's own list of applications (`clients.redirect_schemes`) if it is empty."""

# An answer must not reach other addresses of an application: `vscode://vscode.git/clone` makes it fetch a repository,
# `cursor://anysphere.cursor-deeplink/…` makes it run a prompt. No segment consists of dots or has an escape, which an
# application may decode in another way than this service.
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_~-]*(?:\.[A-Za-z0-9_~-]+)*"
_ANY_CALLBACK = re.compile(
    rf"/{{1,3}}(?:{_SEGMENT}/)*(?:[A-Za-z0-9_-]*(?:callback|redirect)|o?auth2?)(?:/{_SEGMENT})?/?"
)
"""Usual names of callbacks: `://oauth-callback`, `:/oauth2redirect`, `://NAME/oauth/callback/ID`."""
# Visual Studio Code and its derivatives pass an address to the extension that it names, and extensions are clients too:
# Cline is `vscode://saoudrizwan.claude-dev/mcp-auth/callback/…`. Cursor's own login has two names. Editors accept the
# name of an extension in upper and lower case.
_EXTENSION_CALLBACK = re.compile(
    rf"//(?!(?i:vscode\.|[^/]*deeplink))[A-Za-z0-9-]+\.[A-Za-z0-9.-]+/"
    rf"(?:{_SEGMENT}/)*[A-Za-z0-9_-]*callback(?:/{_SEGMENT})?"
)

_KNOWN_APPS: Final = {
    "claude": ("Claude", re.compile(rf"//claude\.ai/mcp-auth-callback(?:/{_SEGMENT})?")),
    "cursor": ("Cursor", _EXTENSION_CALLBACK),
    "lmstudio": ("LM Studio", _ANY_CALLBACK),
    "raycast": ("Raycast", re.compile(r"//oauth")),
    "vscode": ("Visual Studio Code", _EXTENSION_CALLBACK),
    "vscode-insiders": ("Visual Studio Code Insiders", _EXTENSION_CALLBACK),
    "vscodium": ("VSCodium", _EXTENSION_CALLBACK),
    "warp": ("Warp", re.compile(r"//mcp/oauth2callback")),
    "windsurf": ("Windsurf", _EXTENSION_CALLBACK),
    "zed": ("Zed", _ANY_CALLBACK),
}
"""Private-use schemes of MCP clients without the dot that RFC 8252 §7.1 asks for: the application's name, and its
callbacks. If no callback of an application is known, every usual name of a callback is accepted.
"""
_RESPONSE_PARAMETERS: Final = frozenset({"code", "state", "error", "error_description", "error_uri"})

# The characters of RFC 3986, without the wildcard and those on which browsers and URL parsers disagree.
_URI = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()+,;=%-]+")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOOPBACK = re.compile(r"(http://(?:localhost|127\.0\.0\.1|\[::1\]))(?::[0-9]{1,5})?((?:[/?].*)?)")
_APP_AUTHORITY = re.compile(r"[A-Za-z0-9._-]*")
_APP_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")


def check(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> None:
    """Accept a URI for registration.

    Raises OAuthError `invalid_redirect_uri` that names the URI and the rule it breaks.
    """
    if reason := _find_fault(uri, apps):
        raise OAuthError("invalid_redirect_uri", f"redirect_uri {uri[:200]} {reason}")


def _find_fault(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> str | None:  # noqa: PLR0911 -- one return per rule
    if not uri:
        return "is empty"
    if len(uri) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if not _URI.fullmatch(uri):
        return "has a fragment, a wildcard or a character that no redirect URI may have"
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return "is not a URI"
    if "@" in parts.netloc:
        return "names a user"
    if any(name == "iss" for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        return "has the parameter iss, which the answer adds (RFC 9207)"
    if parts.scheme == "https":
        host = parts.netloc.removesuffix(f":{parts.port}") if parts.port is not None else parts.netloc
        return None if uri.startswith("https://") and _is_host(host) else "has no valid lower-case host"
    if parts.scheme == "http":
        return None if _LOOPBACK.fullmatch(uri) else "must be https: http is for localhost, 127.0.0.1 and [::1]"
    if not uri.startswith(f"{parts.scheme}:/") or not _APP_AUTHORITY.fullmatch(parts.netloc):
        return "is not a URI with a lower-case scheme and a path"
    return _find_fault_of_app(parts.scheme, uri, apps)


def _find_fault_of_app(scheme: str, uri: str, apps: Mapping[str, AppScheme]) -> str | None:
    address, _, query = uri.partition("?")
    if _RESPONSE_PARAMETERS & {name for name, _ in parse_qsl(query, keep_blank_values=True)}:
        return "has a parameter that the answer adds"
    if scheme in apps and address in apps[scheme].callbacks:
        return None
    _, callback = _KNOWN_APPS.get(scheme, ("", _ANY_CALLBACK))
    if scheme not in {*_KNOWN_APPS, *apps} and not _APP_SCHEME.fullmatch(scheme):
        return "has a scheme that is neither https nor that of a known application nor a reversed domain name"
    # If a scheme is neither known nor a reversed domain name, the operator must name its callbacks.
    is_guessed = scheme in _KNOWN_APPS or _APP_SCHEME.fullmatch(scheme) is not None
    if not is_guessed or not callback.fullmatch(address.removeprefix(f"{scheme}:")):
        return "is not the callback of this application: no other address of its scheme is accepted"
    return None


def _is_host(host: str) -> bool:
    """Whether browsers read this as the host name that it seems: `2130706433` and `127.1` are addresses to them."""
    if not _HOST.fullmatch(host):
        return False
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif _NUMBER.fullmatch(host.rpartition(".")[2]):
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def matches(registered: str, requested: str) -> bool:
    """Whether a request's URI is the registered one: the same string, except for the port of a loopback address.

    Native applications listen on any free port (RFC 8252 §7.3).
    """
    return requested == registered or (
        is_loopback(requested)
        and without_port(requested) == without_port(registered)
        and _find_fault(requested) is None  # such as a port above 65535
    )


def has_origin_of(uri: str, other: str) -> bool:
    """Whether a browser takes both URIs for the same origin (RFC 6454)."""
    return _origin(uri) == _origin(other)


def _origin(uri: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_loopback(uri: str) -> bool:
    """Whether the response goes over http to a program on the user's machine."""
    return _LOOPBACK.fullmatch(uri) is not None


def without_port(uri: str) -> str:
    """Return a redirect URI without a loopback port, as it is the same in all logins of an application."""
    loopback = _LOOPBACK.fullmatch(uri)
    return loopback[1] + loopback[2] if loopback else uri


class TargetKind(Enum):
    """Who receives the response."""

    WEBSITE = "website"
    LOCAL_PROGRAM = "local-program"
    APPLICATION = "application"


@dataclass(frozen=True, kw_only=True)
class Target:
    """The recipient of the response, as the consent page shows it."""

    kind: TargetKind
    name: str
    """The website's host, the local program's address, or the name of the application that has the scheme."""
    address: str


def describe_target(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> Target:
    """Return what the consent page shows about the recipient of the response."""
    parts = urlsplit(uri)
    if parts.scheme == "https":
        return Target(kind=TargetKind.WEBSITE, name=parts.netloc, address=parts.netloc)
    if parts.scheme == "http":
        return Target(kind=TargetKind.LOCAL_PROGRAM, name=parts.netloc, address=parts.netloc)
    address = f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
    return Target(kind=TargetKind.APPLICATION, name=_app_name(parts.scheme, apps), address=address)


def _app_name(scheme: str, apps: Mapping[str, AppScheme]) -> str:
    if scheme in _KNOWN_APPS:
        return _KNOWN_APPS[scheme][0]
    return apps[scheme].name if scheme in apps else scheme


def form_action_source(uri: str) -> str:
    """Return the CSP source expression that lets a form redirect to this URI."""
    parts = urlsplit(uri)
    # CSP cannot express an IPv6 address: browsers drop a source that has one.
    is_origin = parts.scheme in {"http", "https"} and "[" not in parts.netloc
    return f"{parts.scheme}://{parts.netloc}" if is_origin else f"{parts.scheme}:"


def form_action_sources(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> tuple[str, ...]:
    """Return `form_action_source`, and the sources that the recipient of the answer may redirect to.

    A program may redirect to its website, and a website to its program. Browsers check these redirects against
    `form-action` too; if one is blocked, the user stays on a form that is already sent.
    """
    source = form_action_source(uri)
    if not uri.startswith(("http:", "https:")):
        return (source,)
    return (source, *_ONWARD_SOURCES, *(f"{scheme}:" for scheme in apps))


_ONWARD_SOURCES: Final = (
    "https:",
    "http://localhost:*",
    "http://127.0.0.1:*",
    *(f"{scheme}:" for scheme in _KNOWN_APPS),
)


def with_parameters(uri: str, parameters: dict[str, str | None]) -> str:
    """Append parameters that have a value, keeping the query that is there (RFC 6749 §3.1.2).

    The rest is not parsed and joined again, which would turn `app:///done` into `app:/done`.
    """
    added = urlencode({name: value for name, value in parameters.items() if value is not None})
    if "?" not in uri:
        return f"{uri}?{added}"
    return f"{uri}{added}" if uri.endswith("?") else f"{uri}&{added}"
