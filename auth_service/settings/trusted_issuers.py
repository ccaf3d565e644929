"""Issuers of tokens that workloads exchange for access tokens, such as the jobs of GitHub Actions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from .declared_clients import MAX_LIFETIME
from .values import IssuerUrl, Model, ResourceName, ScopeName

IssuerName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
MAX_SUBJECT_LENGTH: Final = 255

_SEPARATORS: Final = re.compile(r"[:/]")
_WILDCARD: Final = "[^:/]+"


def _parse_subject(pattern: str) -> str:
    """Accept a pattern for subjects that can match no more than it seems to."""
    if not pattern.isprintable():
        raise ValueError("must be printable")
    segments = _SEPARATORS.split(pattern)
    if "*" in segments[0]:
        raise ValueError("must begin with text before the first `*`, up to a `:` or `/`")
    for segment in segments[:-1]:
        if "*" in segment and segment != "*":
            raise ValueError("a `*` before the last `:` or `/` must be all that stands between two of them")
    if "*" in segments[-1].removesuffix("*"):
        raise ValueError("a `*` after the last `:` or `/` must be at the end")
    return pattern


SubjectPattern = Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_LENGTH), AfterValidator(_parse_subject)]


class TrustedIssuer(Model):
    """An issuer whose tokens become access tokens (RFC 7523 §2.1) of workloads, which have no secret of their own."""

    issuer: IssuerUrl = Field(description="Exactly as the claim `iss` has it.")
    audience: Annotated[str, Field(min_length=1)] = Field(
        description="The claim `aud`. Entries with the same issuer have different audiences."
    )
    subjects: tuple[SubjectPattern, ...] = Field(
        min_length=1,
        strict=False,
        description="The whole claim `sub` must match one of these. `*` stands for one or more characters other than "
        "`:` and `/`.",
    )
    claims: dict[str, StrictStr | StrictBool | StrictInt] = Field(
        default={}, description="Other claims that the token must have, with exactly these values."
    )
    jwks: dict[str, Any] | None = Field(
        default=None,
        description="The issuer's public keys as a JWK set. Without it, they are found by the issuer's discovery "
        "document.",
    )
    servers: tuple[ResourceName, ...] = Field(
        min_length=1, strict=False, description="The servers that the workloads may use."
    )
    scopes: tuple[ScopeName, ...] = Field(
        default=(),
        strict=False,
        description="The scopes that they may have at these servers, in addition to those that each request needs.",
    )
    lifetime: Annotated[int, Field(gt=0, le=MAX_LIFETIME)] = Field(
        default=900, description="For how many seconds an access token is valid."
    )

    def admits_subject(self, subject: str) -> bool:
        """Whether a workload with this subject is one of those that the operator names."""
        return any(_compile(pattern).fullmatch(subject) for pattern in self.subjects)

    def has_claims(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token has all the claims that the operator demands. A number is no text, and true is not 1."""
        return all(
            type(claims.get(name)) is type(value) and claims[name] == value for name, value in self.claims.items()
        )


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(_WILDCARD.join(re.escape(part) for part in pattern.split("*")))
