"""Changes of users' own credentials, each with what follows from it: audit events, ended grants, notices to bridges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from auth_service.ops import audit
from auth_service.ops.audit import Event
from auth_service.settings import Settings
from auth_service.storage.grants import Grant
from auth_service.storage.store import Store
from auth_service.storage.user_credentials import Secret, UserCredentials

from .connections import Connections
from .revocation import Revocation


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Which credentials were there and are removed, and which grants have ended with them."""

    variables: list[str]
    ended_grants: list[Grant]


class CredentialChanges:
    """Change credentials. Every method raises ServiceUnavailable when Redis does not answer."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        credentials: UserCredentials,
        connections: Connections,
        *,
        revocation: Revocation,
        end_processes: Callable[[str, str], None],
    ) -> None:
        """`revocation` ends the grants of users who remove what their server needs.

        `end_processes` ends all processes of a user at a server, which have what was there before.
        """
        self._settings = settings
        self._store = store
        self._credentials = credentials
        self._connections = connections
        self._revocation = revocation
        self._end_processes = end_processes

    def put(self, resource_name: str, sub: str, name: str, secrets: Mapping[str, Secret]) -> None:
        """Keep what a user has entered or connected, in the place of what was there."""
        if not secrets:
            return
        replaced = self._credentials.put(resource_name, sub, secrets, name=name)
        if replaced:
            # Where nothing was replaced, no process has a former value, and the notice could end the first process that
            # has the new one.
            self._end_processes(resource_name, sub)
        for variable in secrets:
            event = Event.CREDENTIAL_REPLACED if variable in replaced else Event.CREDENTIAL_SET
            self._record(event, resource_name, sub, variable, name=name)

    def remove(self, resource_name: str, sub: str, variables: Collection[str], *, by: str) -> Removal:
        """Remove credentials of a user, and end the user's grants at their server."""
        removed = self._connections.remove(resource_name, sub, variables)
        self._end_processes(resource_name, sub)
        for variable in removed:
            self._record(Event.CREDENTIAL_REMOVED, resource_name, sub, variable, by=by)
        # So that each client logs in again, and the user is asked.
        url = self._find_url(resource_name)
        sids = [each.grant.sid for each in self._store.grants.find_of_user(sub) if each.grant.resource == url]
        ended = self._revocation.revoke_grants(sids, by=by, reason="a credential of the user was removed")
        return Removal(variables=removed, ended_grants=ended)

    def remove_all(self, sub: str, *, by: str) -> None:
        """Remove all credentials of a user, and end the user's grants at their servers.

        Those for a server that the operator has removed are removed too: the server may come back.
        """
        held: dict[str, list[str]] = {}
        servers = self._credentials.find_servers().union(self._settings.resources)
        for state in self._credentials.find_states(sub, sorted(servers)):
            held.setdefault(state.resource_name, []).append(state.variable)
        for resource_name, variables in held.items():
            self.remove(resource_name, sub, variables, by=by)

    def _record(
        self,
        event: Event,
        resource_name: str,
        sub: str,
        variable: str,
        *,
        name: str | None = None,
        by: str | None = None,
    ) -> None:
        resource = self._find_url(resource_name) or resource_name
        audit.record(event, user=sub, name=name, resource=resource, credential=variable, by=by)

    def _find_url(self, resource_name: str) -> str | None:
        """Return the URL of a server, None if the operator has removed it."""
        resource = self._settings.resources.get(resource_name)
        return None if resource is None else resource.url
