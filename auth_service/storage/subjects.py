"""Users of GitHub Enterprise Server, under the names that they have had since their server is in them.

Earlier versions called the user 583231 of every GitHub server `github:583231`. Now only those of github.com are called
so, and those of an Enterprise Server `github:HOST:583231`. What Redis holds from before belongs to the server that is
configured when this version first starts on it; a marker says that this has happened, so that nobody is renamed when
the operator goes over to another server later.
"""

from __future__ import annotations

from typing import Final, cast

import redis

from .redis_client import denies_when_unavailable
from .scripts import RENAME

MARKER: Final = "subjects-name-servers"
"""The key that is there once no user has a name of the former kind, or none has to lose it."""


class Subjects:
    """The names of users that Redis holds. Raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._rename = connection.register_script(RENAME)

    @denies_when_unavailable
    def name_servers(self, provider: str) -> int:
        """Rename all users who have a name of the former kind, once and for all; return how many entries of users were.

        `provider` is what the subjects of the configured provider begin with.
        """
        server = provider if provider.startswith("github:") else ""
        in_pattern = server.replace("%", "%%")  # where Lua puts it in the place of something
        return max(cast("int", self._rename(keys=[MARKER], args=[server, in_pattern])), 0)
