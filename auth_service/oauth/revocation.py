"""End access: grants with all their tokens and codes, remembered consents, and browser sessions."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.protocol.errors import PartlyRefused, ServiceUnavailable, WritesRefused
from auth_service.storage.grants import REVOCATION_SECONDS, Grant
from auth_service.storage.redis_client import BATCH
from auth_service.storage.store import Store


class Revocation:
    """End access, and report it. Every method raises ServiceUnavailable when Redis does not answer.

    `by` and `reason` are for the audit log: see `audit.record`.
    """

    def __init__(
        self,
        store: Store,
        *,
        grants_per_client: int,
        notify: Callable[[Grant], None],
        after_last_grant: Mapping[str, Callable[[str], None]] = MappingProxyType({}),
    ) -> None:
        """`notify` tells the bridges of each grant that has ended.

        A user has at most `grants_per_client` grants for one client. `after_last_grant` has functions by the URL of a
        resource: each is called with the user whose last grant there has ended.
        """
        self._store = store
        self._grants_per_client = grants_per_client
        self._notify = notify
        self._after_last_grant = after_last_grant
        self.deferred = 0
        """How many grants it has ended while Redis took no writes. They are denied until Redis has removed them."""

    def revoke_grant(
        self, sid: str, *, by: str, reason: str, notify: Callable[[], None] = lambda: None
    ) -> Grant | None:
        """End one grant as `revoke_grants` does; return it if it was live."""
        return next(iter(self.revoke_grants([sid], by=by, reason=reason, notify=notify)), None)

    def revoke_grants(
        self, sids: Iterable[str], *, by: str, reason: str, notify: Callable[[], None] = lambda: None
    ) -> list[Grant]:
        """End grants with all their tokens and codes, at all workers; return those that were live.

        All revoking goes through here. When this returns, no worker admits a token of them any more, not even one that
        has just lost Redis. `notify` tells the bridges of what else has ended. It is called before this waits for the
        workers: a client may log in again during that wait, and a later notice would end its new session.
        """
        ended: list[Grant] = []
        remaining = iter(sids)
        while batch := list(itertools.islice(remaining, BATCH)):
            ending = self._store.grants.end(batch)
            if ending.is_deferred:
                self.deferred += len(ending.grants)
            for grant in ending.grants:
                audit.record(Event.GRANT_REVOKED, of=grant, by=by, reason=reason)
                self._notify(grant)
            ended += ending.grants
        self._act_after_last_grants(ended)
        notify()
        if ended:
            time.sleep(REVOCATION_SECONDS)
        return ended

    def _act_after_last_grants(self, ended: list[Grant]) -> None:
        for sub, resource_url in sorted({(grant.sub, grant.resource) for grant in ended}):
            if (act := self._after_last_grant.get(resource_url)) is None:
                continue
            # The grants have ended whatever Redis says now: where it says nothing, the user has none.
            with contextlib.suppress(ServiceUnavailable):
                if any(found.grant.resource == resource_url for found in self._store.grants.find_of_user(sub)):
                    continue
            act(sub)

    def revoke_surplus(self, newest: Grant) -> None:
        """End the least recently used grants of a user who has too many for one client, but not this one."""
        own = self._store.grants.find_of_user(newest.sub, client_id=newest.client_id)
        own.sort(key=lambda each: (each.grant.sid == newest.sid, each.last_used or each.grant.created_at))
        surplus = [each.grant.sid for each in own[: max(len(own) - self._grants_per_client, 0)]]
        self.revoke_grants(surplus, by="gateway", reason="the user has newer grants for this client")

    def remove_client(self, client_id: str, *, by: str) -> list[Grant]:
        """Remove a client that is registered here or was created by command; return its grants that were live and end.

        Raises PartlyRefused if Redis keeps the registration because it takes no writes.
        """
        refusals: list[WritesRefused] = []
        with _collecting(refusals):
            if self._store.clients.remove(client_id) or self._store.created_clients.remove(client_id):
                audit.record(Event.CLIENT_DELETED, client=client_id, by=by)
        sids = self._store.grants.find_ids_of_client(client_id)
        return _unless_refused(self.revoke_grants(sids, by=by, reason="the client was deleted"), refusals)

    def revoke_access(
        self,
        sub: str,
        *,
        by: str,
        client_id: str | None = None,
        resource_url: str | None = None,
        redirect: str | None = None,
    ) -> list[Grant]:
        """End the grants of a user, of one client or all, at one resource or all; return those that were live.

        With `redirect`, only those of that application of the client end (`Grant.redirect`). The user's remembered
        consents for the client at the resource end too. Raises PartlyRefused if Redis keeps these because it takes no
        writes.
        """
        refusals: list[WritesRefused] = []
        with _collecting(refusals):
            if self._store.consents.forget(sub, client_id=client_id, resource_url=resource_url):
                audit.record(Event.CONSENT_WITHDRAWN, user=sub, client=client_id, resource=resource_url, by=by)
        sids = [
            found.grant.sid
            for found in self._store.grants.find_of_user(sub, client_id=client_id)
            if resource_url in {None, found.grant.resource} and redirect in {None, found.grant.redirect}
        ]
        return _unless_refused(self.revoke_grants(sids, by=by, reason="the user's access was ended"), refusals)

    def end_user(self, sub: str, *, by: str) -> list[Grant]:
        """End access as `revoke_access` does, and all browser sessions of the user. Raises PartlyRefused too."""
        refusals: list[WritesRefused] = []
        with _collecting(refusals):
            self._store.sessions.end_all(sub)
            audit.record(Event.SESSION_ENDED, user=sub, by=by, reason="the user's access was ended")
        return _unless_refused(self.revoke_access(sub, by=by), refusals)


@contextmanager
def _collecting(refusals: list[WritesRefused]) -> Iterator[None]:
    """Collect the error that Redis takes no writes, so that the caller goes on to end grants, which needs none."""
    try:
        yield
    except WritesRefused as refusal:
        refusals.append(refusal)


def _unless_refused(ended: list[Grant], refusals: list[WritesRefused]) -> list[Grant]:
    """Return the ended grants. Raises PartlyRefused if other records are still there."""
    if refusals:
        raise PartlyRefused(refusals[0].reason, ended=len(ended))
    return ended
