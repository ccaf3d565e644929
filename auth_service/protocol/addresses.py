"""Which network addresses are public. A URL that a client chooses may lead to no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

# IANA's special-purpose registries, and a public address at which a cloud provider serves secrets.
_SPECIAL_IPV4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# All other addresses are special: mapped and translated IPv4 (NAT64 too), unique local, link-local, multicast.
_GLOBAL_UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_IPV6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4 leads to any IPv4 address
        "3fff::/20",
    )
]


def is_public(address: str) -> bool:
    """Whether this text is an address of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _SPECIAL_IPV4)
    return (
        parsed.scope_id is None
        and parsed in _GLOBAL_UNICAST_IPV6
        and not any(parsed in network for network in _SPECIAL_IPV6)
    )


def quota_key(address: str) -> str:
    """Return the network that one customer of an internet provider has: an IPv4 address, or a /64 of IPv6."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return str(parsed)


def last_outside(forwarded_for: str, proxies: Sequence[str]) -> str | None:
    """Return the last address of an `X-Forwarded-For` header that is not one of the proxies.

    The proxies have written the entries to its right; anyone may have written those to its left. Raises ValueError if
    an entry before it is no address.
    """
    networks = [ipaddress.ip_network(proxy) for proxy in proxies]
    for entry in reversed(forwarded_for.split(",")):
        if text := entry.strip():
            address = ipaddress.ip_address(text)
            if not any(address in network for network in networks):
                return text
    return None
