"""Decide whether the present settings allow what a workload or a declared client was granted earlier.

Such a grant has a *basis*: what was verified when it was made. Of a workload it is the issuer, the audience, the claims
that the settings demanded, and the key; of a client it is its key or secret, or the redirect URI of a user's login. The
grant's access tokens carry the basis, so that each worker decides by its own settings, without Redis. A token or grant
is refused if the settings now demand something that its basis lacks. Settings that demand less than before end nothing.

The basis consists of keyed digests. So a token shows no value of a claim, and does not help to guess a secret.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Final, Protocol

from auth_service.keys.access_tokens import VerifiedClaims
from auth_service.protocol import jwk_sets, redirect_uris
from auth_service.protocol.clients import WORKLOAD_PREFIX, Client
from auth_service.protocol.jwk_sets import VerificationKey
from auth_service.settings import Credentials, Resource, Settings, TrustedIssuer
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store

from .declared_clients import make_clients, user_of
from .revocation import Revocation

_DIGEST_BYTES: Final = 12
_ENDING_SECONDS: Final = 10


class Rights(Protocol):
    """What the operator lets a machine or workload do."""

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that it may use."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that it may have, in addition to those that each request needs."""

    @property
    def lifetime(self) -> int:
        """For how many seconds a token is valid."""


def scopes_for(rights: Rights, resource: Resource) -> list[str]:
    """Return the scopes that a machine or workload may have at a server."""
    return [scope for scope in resource.scopes if scope in resource.required_scopes or scope in rights.scopes]


