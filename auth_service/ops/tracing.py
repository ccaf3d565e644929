"""Which requests are traced. Without a collector nothing here is used, and OpenTelemetry is not imported."""

from __future__ import annotations

import random
from typing import Final

from auth_service.protocol.trace_context import TraceContext

BURST: Final = 1000
"""How many traces more than their part of all requests may be sampled in a row."""


class Sampler:
    """Decides which requests are traced: as their callers do, but no more than the ratio of all requests.

    Traefik follows what a client says in `traceparent`. So a client could have each of its requests traced.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._left = float(BURST) if ratio else 0.0

    def samples(self, parent: TraceContext | None) -> bool:
        """Whether to trace this request."""
        self._left = min(self._left + self._ratio, float(BURST))
        wanted = random.random() < self._ratio if parent is None else parent.is_sampled  # noqa: S311 - no secret
        if not wanted or self._left < 1:
            return False
        self._left -= 1
        return True
