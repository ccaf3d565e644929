"""Which names a server may connect to."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_WILDCARD = "*."
_MAX_NAME_LENGTH = 253  # RFC 1035, section 2.3.4, as text without the last dot


class InvalidDomainError(ValueError):
    """It is neither a name such as api.github.com, nor one such as *.github.com."""


def parse_name(text: str) -> str | None:
    """Return a host name in the form that names are compared in, None where it is none.

    Upper case and one last dot mean the same name (RFC 4343, RFC 1034, section 3.1). An IP address is no name: no last
    label of one consists of digits (RFC 3696, section 2). Other alphabets come in the form of RFC 5890.
    """
    name = text.lower().removesuffix(".")
    if len(name) > _MAX_NAME_LENGTH or not text.isascii() or not _NAME.fullmatch(name):
        return None
    return None if name.rpartition(".")[2].isdigit() else name


class Domains:
    """A list of names, and of wildcards such as `*.github.com`: every name below this one, but not itself."""

    def __init__(self, domains: Iterable[str]) -> None:
        """Raises InvalidDomainError."""
        self._names = set()
        suffixes = set()
        for domain in domains:
            base = domain.removeprefix(_WILDCARD)
            if parse_name(base) != base:
                raise InvalidDomainError(domain)
            if base == domain:
                self._names.add(domain)
            else:
                suffixes.add(f".{base}")
        self._suffixes = tuple(suffixes)

    def __contains__(self, name: str) -> bool:
        """Whether the list has this name, which `parse_name` has returned."""
        return name in self._names or name.endswith(self._suffixes)
