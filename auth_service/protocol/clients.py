"""OAuth clients: their validated metadata (RFC 7591 §2), and what each may do."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from auth_service.settings import AppScheme, DeclaredClient

from . import jwk_sets, redirect_uris, scopes
from .errors import OAuthError

GRANT_TYPES_SUPPORTED = ("authorization_code", "refresh_token")
CLIENT_CREDENTIALS = "client_credentials"
"""The grant type of clients that the operator has declared. No other client can have it."""
JWT_BEARER_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
"""The grant type with an assertion (RFC 7523 §2.1). No client can have it unless the operator has declared it so."""
ID_JAG_PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"
"""The profile of that grant type in which the identity provider vouches for users."""
MACHINE_PREFIX = "client:"
"""The user of a client with its own tokens is `client:NAME`, which no identity provider's subject can be."""
WORKLOAD_PREFIX = "workload:"
"""The user of a workload is `workload:NAME:SUB`, with the name of the trusted issuer; its client is `workload:NAME`."""
USER_ID_PREFIXES = ("github:", "oidc:", "headless:", "gateway:", MACHINE_PREFIX, WORKLOAD_PREFIX)
"""How users' ids begin. No login name may, as commands and logs take either."""
RESPONSE_TYPES_SUPPORTED = ("code",)
REGISTRATION_AUTH_METHODS = ("none", "client_secret_post", "client_secret_basic", "private_key_jwt")
GENERATED_ID_PREFIX = "mcp_"
"""Tells generated identifiers from those of client documents, which are https URLs."""

MAX_REDIRECT_URIS = 20
MAX_METADATA_BYTES = 8 * 1024

_Text = Annotated[str, Field(max_length=2048)]

_DESCRIPTIVE: Final = frozenset(
    {
        *("client_name", "client_uri", "logo_uri", "tos_uri", "policy_uri", "contacts"),
        *("software_id", "software_version", "application_type", "scope"),
    }
)
"""Members that decide nothing: if the value of one is not valid, the member counts as absent (RFC 7591 §2)."""
_KEY_MEMBERS: Final = frozenset({"jwks", "jwks_uri", "token_endpoint_auth_signing_alg"})
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {}, {"keys": []})


