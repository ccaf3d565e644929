"""Whether the servers answer, for pages that people look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import Enum
from typing import Final

from auth_service.idp.http import Session
from auth_service.settings import Resource

from . import bridge_status

ASK_SECONDS: Final = 1.0
"""How long a server may take to answer."""
REMEMBER_SECONDS: Final = 15.0
"""How long an answer is believed, so that pages do not load the servers."""
_THREADS: Final = 8


class State(Enum):
    """What is known of a server."""

    ANSWERS = "answers"
    ASLEEP = "asleep"
    """Its bridge has exited because nobody uses it; the next request starts it."""
    FAILING = "failing"
    """Its bridge answers, but its last use failed."""
    SILENT = "silent"


class ServerStates:
    """The states of the servers, each asked at most once in `REMEMBER_SECONDS`."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = resources
        self._known: dict[str, tuple[float, State]] = {}
        self._lock = threading.Lock()

    def find(self, names: Iterable[str]) -> dict[str, State]:
        """Return the states of these servers; those that could not be asked in time count as silent."""
        names = list(names)
        with self._lock:  # one request asks, and the others wait for what it hears
            now = time.monotonic()
            stale = [name for name in names if name not in self._known or self._known[name][0] <= now]
            if stale:
                for name, state in self._ask(stale).items():
                    self._known[name] = (time.monotonic() + REMEMBER_SECONDS, state)
            return {name: self._known[name][1] for name in names}

    def _ask(self, names: list[str]) -> dict[str, State]:
        states: dict[str, set[State]] = {}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="server-states") as pool:
            asked: dict[Future[State], str] = {
                pool.submit(_ask, resource, endpoint): name
                for name in names
                for resource in (self._resources[name],)
                for endpoint in resource.endpoints
            }
            done, late = wait(asked, timeout=2 * ASK_SECONDS)
            for answer in late:
                answer.cancel()
        for answer in done:
            states.setdefault(asked[answer], set()).add(answer.result())
        # One replica that answers is enough.
        return {name: next((each for each in State if each in states.get(name, ())), State.SILENT) for name in names}


def _ask(resource: Resource, endpoint: str) -> State:
    try:
        with Session(seconds=ASK_SECONDS) as session:
            session.trust_env = False  # the request is for this address, and for no proxy
            status = bridge_status.ask(session, resource, endpoint, timeout=ASK_SECONDS)
    except bridge_status.UNREACHABLE:
        return State.SILENT
    if status is not None and status.asleep:
        return State.ASLEEP
    # Another server than a bridge answers in its own way, and that is enough.
    return State.FAILING if status is not None and status.problem is not None else State.ANSWERS
