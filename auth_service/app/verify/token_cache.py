"""The tokens that a worker has checked, with the answer for each; and forged ones, which it does not check again."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from auth_service.app.responses import Response
from auth_service.keys.access_tokens import VerifiedClaims

from .grant_liveness import GrantLiveness

MAX_TOKENS: Final = 32_768
"""How many tokens a worker remembers, at about 3 KiB each. Only tokens that this service has signed are remembered."""
MAX_FORGERIES: Final = 4096
"""How many forged tokens are remembered, at about 150 bytes each, whose signature is not checked again."""


@dataclass(slots=True, eq=False)
class CheckedToken:
    """A token of this service for this resource, and the answer for it while its grant is live."""

    grant: GrantLiveness
    claims: VerifiedClaims
    answer: Response
    outcome: str
    fresh_from: float
    fresh_until: float

    def is_fresh(self) -> bool:
        """Whether the answer may be given again. After a clock was set back, an answer from the future may not."""
        return self.fresh_from <= time.time() < self.fresh_until


class TokenCache:
    """Checked tokens, by resource and header, and the digests of forged ones. What was used least recently goes."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[tuple[str, bytes], CheckedToken] = OrderedDict()
        self._forgeries: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, key: tuple[str, bytes]) -> CheckedToken | None:
        """Return a token that was checked before; its answer may not be fresh any more."""
        return self._tokens.get(key)

    def keep(self, key: tuple[str, bytes], token: CheckedToken) -> None:
        """Keep a token that has just been checked."""
        self._tokens[key] = token
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)

    def note_use(self, key: tuple[str, bytes]) -> None:
        """Note that a token was used; it may be gone."""
        if key in self._tokens:
            self._tokens.move_to_end(key)

    def drop(self, key: tuple[str, bytes]) -> None:
        """Forget a token that is not valid any more."""
        self._tokens.pop(key, None)

    def clear(self) -> None:
        """Forget all tokens, but not the forged ones."""
        self._tokens.clear()

    def is_forged(self, digest: bytes) -> bool:
        """Whether the token of this digest was found to be forged."""
        return digest in self._forgeries

    def note_forged(self, digest: bytes) -> None:
        """Remember a forged token."""
        self._forgeries[digest] = None
        if len(self._forgeries) > MAX_FORGERIES:
            self._forgeries.popitem(last=False)

    @property
    def forgeries(self) -> int:
        """How many forged tokens are remembered."""
        return len(self._forgeries)
