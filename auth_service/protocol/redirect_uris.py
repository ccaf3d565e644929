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
"""What is known of applications beside `_KNOWN_APPS` where the operator names none (`clients.redirect_schemes`)."""

# What an application does at the other addresses of its scheme is no answer's business: `vscode://vscode.git/clone` has
# it fetch a repository, `cursor://anysphere.cursor-deeplink/…` has it run a prompt. No segment is one of dots or holds
# an escape, which an application may read in another way than we do.
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9_~-]*(?:\.[A-Za-z0-9_~-]+)*"
_ANY_CALLBACK = re.compile(
    rf"/{{1,3}}(?:{_SEGMENT}/)*(?:[A-Za-z0-9_-]*(?:callback|redirect)|o?auth2?)(?:/{_SEGMENT})?/?"
)
"""What is called a callback: `://oauth-callback`, `:/oauth2redirect`, `://NAME/oauth/callback/ID`."""
# Visual Studio Code and its relatives hand an address to the extension that it names, and extensions are clients, too:
# Cline is `vscode://saoudrizwan.claude-dev/mcp-auth/callback/…`, and what logs in for Cursor itself has two names.
# Editors take an extension's name in any case.
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
"""Private-use schemes without a dot that MCP clients register although RFC 8252 §7.1 asks for a dot: the application's
name, and where in it answers go. Where no callback of it is known yet, any address that is called one will do.
"""
_RESPONSE_PARAMETERS: Final = frozenset({"code", "state", "error", "error_description", "error_uri"})

# RFC 3986's characters, minus those that browsers and URL parsers disagree on and the wildcard.
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
        return "names an issuer, which the answer does (RFC 9207)"
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
        return "has a parameter that the answer has, too"
    if scheme in apps and address in apps[scheme].callbacks:
        return None
    _, callback = _KNOWN_APPS.get(scheme, ("", _ANY_CALLBACK))
    if scheme not in {*_KNOWN_APPS, *apps} and not _APP_SCHEME.fullmatch(scheme):
        return "has a scheme that is neither https nor that of a known application nor a reversed domain name"
    # The operator names every callback of a scheme that is neither known nor a reversed domain name.
    is_guessed = scheme in _KNOWN_APPS or _APP_SCHEME.fullmatch(scheme) is not None
    if not is_guessed or not callback.fullmatch(address.removeprefix(f"{scheme}:")):
        return "is not where this application takes answers: of an application's scheme, only a callback will do"
    return None


def _is_host(host: str) -> bool:
    """Whether a browser goes where the text says: it reads `2130706433` and `127.1` as addresses of its own making."""
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
    """Whether a request's URI is the registered one: the same string, but for the port of a loopback address.

    Native applications listen on whatever port is free (RFC 8252 §7.3).
    """
    return requested == registered or (
        is_loopback(requested)
        and without_port(requested) == without_port(registered)
        and _find_fault(requested) is None  # such as a port that there is not
    )


def has_origin_of(uri: str, other: str) -> bool:
    """Whether a browser takes both URIs for the same origin (RFC 6454)."""
    return _origin(uri) == _origin(other)


def _origin(uri: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_loopback(uri: str) -> bool:
    """Whether the response goes to a program on the user's own machine, over http."""
    return _LOOPBACK.fullmatch(uri) is not None


def without_port(uri: str) -> str:
    """Return what stays the same from one login of an application to the next."""
    loopback = _LOOPBACK.fullmatch(uri)
    return loopback[1] + loopback[2] if loopback else uri


class TargetKind(Enum):
    """Who receives the response."""

    WEBSITE = "website"
    LOCAL_PROGRAM = "local-program"
    APPLICATION = "application"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the response goes, as people are told."""

    kind: TargetKind
    name: str
    """A website's host, a local program's address, or the application that a scheme belongs to."""
    address: str


def describe_target(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> Target:
    """Return what to tell people about where the response goes."""
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
    """Return the CSP source expression that lets a form's redirect through to this URI."""
    parts = urlsplit(uri)
    # CSP has no way to write an IPv6 address: browsers drop a source that holds one.
    is_origin = parts.scheme in {"http", "https"} and "[" not in parts.netloc
    return f"{parts.scheme}://{parts.netloc}" if is_origin else f"{parts.scheme}:"


def form_action_sources(uri: str, apps: Mapping[str, AppScheme] = NO_APPS) -> tuple[str, ...]:
    """As `form_action_source`, and on from there: who gets the answer may pass the browser on.

    A program does so to its own website, a website to a program. Browsers hold that against `form-action`, too, and
    would leave people in front of a form that they have sent.
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

    The rest stays as it is, letter by letter: taken apart and put together, `app:///done` would be `app:/done`.
    """
    added = urlencode({name: value for name, value in parameters.items() if value is not None})
    if "?" not in uri:
        return f"{uri}?{added}"
    return f"{uri}{added}" if uri.endswith("?") else f"{uri}&{added}"
