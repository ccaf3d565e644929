"""The auth service of the gateway: the authorization server, and the check of each request to an MCP server."""

from __future__ import annotations

import sys

if "opentelemetry" not in sys.modules:
    # redis-py loads OpenTelemetry's SDK wherever that is installed: 3 MiB, for metrics that nobody has asked it for.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # it takes this for "not installed"
    try:
        import redis  # noqa: F401
    finally:
        del sys.modules["opentelemetry"]
