"""Quotas and limits of calls: which messages they count, and the answer to a call that is over one.

A call is a request that uses a tool, a prompt or a resource. Its task, its cancellation, and its repetition with the
input that the server has asked for are part of the same call.
"""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.errors import RETRY_SECONDS, HttpError, bad_request, unavailable
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import fold_method
from stdio_bridge.protocol.policy import Rule
from stdio_bridge.protocol.quotas import CallRates, Excess, Quota
from stdio_bridge.protocol.request_state import binding_of

from .call_records import CallEnd, CallRecord

_CALLS = frozenset({"tools/call", "prompts/get", "resources/read"})
# Parameters that only a repetition has (2026-07-28, "Multi Round-Trip Requests").
_OF_REPETITION = frozenset({"inputResponses", "requestState"})
_MAX_REPETITIONS_PER_USER = 1000
_MAX_REPETITIONS = 10_000


def is_call(message: Message) -> bool:
    """Whether quotas count this."""
    method = message.get("method")
    return "id" in message and isinstance(method, str) and fold_method(method) in _CALLS


class RunningCalls:
    """Observes calls, counts those of each user that are not over, and enforces a limit on them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: dict[str, int] = {}

    def begin(self, record: CallRecord, message: Message) -> CallEnd | None:
        """Count a call until its end."""
        if not is_call(message):
            return None
        user = record.identity.user
        self._running[user] = self._running.get(user, 0) + 1
        return self._end

    def _end(self, record: CallRecord) -> None:
        user = record.identity.user
        self._running[user] -= 1
        if not self._running[user]:
            del self._running[user]

    def admit(self, user: str, *, begun: int, wanted: int) -> None:
        """Admit `wanted` of the `begun` calls that have just begun. Raises HttpError if they exceed the limit."""
        limit = f"the limit of unanswered calls to this server is {self._limit} per user"
        if wanted > self._limit:
            raise bad_request(jsonrpc.INVALID_REQUEST, f"the batch is too large: {limit}")
        if self._running.get(user, 0) - begun + wanted > self._limit:
            raise _too_many(f"too many calls: {limit}; try again when one has been answered", RETRY_SECONDS)


class Quotas:
    """The quotas of one bridge, and the calls that its users have made. `running` counts the unfinished ones."""

    def __init__(
        self, *, calls_per_minute: int | None, running: RunningCalls | None = None, clock: Callable[[], float]
    ) -> None:
        self.running = running
        self._of_server = (
            () if calls_per_minute is None else (Quota(name="this server", calls_per_minute=calls_per_minute),)
        )
        self._clock = clock
        self.rates = CallRates()
        # How often each user may repeat a call that the server has answered with a request for input, the oldest first.
        # A request with other arguments, or with another state than that of the answer, is another call.
        self._repetitions: dict[str, collections.OrderedDict[str, int]] = {}
        self._kept_repetitions = 0

    @property
    def hold_for_all(self) -> bool:
        """Whether there is a quota or limit that no rule names."""
        return bool(self._of_server) or self.running is not None

    def admit(self, user: str, calls: Sequence[tuple[Message, Iterable[Rule]]], *, begun: int) -> None:
        """Count calls, each with the rules for what it uses. Raises HttpError if one is over a quota, and counts none.

        `begun` is the number of calls in the same POST, including those that are refused for another reason.
        """
        if self.running is not None:
            self.running.admit(user, begun=begun, wanted=len(calls))
        wanted: dict[Quota, int] = {}
        repeated: list[str] = []
        for message, rules in calls:
            quotas = {*self._of_server, *(rule.quota for rule in rules if rule.quota is not None)}
            if not quotas:
                continue
            if self._is_repetition(user, message, repeated):
                continue
            for quota in quotas:
                wanted[quota] = wanted.get(quota, 0) + 1
        if wanted:
            now = self._clock()
            if seconds := self.rates.seconds_until_room(user, now):
                raise unavailable("too many users have made calls", retry_seconds=math.ceil(seconds))
            excess = self.rates.find_excess(user, wanted, now)
            if excess is not None:
                raise _over(excess)
            self.rates.count(user, wanted, now)
        for key in repeated:
            self._repetitions[user][key] -= 1
            if not self._repetitions[user][key]:
                self._forget_repetition(user, key)

    def _is_repetition(self, user: str, message: Message, repeated: list[str]) -> bool:
        """Whether this repeats a call that the server has answered with a request for input.

        If so, its key is appended to `repeated`.
        """
        if not _OF_REPETITION & jsonrpc.params_of(message).keys():
            return False
        key = _key(user, message, jsonrpc.params_of(message).get("requestState"))
        kept = self._repetitions.get(user)
        if kept is None or kept.get(key, 0) <= repeated.count(key):
            return False
        repeated.append(key)
        return True

    def answered(self, user: str, request: Message, result: Message) -> None:
        """Note that the user may repeat a call, if the server has answered it with a request for input."""
        if result.get("resultType") != "input_required" or not is_call(request):
            return
        key = _key(user, request, result.get("requestState"))
        kept = self._repetitions.setdefault(user, collections.OrderedDict())
        self._kept_repetitions += key not in kept
        kept[key] = kept.get(key, 0) + 1
        kept.move_to_end(key)
        if len(kept) > _MAX_REPETITIONS_PER_USER:
            self._forget_repetition(user, next(iter(kept)))
        elif self._kept_repetitions > _MAX_REPETITIONS:
            most = max(self._repetitions, key=lambda each: len(self._repetitions[each]))
            self._forget_repetition(most, next(iter(self._repetitions[most])))

    def _forget_repetition(self, user: str, key: str) -> None:
        del self._repetitions[user][key]
        self._kept_repetitions -= 1
        if not self._repetitions[user]:
            del self._repetitions[user]


def _key(user: str, request: Message, state: object) -> str:
    """Return a digest of what a repetition has in common with the call and its answer."""
    digest = hashlib.sha256(binding_of(user, None, request).encode())
    digest.update(jsonrpc.encode(state))
    return digest.hexdigest()


def _over(excess: Excess) -> HttpError:
    limit = f"the limit of calls to {excess.quota.name} is {excess.quota.calls_per_minute} per minute and user"
    if excess.seconds is None:
        return bad_request(jsonrpc.INVALID_REQUEST, f"the batch is too large: {limit}")
    seconds = math.ceil(excess.seconds)
    return _too_many(f"over quota: {limit}; try again in {seconds} s", seconds)


def _too_many(text: str, retry_seconds: int) -> HttpError:
    return HttpError(
        "429 Too Many Requests", jsonrpc.SERVER_ERROR, text, headers=(("Retry-After", str(retry_seconds)),)
    )
