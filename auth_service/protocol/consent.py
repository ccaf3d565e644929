"""When a remembered consent replaces the consent page.

The consent page is skipped only if every one of these holds; in any doubt the user is asked:

1. **The same request.** The user, the client with all its metadata, the redirect URI, the server, and the scopes with
   their descriptions are those that the user allowed. A consent is found by a digest of all of them, so that a change
   of any of them is noticed.
2. **The same browser and user.** The browser has a live session of that user. The same user must then have logged in at
   the identity provider; otherwise the page is shown. As in every login, the browser that returns must be the one that
   began (CVE-2026-27124).
3. **No other site.** `Sec-Fetch-Site` is `none` or `same-origin`, for a document in a tab: if another site sends the
   browser here, the user sees the page (GHSA-6x8h-498w-gv8c).
4. **No other client can use the answer.** `Sec-Fetch-Site: none` proves little. It survives redirects, so a hostile
   server that a client takes for its authorization server can redirect the browser to this one; and any local program
   can open a browser. So the client itself must be certain: it authenticates at the token endpoint, or it is registered
   here (its identifier is no public URL) and its answer goes to an https address. For all other clients, which are
   programs on the user's machine, the page is shown each time (RFC 8252 §8.6, OAuth 2.1 on client impersonation).
5. **No prompt.** The client did not send `prompt`.

Only the page is skipped. The user still logs in at the identity provider, memberships are checked, and the answer has
`iss` and is bound by PKCE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from auth_service.settings import Scope

from . import redirect_uris
from .clients import GENERATED_ID_PREFIX, Client

REMEMBERED_SECONDS = 90 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the page shows, and what the user allows."""

    client: Client
    redirect_uri: str
    resource_url: str
    server: str
    """The title of the server."""
    scopes: Mapping[str, Scope]

    @property
    def digest(self) -> str:
        """What tells this consent from every other; the user is not in it."""
        scopes = {name: scope.model_dump(include={"description", "required"}) for name, scope in self.scopes.items()}
        return _digest([self.client.digest, self.redirect_uri, self.resource_url, self.server, scopes])

    @property
    def recipient(self) -> str:
        """What is the same in all requests of one application: the digest without the scopes and the loopback port."""
        return _digest([self.client.digest, redirect_uris.without_port(self.redirect_uri), self.resource_url])


def _digest(members: list[object]) -> str:
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def is_direct(headers: Mapping[str, str]) -> bool:
    """Whether the browser says that no other site sent it here, and that it opens a page in a tab (rule 3)."""
    return (
        headers.get("Sec-Fetch-Site") in {"none", "same-origin"}
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest", "document") == "document"
    )


def is_assured(client: Client, redirect_uri: str) -> bool:
    """Whether only this client can use an answer that goes to that address (rule 4)."""
    if not client.check_endpoint_auth_method("none", "token"):
        return True
    return client.client_id.startswith(GENERATED_ID_PREFIX) and redirect_uri.startswith("https://")


def may_be_remembered(consent: Consent, parameters: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    """Whether rules 3 to 5 allow that a remembered consent answers this request."""
    return is_direct(headers) and is_assured(consent.client, consent.redirect_uri) and "prompt" not in parameters
