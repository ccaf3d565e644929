"""`requestState`: a signed value that names the suspended call which a retry continues. No I/O, no clock.

2026-07-28, "Multi Round-Trip Requests", server requirements 4 and 5. Not checked here: that a state is used only once,
which SuspendedCalls does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from . import jsonrpc
from .errors import HttpError, bad_request
from .jsonrpc import Message
from .signing import SIGNER_OPTIONS

# Parameters that differ between a request and its retry.
_PER_ATTEMPT = frozenset({"_meta", "inputResponses", "requestState"})


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a state stands for: the suspended call, its user and request, and when it expires (the caller's clock)."""

    call: str
    user: str
    resource: str | None
    request: Message
    expires: float


class RequestStates:
    """Signs and verifies states with a key that only this bridge has."""

    def __init__(self, key: bytes) -> None:
        self._serializer = URLSafeSerializer(key, salt="request-state", signer_kwargs=dict(SIGNER_OPTIONS))

    def sign(self, claim: Claim) -> str:
        """Make the state for a claim."""
        return str(
            self._serializer.dumps([claim.call, claim.expires, binding_of(claim.user, claim.resource, claim.request)])
        )

    def verify(self, unverified_state: object, *, user: str, resource: str | None, request: Message, now: float) -> str:
        """Return the suspended call's id. Raises HttpError: forged, expired, of another user, resource or request."""
        if not isinstance(unverified_state, str):
            raise refused("requestState must be a string")
        try:
            payload = self._serializer.loads(unverified_state)
            call, expires, binding = payload
        except (BadData, TypeError, ValueError) as error:
            raise refused("this server has not issued this requestState") from error
        # "Clients MUST echo back the exact value": base64 has unused bits, so that other values would verify as well.
        if self._serializer.dumps(payload) != unverified_state:
            raise refused("this server has not issued this requestState")
        if not isinstance(call, str) or binding != binding_of(user, resource, request):
            raise refused("requestState belongs to another request")
        if not isinstance(expires, int | float) or expires <= now:
            raise refused("requestState has expired: send the request again without it")
        return call


def refused(text: str) -> HttpError:
    """400: the state, or what comes with it, cannot be used."""
    return bad_request(jsonrpc.INVALID_PARAMS, text)


def binding_of(user: str, resource: str | None, request: Message) -> str:
    """Return a digest of a user's request, without the parameters that differ between it and its retry."""
    params = {name: value for name, value in jsonrpc.params_of(request).items() if name not in _PER_ATTEMPT}
    bound = [user, resource, request["method"], params]
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
