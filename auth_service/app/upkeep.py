"""The background tasks of a worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from auth_service.idp import provider_name
from auth_service.keys.signing_keys import SigningKeyError
from auth_service.oauth.settings_trust import end_untrusted
from auth_service.ops.outages import Outage
from auth_service.protocol.errors import ServiceUnavailable, WritesRefused
from auth_service.storage.denial_keeper import KEEP_SECONDS, DenialKeeper
from auth_service.storage.subject_renaming import SubjectRenaming

from .composition import Parts

KEY_WATCH_SECONDS: Final = 0.05
"""How long a token is accepted after its key was removed from this host."""
KEY_AGREEMENT_SECONDS: Final = 1.0
PROBE_REFRESH_SECONDS: Final = 1.0
FULL_COLLECTION_SECONDS: Final = 600
"""A full garbage collection visits all remembered tokens, in tens of milliseconds, so it runs by the clock."""

log = logging.getLogger(__name__)


class Upkeep:
    """The tasks that run as long as the worker does."""

    def __init__(self, parts: Parts, *, forget_tokens: Callable[[], None]) -> None:
        """`forget_tokens` forgets all remembered tokens, so that each is checked again."""
        self._forget_tokens = forget_tokens
        self._keys = parts.signing_keys
        self._rotation = parts.rotation
        self._keys_are_agreed = False
        self._subjects = SubjectRenaming(parts.store.redis)
        self._subjects_are_named = False
        self._provider_name = provider_name(parts.settings.identity_provider)
        self._writes = Outage(log, "redis.full: it takes no writes", over="redis.writes-again")
        self._keeper = DenialKeeper(parts.denials, parts.store.redis, parts.store.grants)
        self._probe = parts.probe
        self._end_untrusted = partial(end_untrusted, parts.trust, parts.store, parts.revocation)

    def is_prepared(self) -> bool:
        """Whether keys and subjects are up to date, so that this worker answers as the others do."""
        return self._keys_are_agreed and self._subjects_are_named

    def redis_refuses_writes(self) -> bool:
        """Whether Redis answers but takes no writes, so that nobody can log in."""
        return self._writes.is_under_way

    def tasks(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return all tasks, each of which runs until it is cancelled."""
        return (
            self._watch_keys(),
            self._agree_on_keys(),
            self._name_subjects(),
            self._refresh_probe(),
            self._probe_documents(),
            self._keep_denials(),
            self._end_untrusted_grants(),
            self._collect_garbage(),
        )

    async def _watch_keys(self) -> None:
        """Forget all remembered tokens when a key was removed."""
        removals = self._keys.removals
        while True:
            self._keys.refresh()
            if removals != self._keys.removals:
                removals = self._keys.removals
                self._forget_tokens()
            await asyncio.sleep(KEY_WATCH_SECONDS)

    async def _agree_on_keys(self) -> None:
        """Keep the keys as the other hosts, the operator and the clock say."""
        unusable = Outage(log, "keys.unusable", over="keys.usable-again")
        while True:
            try:
                await asyncio.to_thread(self._rotation.synchronize)
            except WritesRefused as error:
                self._keys_are_agreed = True  # they are read, which is enough
                self._writes.failed(error.reason)
            except ServiceUnavailable:
                pass  # the watch over grants has said so
            except SigningKeyError as error:
                unusable.failed(error)
            else:
                self._keys_are_agreed = True
                self._writes.worked()
                unusable.worked()
            await asyncio.sleep(KEY_AGREEMENT_SECONDS)

    async def _name_subjects(self) -> None:
        """Rename users whose subjects have the form of earlier versions."""
        while True:
            try:
                renamed = await asyncio.to_thread(self._subjects.name_servers, self._provider_name)
            except WritesRefused:
                self._subjects_are_named = True  # as far as possible: no user can log in either
            except ServiceUnavailable:
                pass  # the watch over grants has said so
            else:
                self._subjects_are_named = True
                if renamed:
                    log.info("users are called %s:ID now: %s entries renamed", self._provider_name, renamed)
                return
            await asyncio.sleep(KEY_AGREEMENT_SECONDS)

    async def _refresh_probe(self) -> None:
        """Read the probe results of all instances again and again."""
        while True:
            with contextlib.suppress(ServiceUnavailable):
                await asyncio.to_thread(self._probe.refresh)
            await asyncio.sleep(PROBE_REFRESH_SECONDS)

    async def _probe_documents(self) -> None:
        while True:
            with contextlib.suppress(ServiceUnavailable):
                await asyncio.to_thread(self._probe.probe_if_due)
            await asyncio.sleep(PROBE_REFRESH_SECONDS)

    async def _keep_denials(self) -> None:
        while True:
            with contextlib.suppress(ServiceUnavailable):  # tried again in a moment
                await asyncio.to_thread(self._keeper.keep)
            await asyncio.sleep(KEEP_SECONDS)

    async def _end_untrusted_grants(self) -> None:
        """End the grants of workloads and declared clients that the settings, since they were loaded, do not allow."""
        while True:
            try:
                await asyncio.to_thread(self._end_untrusted)
            except ServiceUnavailable:
                await asyncio.sleep(KEY_AGREEMENT_SECONDS)  # no access depends on it: `/verify` refuses their tokens
            else:
                return

    async def _collect_garbage(self) -> None:
        while True:
            await asyncio.sleep(FULL_COLLECTION_SECONDS)
            gc.collect()
