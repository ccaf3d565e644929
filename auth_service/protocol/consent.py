"""When a user who has approved something need not be asked about it again.

The consent page is skipped only if every one of these holds; in any doubt the user is asked:

1. **The same.** User, client with all its metadata, redirect URI, server and scopes with what the page says of them are
   those that were approved. An approval is found by a digest over all of them, so that none can change unnoticed.
2. **This browser, this person.** The browser holds a live session of that user. After the identity provider has sent
   the browser back, the same user must have logged in, else they are asked (and the one browser that began must be the
   one that returns, as in every login: CVE-2026-27124).
3. **No other site.** `Sec-Fetch-Site` is there and says `none` or `same-origin`, for a document in a tab of its own:
   a site that sends the browser here makes the user look (GHSA-6x8h-498w-gv8c).
4. **Nobody else can use the answer.** `none` proves little: it survives redirects, so that a hostile server which a
   client takes for its authorization server can pass the browser on to this one, and any local program can open a
   browser. So the client itself must be sure: it authenticates at the token endpoint, or it is registered here (its
   identifier is no public URL) and its answer goes to an https address. All others, which means programs on the user's
   own machine, are asked each time (RFC 8252 §8.6, OAuth 2.1 on client impersonation).
5. **Not asked for.** The client did not send `prompt`.

Skipped is the page alone. The user still logs in at the identity provider, membership is checked, and the answer
carries `iss` and is bound by PKCE as ever.
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
class Approval:
    """What a user is shown, and approves."""

    client: Client
    redirect_uri: str
    resource_url: str
    server: str
    """What the server is called."""
    scopes: Mapping[str, Scope]

    @property
    def digest(self) -> str:
        """What tells this approval from every other; the user is not in it."""
        scopes = {name: scope.model_dump() for name, scope in self.scopes.items()}
        return _digest([self.client.digest, self.redirect_uri, self.resource_url, self.server, scopes])

    @property
    def recipient(self) -> str:
        """What stays the same while one application asks again: as `digest`, whatever port it listens on, and without
        what it asks for.
        """
        return _digest([self.client.digest, redirect_uris.without_port(self.redirect_uri), self.resource_url])


def _digest(members: list[object]) -> str:
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def is_direct(headers: Mapping[str, str]) -> bool:
    """Whether the browser says that no other site made it come here, and that this is a page in a tab (rule 3)."""
    return (
        headers.get("Sec-Fetch-Site") in {"none", "same-origin"}
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest", "document") == "document"
    )


def is_assured(client: Client, redirect_uri: str) -> bool:
    """Whether nobody but the client can use an answer that goes to that address (rule 4)."""
    if not client.check_endpoint_auth_method("none", "token"):
        return True
    return client.client_id.startswith(GENERATED_ID_PREFIX) and redirect_uri.startswith("https://")


def may_be_remembered(approval: Approval, parameters: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    """Whether rules 3 to 5 allow that a remembered approval answers this request."""
    return is_direct(headers) and is_assured(approval.client, approval.redirect_uri) and "prompt" not in parameters