def hash_secret(secret: str) -> str:
    """Return the stored form of a secret. Plain SHA-256 is enough, as our secrets have 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class ClientMetadata(BaseModel):
    """The metadata of a client. Unknown members are ignored (RFC 7591 §2)."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    redirect_uris: tuple[str, ...] = Field(min_length=1, max_length=MAX_REDIRECT_URIS, strict=False)
    client_name: Annotated[str, Field(max_length=200)] | None = None
    token_endpoint_auth_method: str = "client_secret_basic"  # noqa: S105 -- RFC 7591 §2 default, no secret
    grant_types: tuple[_Text, ...] = Field(default=("authorization_code",), strict=False, max_length=20)
    response_types: tuple[_Text, ...] = Field(default=("code",), strict=False, max_length=20)
    application_type: str = "web"
    scope: _Text | None = None
    client_uri: _Text | None = None
    logo_uri: _Text | None = None
    tos_uri: _Text | None = None
    policy_uri: _Text | None = None
    contacts: tuple[_Text, ...] | None = Field(default=None, strict=False, max_length=20)
    software_id: _Text | None = None
    software_version: _Text | None = None
    token_endpoint_auth_signing_alg: _Text | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: _Text | None = None

    @field_validator("token_endpoint_auth_signing_alg")
    @classmethod
    def _is_known_algorithm(cls, value: str | None) -> str | None:
        if value is not None and value not in jwk_sets.ALGORITHMS:
            raise ValueError(f"must be one of {', '.join(jwk_sets.ALGORITHMS)}")
        return value

    @field_validator("jwks")
    @classmethod
    def _has_public_keys(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            jwk_sets.parse(value)
        return value

    @field_validator("application_type")
    @classmethod
    def _is_known_type(cls, value: str) -> str:
        if value not in {"web", "native"}:
            raise ValueError("must be web or native")
        return value

    @field_validator("client_uri", "logo_uri", "tos_uri", "policy_uri")
    @classmethod
    def _is_web_page(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must be an http or https URL")
        return value

    @field_validator("grant_types")
    @classmethod
    def _keep_supported_grants(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # Unsupported grant types are left out, and the response says which are registered (RFC 7591 §2).
        kept = tuple(grant for grant in GRANT_TYPES_SUPPORTED if grant in value)
        if "authorization_code" not in kept:
            raise ValueError("must contain authorization_code")
        return kept

    @field_validator("response_types")
    @classmethod
    def _keep_supported_responses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "code" not in value:
            raise ValueError("must contain code")
        return RESPONSE_TYPES_SUPPORTED

    @model_validator(mode="after")
    def _has_keys_once(self) -> ClientMetadata:
        if self.jwks is not None and self.jwks_uri is not None:
            raise ValueError("jwks and jwks_uri exclude each other")
        if self.token_endpoint_auth_method == "private_key_jwt" and self.jwks is None and self.jwks_uri is None:  # noqa: S105
            raise ValueError("private_key_jwt needs the client's public keys in jwks")
        return self


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client as stored."""

    client_id: str
    metadata: ClientMetadata
    secret_hash: str | None = None
    registration_token_hash: str | None = None
    issued_at: int = 0
    other_auth_methods: tuple[str, ...] = ()
    """Further methods by which the client may authenticate, which only a client document can name."""
    declared: DeclaredClient | None = None
    """What the operator has declared of it, if it is a client of the operator."""

    def __post_init__(self) -> None:
        if (self.secret_hash is not None) != self.auth_method.startswith("client_secret_"):
            raise ValueError("a client has a secret exactly if it authenticates with one")

    @property
    def digest(self) -> str:
        """A digest of all metadata of the client."""
        members = [self.client_id, self.metadata.model_dump(mode="json"), sorted(self.other_auth_methods)]
        return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()

    @property
    def auth_method(self) -> str:
        """The method by which this client authenticates, or prefers to."""
        return self.metadata.token_endpoint_auth_method

    @property
    def name(self) -> str:
        """The name that pages show, or the identifier of a client without a name."""
        return self.metadata.client_name or self.client_id

    def check_client_secret(self, unverified_secret: str) -> bool:
        """Whether this is the client's secret."""
        return self.secret_hash is not None and hmac.compare_digest(hash_secret(unverified_secret), self.secret_hash)

    def check_registration_token(self, unverified_token: str) -> bool:
        """Whether this is the token that manages the registration (RFC 7592 §1.2)."""
        return self.registration_token_hash is not None and hmac.compare_digest(
            hash_secret(unverified_token), self.registration_token_hash
        )

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """Whether the client may authenticate by this method, at any endpoint."""
        return method == self.auth_method or method in self.other_auth_methods

    def check_redirect_uri(self, requested: str) -> bool:
        """Whether the client registered this redirect URI."""
        return any(redirect_uris.matches(uri, requested) for uri in self.metadata.redirect_uris)

    def get_default_redirect_uri(self) -> str | None:
        """Return the redirect URI of a request that names none: the only one that is registered."""
        return self.metadata.redirect_uris[0] if len(self.metadata.redirect_uris) == 1 else None

    def check_grant_type(self, grant_type: str) -> bool:
        """Whether the client may use this grant type."""
        return grant_type in self.metadata.grant_types


def parse_metadata(
    document: Any,
    *,
    auth_methods: tuple[str, ...] = REGISTRATION_AUTH_METHODS,
    keys_by_reference: bool = False,
    apps: Mapping[str, AppScheme] = redirect_uris.NO_APPS,
) -> ClientMetadata:
    """Validate the metadata of a registration or a client document. Optional members that are not valid are ignored.

    `keys_by_reference` is for client documents, which alone may have `jwks_uri`. Raises OAuthError
    `invalid_redirect_uri` or `invalid_client_metadata` (RFC 7591 §3.2.2), which names the member.
    """
    if not isinstance(document, dict):
        raise OAuthError("invalid_client_metadata", "the body must be a JSON object")
    present = {name: value for name, value in document.items() if name == "redirect_uris" or not _is_empty(value)}
    listed = present.get("token_endpoint_auth_methods_supported") if keys_by_reference else ()
    if not _names_keys(present.get("token_endpoint_auth_method"), listed):
        present = {name: value for name, value in present.items() if name not in _KEY_MEMBERS}
    try:
        metadata = _validate(present)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        member = str(first["loc"][0]) if first["loc"] else ""
        code = "invalid_redirect_uri" if member == "redirect_uris" else "invalid_client_metadata"
        raise OAuthError(code, f"{member + ': ' if member else ''}{_explain(first)}") from error
    if metadata.jwks_uri is not None and not keys_by_reference:
        raise OAuthError("invalid_client_metadata", "jwks_uri: registrations give the public keys in jwks")
    for uri in metadata.redirect_uris:
        redirect_uris.check(uri, apps)
    if metadata.token_endpoint_auth_method not in auth_methods:
        raise OAuthError(
            "invalid_client_metadata", f"token_endpoint_auth_method must be one of {', '.join(auth_methods)}"
        )
    try:
        size = len(metadata.model_dump_json(exclude_none=True))
    except ValueError as error:  # a key set that is nested too deeply, or has half of a surrogate pair
        raise OAuthError("invalid_client_metadata", "jwks: cannot be written as JSON") from error
    # The limits of the members add up to more than a stranger may store.
    if size > MAX_METADATA_BYTES:
        raise OAuthError("invalid_client_metadata", f"the metadata is larger than {MAX_METADATA_BYTES} bytes")
    return metadata


def _is_empty(value: Any) -> bool:
    return value in _EMPTY or (isinstance(value, str) and not value.strip())


def _names_keys(method: Any, listed: Any) -> bool:
    """Whether the client authenticates by its own keys, or lists that as a method."""
    return "private_key_jwt" in (method, *(listed if isinstance(listed, list) else ()))


def _validate(present: dict[str, Any]) -> ClientMetadata:
    """Return the metadata without invalid descriptive members. Raises ValidationError for any other invalid member."""
    try:
        return ClientMetadata.model_validate(present)
    except ValidationError as error:
        useless = _DESCRIPTIVE & present.keys() & {each["loc"][0] for each in error.errors() if each["loc"]}
        if not useless:
            raise
    return ClientMetadata.model_validate({name: value for name, value in present.items() if name not in useless})


def _explain(error: ErrorDetails) -> str:
    """Return what is wrong with a member, for the author of the client."""
    limit = error.get("ctx", {}).get("max_length")
    texts = {
        "missing": "is missing",
        "too_short": "must name at least one",
        "too_long": f"must name no more than {limit}",
        "string_type": "must be a string",
        "string_too_long": f"must not be longer than {limit} characters",
        "tuple_type": "must be an array",
        "dict_type": "must be an object",
    }
    return texts.get(error["type"], error["msg"].removeprefix("Value error, "))


def with_known_scopes(metadata: ClientMetadata, *, supported: Collection[str]) -> ClientMetadata:
    """Return the metadata with known scopes only, as it is registered."""
    known = scopes.registered(scopes.parse(metadata.scope), supported=supported)
    return metadata.model_copy(update={"scope": " ".join(known) or None})


def information_response(client: Client, *, registration_uri: str) -> dict[str, Any]:
    """Return the client information response (RFC 7591 §3.2.1), to which the caller adds the secrets."""
    response: dict[str, Any] = client.metadata.model_dump(exclude_none=True)
    response["client_id"] = client.client_id
    response["client_id_issued_at"] = client.issued_at
    response["registration_client_uri"] = registration_uri
    if client.secret_hash is not None:
        response["client_secret_expires_at"] = 0
    return response
