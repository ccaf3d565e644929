"""Whose address a request counts for, behind proxies."""

from __future__ import annotations

import pytest

from auth_service.protocol.addresses import last_outside

PROXIES = ["10.0.0.0/8", "2001:db8::1/128"]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.0.0.1", "192.0.2.1"),
        ("198.51.100.9, 192.0.2.1, 10.0.0.1, 10.1.1.1", "192.0.2.1"),
        ("nonsense, 192.0.2.1,10.0.0.1", "192.0.2.1"),
        ("2001:db8::2, 2001:db8::1", "2001:db8::2"),
        ("10.0.0.1", None),
        ("", None),
        (" , ", None),
    ],
)
def test_it_is_the_last_that_no_proxy_has(header: str, address: str | None) -> None:
    assert last_outside(header, PROXIES) == address


@pytest.mark.parametrize("header", ["192.0.2.1, nonsense", "192.0.2.1, unknown, 10.0.0.1", "192.0.2.1:80"])
def test_what_a_proxy_could_not_have_written_is_an_error(header: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        last_outside(header, PROXIES)
