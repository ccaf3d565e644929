"""Make the clients of the operator, whom the settings declare or a command has created, as registered ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from auth_service.protocol import jwk_sets, redirect_uris
from auth_service.protocol.clients import (
    CLIENT_CREDENTIALS,
    JWT_BEARER_GRANT,
    MACHINE_PREFIX,
    Client,
    ClientMetadata,
    hash_secret,
)
from auth_service.protocol.errors import OAuthError
from auth_service.protocol.jwk_sets import KeySetError
from auth_service.settings import Credentials, DeclaredClient, Settings, SettingsError
from auth_service.settings.credentials import option_of
from auth_service.storage.store import Store

if TYPE_CHECKING:
    from jwt.algorithms import AllowedOKPKeys


def check_clients(settings: Settings) -> None:
    """Check what does not depend on secrets. Raises SettingsError for a key or redirect URI that is not valid."""
    for name, declared in settings.declared_clients.items():
        for uri in declared.redirect_uris:
            try:
                redirect_uris.check(uri, settings.clients.redirect_schemes)
            except OAuthError as error:
                raise SettingsError(f"declared_clients.{name}.redirect_uris: {error.description}") from error
        _find_keys(name, declared)


def make_clients(settings: Settings, credentials: Credentials) -> dict[str, Client]:
    """Return the declared clients by their client_id. Raises SettingsError as `check_clients`, or without a secret."""
    check_clients(settings)
    return {
        name: _make(name, declared, _hash_secret_of(name, declared, credentials.declared_clients.get(name)))
        for name, declared in settings.declared_clients.items()
    }


def find_created(store: Store, settings: Settings, client_id: str) -> Client | None:
    """Return a client that the operator has created by command.

    It has lost a server whose name the settings now give to another URL. Raises ServiceUnavailable.
    """
    created = store.created_clients.find(client_id)
    if created is None:
        return None
    resources, urls = settings.resources, created.server_urls
    own = [
        name
        for name in created.declared.servers
        if not (name in resources and name in urls and resources[name].url != urls[name])
    ]
    declared = created.declared.model_copy(update={"servers": tuple(own)})
    return _make(client_id, declared, created.secret_hash)


def _hash_secret_of(name: str, declared: DeclaredClient, secret: str | None) -> str | None:
    if not declared.secret:
        return None
    if secret is None:
        credential = f"declared-client.{name}"
        raise SettingsError(
            f"declared_clients.{name}.secret: the credential {credential} is missing{option_of(credential)}"
        )
    return hash_secret(secret)


def _make(name: str, declared: DeclaredClient, secret_hash: str | None) -> Client:
    grants: tuple[str, ...] = ()
    if declared.servers:
        grants = (CLIENT_CREDENTIALS,)
    if declared.redirect_uris:
        grants = ("authorization_code", "refresh_token")
    if declared.user_assertions:
        grants = (*grants, JWT_BEARER_GRANT)
    # Not validated as a stranger's metadata are: those never have this grant type, or no redirect URI.
    metadata = ClientMetadata.model_construct(
        redirect_uris=declared.redirect_uris,
        client_name=declared.title or name,
        token_endpoint_auth_method=auth_method_of(declared),
        grant_types=grants,
        jwks=_find_keys(name, declared),
        jwks_uri=declared.jwks_url,
    )
    return Client(
        client_id=name,
        metadata=metadata,
        secret_hash=secret_hash,
        other_auth_methods=("client_secret_post",) if secret_hash is not None else (),
        declared=declared,
    )


def auth_method_of(declared: DeclaredClient) -> str:
    """Return the method by which a declared client authenticates, or prefers to."""
    if declared.secret:
        return "client_secret_basic"
    keys = declared.public_key, declared.jwks, declared.jwks_url
    return "none" if all(each is None for each in keys) else "private_key_jwt"


def _find_keys(name: str, declared: DeclaredClient) -> dict[str, Any] | None:
    where = f"declared_clients.{name}"
    if declared.public_key is not None:
        return {"keys": [_parse_pem(f"{where}.public_key", declared.public_key)]}
    if declared.jwks is not None:
        try:
            jwk_sets.parse(declared.jwks)
        except KeySetError as error:
            raise SettingsError(f"{where}.jwks: {error}") from error
    return declared.jwks


def _parse_pem(where: str, pem: str) -> Mapping[str, Any]:
    if "PRIVATE KEY-----" in pem:
        raise SettingsError(
            f"{where}: is a private key; give the public one (.pub.pem), and make a new key pair, as this one may be "
            "in the Nix store"
        )
    try:
        key = load_pem_public_key(pem.encode())
        if isinstance(key, RSAPublicKey):
            text = RSAAlgorithm.to_jwk(key)
        elif isinstance(key, EllipticCurvePublicKey):
            text = ECAlgorithm.to_jwk(key)
        else:
            text = OKPAlgorithm.to_jwk(cast("AllowedOKPKeys", key))
        jwk: dict[str, Any] = json.loads(text)
        jwk.pop("key_ops", None)
        jwk_sets.parse({"keys": [jwk]})
    except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
        raise SettingsError(
            f"{where}: must be a public key in PEM, of an elliptic curve, Ed25519, or RSA with 2048 bits or more"
        ) from error
    return jwk


def user_of(name: str) -> str:
    """Return the user that a machine acts as."""
    return f"{MACHINE_PREFIX}{name}"