class SettingsTrust:
    """Make and check the bases of grants."""

    def __init__(self, settings: Settings, declared: Mapping[str, Client], *, key: bytes) -> None:
        """`declared` are the clients of the settings by their client_id. `key` is secret, and the same at all hosts."""
        self._settings = settings
        self._declared = declared
        self._key = key

    @property
    def declared(self) -> frozenset[str]:
        """The client_ids of the declared clients."""
        return frozenset(self._declared)

    def basis_of_workload(self, trusted: TrustedIssuer, key: VerificationKey) -> str:
        """Return the basis of a workload whose token fits this entry of the settings and is signed with this key."""
        return " ".join((*sorted(self._demands(trusted)), self._of_key(key)))

    def basis_of_machine(self, client: Client, key: VerificationKey | None) -> str:
        """Return the basis of what a client is granted for itself. `key` is the one with which it authenticated."""
        return self._proof(client, key) if self._is_declared(client) else ""

    def basis_of_user_assertion(self, client: Client, key: VerificationKey | None) -> str:
        """Return the basis of what a client is granted by an assertion about a user (ID-JAG)."""
        return f"{self._proof(client, key)} {self._digest('user assertion')}" if self._is_declared(client) else ""

    def basis_of_login(self, client: Client, redirect_uri: str) -> str:
        """Return the basis of what a user grants a client. It has no key or secret, which each refresh demands."""
        return self._of_redirect_uri(redirect_uri) if self._is_declared(client) else ""

    def allows_token(self, claims: VerifiedClaims) -> bool:
        """Whether the settings still allow what an access token is for. Its expiry and its grant are not checked."""
        return self._allows(
            client_id=claims.client_id,
            subject=claims.subject,
            resource_url=claims.audience,
            scope=claims.scope,
            basis=claims.basis,
        )

    def allows_grant(self, grant: Grant) -> bool:
        """Whether the settings still allow a grant, as far as workloads and declared clients are concerned."""
        return self._allows(
            client_id=grant.client_id,
            subject=grant.sub,
            resource_url=grant.resource,
            scope=grant.scope,
            basis=grant.basis,
        )

    def _allows(self, *, client_id: str, subject: str, resource_url: str, scope: str, basis: str) -> bool:
        verified = frozenset(basis.split())
        if client_id.startswith(WORKLOAD_PREFIX):
            trusted = self._settings.trusted_issuers.get(client_id.removeprefix(WORKLOAD_PREFIX))
            return (
                trusted is not None
                and self._may_have(trusted, resource_url, scope)
                and self._admits_workload(trusted, subject.removeprefix(f"{client_id}:"), verified)
            )
        client = self._declared.get(client_id)
        if client is None or client.declared is None:
            return not verified  # a basis is left of a declaration that is gone
        if subject == user_of(client_id):
            return self._may_have(client.declared, resource_url, scope) and self._has_proof(client, verified)
        if self._digest("user assertion") in verified:
            return client.declared.user_assertions and self._has_proof(client, verified)
        return not verified.isdisjoint(map(self._of_redirect_uri, client.declared.redirect_uris))

    def _admits_workload(self, trusted: TrustedIssuer, subject: str, verified: frozenset[str]) -> bool:
        """Whether the token of a workload, of which this was verified, would be accepted by this entry now."""
        has_key = trusted.jwks is None or not verified.isdisjoint(self._keys_of(trusted.jwks))
        return trusted.admits_subject(subject) and self._demands(trusted) <= verified and has_key

    def _has_proof(self, client: Client, verified: frozenset[str]) -> bool:
        """Whether the client has authenticated with what the settings accept now."""
        return not verified.isdisjoint(self._proofs(client))

    def _may_have(self, rights: Rights, resource_url: str, scope: str) -> bool:
        name = self._settings.find_resource_name(resource_url)
        if name is None or name not in rights.servers:
            return False
        return set(scope.split()) <= set(scopes_for(rights, self._settings.resources[name]))

    def _is_declared(self, client: Client) -> bool:
        """Whether the settings declare the client. No settings change one that was created by command."""
        return client.client_id in self._declared

    # What was verified

    def _demands(self, trusted: TrustedIssuer) -> set[str]:
        """Return what must have been verified of each workload of an issuer."""
        claims = {self._digest("claim", name, value) for name, value in trusted.claims.items()}
        return {self._digest("issuer", trusted.issuer), self._digest("audience", trusted.audience), *claims}

    def _proof(self, client: Client, key: VerificationKey | None) -> str:
        """Return what a client has just authenticated with: this key, or else its secret or the URL of its keys."""
        if key is not None and client.metadata.jwks is not None:
            return self._of_key(key)
        (only,) = self._proofs(client)
        return only

    def _proofs(self, client: Client) -> set[str]:
        """Return what the settings let a client authenticate with."""
        metadata = client.metadata
        if metadata.jwks is not None:
            return self._keys_of(metadata.jwks)
        if metadata.jwks_uri is not None:
            # The client changes these keys itself, and the settings do not.
            return {self._digest("keys at", metadata.jwks_uri)}
        return {self._digest("secret", client.secret_hash)}

    def _keys_of(self, jwks: Mapping[str, object]) -> set[str]:
        return {self._of_key(key) for key in jwk_sets.parse(jwks)}

    def _of_key(self, key: VerificationKey) -> str:
        return self._digest("key", key.thumbprint)

    def _of_redirect_uri(self, uri: str) -> str:
        return self._digest("redirect URI", redirect_uris.without_port(uri))

    def _digest(self, *fact: str | int | None) -> str:
        digest = hmac.digest(self._key, json.dumps(fact).encode(), "sha256")[:_DIGEST_BYTES]
        return base64.urlsafe_b64encode(digest).decode()


def make_trust(settings: Settings, credentials: Credentials) -> SettingsTrust:
    """Return what decides by these settings. Raises SettingsError."""
    return SettingsTrust(settings, make_clients(settings, credentials), key=credentials.derive_key("grant-basis"))


def end_untrusted(trust: SettingsTrust, store: Store, revocation: Revocation) -> None:
    """End the grants of workloads and declared clients that the settings do not allow. Raises ServiceUnavailable."""
    with store.locks.only_one("end untrusted grants", seconds=_ENDING_SECONDS, wait=_ENDING_SECONDS):
        workloads = {f"{WORKLOAD_PREFIX}{name}" for name in store.workload_issuers.find()}
        for client_id in sorted(workloads | store.declared_clients.find() | trust.declared):
            live = store.grants.read(store.grants.find_ids_of_client(client_id))
            untrusted = [each.grant.sid for each in live if not trust.allows_grant(each.grant)]
            revocation.revoke_grants(untrusted, by="gateway", reason="the settings do not allow it any more")


def note_client(store: Store, grant: Grant) -> None:
    """Note whose grant this is if it has a basis, so that `end_untrusted` finds it. Raises ServiceUnavailable."""
    if grant.client_id.startswith(WORKLOAD_PREFIX):
        store.workload_issuers.note(grant.client_id.removeprefix(WORKLOAD_PREFIX))
    elif grant.basis:
        store.declared_clients.note(grant.client_id)
