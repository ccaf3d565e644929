"""Bodies without a Content-Length, in chunks and over HTTP/2, through the real router."""

from __future__ import annotations

from tests.e2e.conftest import RunningStack
from tests.e2e.framings import Chunked, http2_proxy, walk_through


def test_every_endpoint_reads_a_body_in_chunks(stack: RunningStack) -> None:
    walk_through(stack.issuer, stack.resource("time"), Chunked())


def test_every_endpoint_reads_a_body_over_http2_without_a_length(stack: RunningStack) -> None:
    with http2_proxy(stack.port) as adapter:
        walk_through(stack.issuer, stack.resource("time"), adapter)
