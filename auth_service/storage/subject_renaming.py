"""Rename the users of GitHub Enterprise Server, whose subjects now name the server.

Earlier versions called the user 583231 of every GitHub server `github:583231`. Now only users of github.com have this
form, and those of an Enterprise Server are called `github:HOST:583231`. Older records in Redis belong to the server
that is configured when this version first starts. A marker says that they are renamed, so that no user is renamed when
the operator changes to another server later.
"""

from __future__ import annotations

from typing import Final, cast

import redis

from .redis_client import denies_when_unavailable
from .scripts import RENAME

MARKER: Final = "subjects-name-servers"
"""The key that is set once the subjects are renamed."""


class SubjectRenaming:
    """Renames subjects in Redis. Raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._rename = connection.register_script(RENAME)

    @denies_when_unavailable
    def name_servers(self, provider: str) -> int:
        """Rename all subjects of the former form, only once; return the number of renamed entries.

        `provider` is the prefix of the configured provider's subjects.
        """
        server = provider if provider.startswith("github:") else ""
        in_replacement = server.replace("%", "%%")  # Lua's gsub reads `%` in a replacement as a reference
        return max(cast("int", self._rename(keys=[MARKER], args=[server, in_replacement])), 0)
