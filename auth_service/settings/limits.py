"""Lifetimes and limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .values import Model, Seconds


class Lifetimes(Model):
    """Lifetimes, in seconds."""

    access_token: Seconds = 3600
    refresh_token: Seconds = 30 * 24 * 3600
    authorization_code: Annotated[int, Field(gt=0, le=60)] = 60
    login: Annotated[int, Field(gt=0, le=600)] = 600
    session: Seconds = Field(
        default=7 * 24 * 3600, description="The longest time for which a browser stays signed in to the account page."
    )
    signing_key: Annotated[int, Field(ge=3600)] | None = Field(
        default=90 * 24 * 3600,
        description="How long a key signs before the next does; null: until the operator rotates it.",
    )
    unused_client: Seconds = Field(
        default=7 * 24 * 3600,
        description="How long a registration is kept without a login, and after its last grant.",
    )
    unconfirmed_user: Seconds = Field(
        default=24 * 3600,
        description="How long after a login tokens can be refreshed if the provider gave no token to ask it again.",
    )


class RateLimit(Model):
    """How many requests one address (one /64 in IPv6) may make; Traefik answers 429 to more."""

    average: Annotated[int, Field(ge=1)] = Field(description="Requests per period without end.")
    period: Seconds = Field(default=1, description="In seconds.")
    burst: Annotated[int, Field(ge=1)] = Field(description="Requests at once.")


class RateLimits(Model):
    """Rate limits of the public endpoints. Users of one hosted client share its addresses."""

    registration: RateLimit = RateLimit(average=1, burst=30)
    authorization: RateLimit = Field(
        default=RateLimit(average=5, burst=100), description="The pages of a login, which is three requests or more."
    )
    token: RateLimit = Field(
        default=RateLimit(average=50, burst=200), description="The token, revocation and introspection endpoints."
    )
    metadata: RateLimit = Field(default=RateLimit(average=50, burst=200), description="Discovery documents and keys.")


class Limits(Model):
    """Limits of one address, client or user."""

    registrations_per_hour: Annotated[int, Field(ge=1)] = Field(
        default=60, description="New registrations from one address (one /64 in IPv6)."
    )
    unused_clients: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="All registrations without a login; the oldest are removed first."
    )
    grants_per_client: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Live grants of one user for one client; the least recently used end first."
    )
    token_requests_per_minute: Annotated[int, Field(ge=1)] = Field(
        default=120, description="Token requests in the name of one client from one address."
    )
    rates: RateLimits = RateLimits()
