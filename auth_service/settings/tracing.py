"""Traces."""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from .values import Model, parse_base_url


def _parse_endpoint(value: str) -> str:
    if not re.fullmatch(r"https?://[^/]+/.+", parse_base_url(value)):
        raise ValueError("must have a path: collectors take traces at http://HOST:4318/v1/traces")
    if importlib.util.find_spec("opentelemetry") is None:
        raise ValueError("needs OpenTelemetry's SDK: install mcp-oauth-gateway[tracing]")
    return value


class Tracing(Model):
    """Traces, sent to a collector with OTLP."""

    endpoint: Annotated[str, AfterValidator(_parse_endpoint)] = Field(
        description="The collector's URL for traces (OTLP over HTTP), such as `http://127.0.0.1:4318/v1/traces`."
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="Which part of the requests to trace. A request that Traefik traces is traced here too, up to this "
        "part of all requests.",
    )
