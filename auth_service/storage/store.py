"""All of the storage, put together in one way."""

from __future__ import annotations

from auth_service.settings import Settings

from .attempts import Attempts
from .clients import Clients
from .codes import Codes
from .consents import Consents
from .created_clients import CreatedClients
from .denials import Denials
from .documents import Documents
from .grants import Grants
from .identifiers import Identifiers
from .key_names import DECLARED_CLIENTS, WORKLOAD_ISSUERS
from .last_logins import LastLogins
from .locks import Locks
from .noted_names import NotedNames
from .pins import Pins
from .queries import Queries
from .quotas import Quotas
from .redis_client import is_replicated, open_redis
from .refresh_tokens import RefreshTokens
from .sessions import Sessions


class Store:
    """Every part of the storage. They share one connection pool, which connects when it is first used."""

    def __init__(self, settings: Settings, *, password: str | None = None, denials: Denials | None = None) -> None:
        """`password` is Redis', `denials` are this host's (`Grants`)."""
        self.redis = open_redis(settings.redis_url, password=password)
        lifetimes, limits = settings.lifetimes, settings.limits
        self.clients = Clients(self.redis, unused_lifetime=lifetimes.unused_client, most_unused=limits.unused_clients)
        self.grants = Grants(
            self.redis,
            denials,
            lifetime=lifetimes.refresh_token,
            is_replicated=is_replicated(settings.redis_url),
        )
        kept = {
            "grant_lifetime": lifetimes.refresh_token,
            "client_lifetime": lifetimes.refresh_token + lifetimes.unused_client,
        }
        self.codes = Codes(self.redis, self.grants, **kept)
        self.refresh_tokens = RefreshTokens(self.redis, **kept)
        self.consents = Consents(self.redis)
        self.created_clients = CreatedClients(self.redis)
        self.sessions = Sessions(self.redis)
        self.pending_logins = Attempts(self.redis, kind="login")
        self.waiting_logins = Attempts(self.redis, kind="waiting-login")
        self.pending_connections = Attempts(self.redis, kind="connection")
        self.last_logins = LastLogins(self.redis, grant_lifetime=lifetimes.refresh_token)
        self.pins = Pins(self.redis)
        self.quotas = Quotas(self.redis)
        self.identifiers = Identifiers(self.redis)
        self.workload_issuers = NotedNames(self.redis, WORKLOAD_ISSUERS)
        self.declared_clients = NotedNames(self.redis, DECLARED_CLIENTS)
        self.documents = Documents(self.redis)
        self.locks = Locks(self.redis)
        self.queries = Queries(self.redis, self.grants)

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()
