"""Applies the rules for tools, prompts and resources: only what the user of a request may use reaches the server.

The bridge passes on the parsed message that it has checked, without duplicate members and escapes. It refuses unknown
methods of these parts of MCP, as they could name a tool in a way that it does not check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stdio_bridge.http.identity import Identity
from stdio_bridge.io.metrics import Registry
from stdio_bridge.options import Options
from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.challenges import challenged
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import LIST_CHANGES, LISTEN, MAX_KEPT_CHARACTERS, USED_PARAMETERS, fold_method
from stdio_bridge.protocol.policy import HIDDEN, Decision, Primitive, ResourceRules, Rule, Rules, decide, unknown
from stdio_bridge.protocol.recipients import MAX_URI_BYTES, size_of

from .quotas import Quotas, RunningCalls, is_call

# Requests that use one tool, prompt or resource, and the parameter that names it.
_USES = {method: (Primitive(method.partition("/")[0]), parameter) for method, parameter in USED_PARAMETERS.items()}
# Requests for lists, the member of the result that is the list, and the member that names each of its elements.
_LISTS = {
    "tools/list": (Primitive.TOOLS, "tools", "name"),
    "prompts/list": (Primitive.PROMPTS, "prompts", "name"),
    "resources/list": (Primitive.RESOURCES, "resources", "uri"),
    "resources/templates/list": (Primitive.RESOURCES, "resourceTemplates", "uriTemplate"),
}
# Requests whose answers are filtered or noted, by what their answers contain.
_ANSWERED = {
    **{method: primitive for method, (primitive, _, _) in _LISTS.items()},
    "resources/read": Primitive.RESOURCES,
    "tools/call": Primitive.TOOLS,
    "tasks/list": Primitive.TOOLS,
}
_ABOUT_ONE_TASK = frozenset({"tasks/get", "tasks/result", "tasks/cancel", "tasks/update"})
_COMPLETE = "completion/complete"
_KNOWN = frozenset({*_LISTS, "tasks/list"})
# The first parts of methods that can name a tool, prompt or resource.
_NAMESPACES = {
    Primitive.TOOLS: frozenset({"tools", "tasks", "subscriptions"}),
    Primitive.PROMPTS: frozenset({"prompts", "completion", "subscriptions"}),
    Primitive.RESOURCES: frozenset({"resources", "completion", "subscriptions"}),
}
# Members of a subscription's filter that name resources and tasks; the second is of the extension for tasks.
_SUBSCRIPTIONS = "resourceSubscriptions"
_TASK_IDS = "taskIds"
_ALLOWED = Decision(exists=True)
# How many refusals of one batch name the members: collecting errors takes longer than checking.
_MAX_EXPLAINED_REFUSALS = 10
_MAX_TASKS_PER_USER = 1000
_MAX_TASKS = 100_000
# A task keeps the bridge awake for no longer than this.
_MAX_TASK_SECONDS = 86_400


class _Refused(Exception):
    """The request must not reach the server; this is the error to answer with."""

    def __init__(self, code: int, text: str, data: object = None) -> None:
        super().__init__(text)
        self.code = code
        self.data = data


class Policy:
    """The rules and quotas of one bridge, and for each task the rules of the call that began it."""

    def __init__(
        self,
        *,
        tools: Rules | None,
        prompts: Rules | None,
        resources: ResourceRules | None,
        quotas: Quotas,
        clock: Callable[[], float],
    ) -> None:
        self.tools = tools
        self.prompts = prompts
        self.resources = resources
        self.quotas = quotas
        self._tasks: dict[str, dict[str, frozenset[Rule]]] = {}
        self.known_tasks = 0
        self._clock = clock
        self._last_task_ends = -math.inf
        given = {Primitive.TOOLS: tools, Primitive.PROMPTS: prompts, Primitive.RESOURCES: resources}
        self.rules: Mapping[Primitive, Rules] = {each: rules for each, rules in given.items() if rules is not None}
        self.namespaces = frozenset[str]().union(*(_NAMESPACES[each] for each in self.rules))

    def access_of(self, identity: Identity) -> Access:
        """Return what a request's user may do."""
        return Access(self, identity)

    def remembers_users(self, now: float) -> bool:
        """Whether it remembers calls of the last minute, or a task that has not expired.

        A task expires after the time that its server has named, or a day if that is longer. Its rules are kept longer.
        """
        return now < self._last_task_ends or self.quotas.rates.counts_at(now)

    def learn_task(self, user: str, result: Message, rules: Iterable[Rule]) -> None:
        """Note the rules that a call had to satisfy, if its result is a task. Tasks with long ids stay unknown."""
        task = result.get("task", result)
        task_id = task.get("taskId") if isinstance(task, dict) else None
        if isinstance(task_id, str) and len(task_id) <= MAX_KEPT_CHARACTERS:
            tasks = self._tasks.setdefault(user, {})
            self.known_tasks += task_id not in tasks
            # Several processes may use the same id for tasks of different tools.
            tasks[task_id] = tasks.get(task_id, frozenset()).union(rules)
            self._last_task_ends = max(self._last_task_ends, self._clock() + _lifetime_of(task))
            if len(tasks) > _MAX_TASKS_PER_USER:
                self._forget_oldest_of(user)
            elif self.known_tasks > _MAX_TASKS:
                self._forget_oldest_of(max(self._tasks, key=lambda each: len(self._tasks[each])))

    def _forget_oldest_of(self, user: str) -> None:
        tasks = self._tasks[user]
        del tasks[next(iter(tasks))]
        self.known_tasks -= 1
        if not tasks:
            del self._tasks[user]

    def find_task(self, user: str, task_id: object) -> frozenset[Rule] | None:
        """Return the rules for one of the user's tasks."""
        return self._tasks.get(user, {}).get(task_id) if isinstance(task_id, str) else None


def _lifetime_of(task: Message) -> float:
    """Return after how many seconds a task expires, by its `ttl` in milliseconds; without one it never would."""
    ttl = task.get("ttl")
    if not isinstance(ttl, int | float) or isinstance(ttl, bool) or not ttl >= 0:
        return _MAX_TASK_SECONDS
    return min(ttl, _MAX_TASK_SECONDS * 1000) / 1000


def find_policy(options: Options, registry: Registry, *, clock: Callable[[], float]) -> Policy | None:
    """Return the policy, None if there are neither rules nor quotas."""
    running = None if options.max_calls_per_user is None else RunningCalls(options.max_calls_per_user)
    quotas = Quotas(calls_per_minute=options.calls_per_minute, running=running, clock=clock)
    policy = Policy(
        tools=options.tools, prompts=options.prompts, resources=options.resources, quotas=quotas, clock=clock
    )
    if not policy.rules and not quotas.hold_for_all:
        return None
    registry.gauge("mcp_bridge_known_tasks", "Tasks whose rules the bridge keeps", lambda: policy.known_tasks)
    registry.gauge(
        "mcp_bridge_counted_users", "Users whose calls of the last minute a quota counts", lambda: len(quotas.rates)
    )
    return policy


@dataclass(frozen=True, slots=True)
class Access:
    """What one request's user may do."""

    policy: Policy
    identity: Identity

    # Requests

    def check(self, messages: Sequence[Message]) -> Mapping[int, Message]:
        """Return the answers to those messages that must not reach the server, by their positions.

        Raises HttpError 403 if the user can still be granted scopes that are missing; then no message may reach it.
        """
        refusals: dict[int, Message] = {}
        needed: frozenset[str] = frozenset()
        for position, message in enumerate(messages):
            if "method" not in message or "id" not in message:
                continue
            try:
                decision = self._decide(message["method"], jsonrpc.params_of(message))
                if decision.is_allowed:
                    self._check_arguments(message, explain=len(refusals) < _MAX_EXPLAINED_REFUSALS)
            except _Refused as refused:
                refusals[position] = jsonrpc.error(message["id"], refused.code, str(refused), refused.data)
            else:
                if decision.missing:
                    needed |= decision.needed
        if needed:
            raise self._insufficient_scope(needed)
        return refusals

    def admit(self, messages: Sequence[Message], refused: Container[int] = ()) -> None:
        """Count the calls that will reach the server now. Raises HttpError if one is over a quota or limit.

        `refused` are the positions of messages that do not reach the server.
        """
        begun = [(position, message) for position, message in enumerate(messages) if is_call(message)]
        calls = [(message, self._rules_for(message)) for position, message in begun if position not in refused]
        if calls:
            self.policy.quotas.admit(self.identity.user, calls, begun=len(begun))

    def narrowed(self, message: Message) -> Message:
        """Return a subscription without what does not exist for the user, and without unknown members."""
        params = jsonrpc.params_of(message)
        wanted = params.get("notifications")
        if message["method"] != LISTEN or not self.policy.rules or not isinstance(wanted, dict):
            return message
        kept = {name: value for name, value in wanted.items() if name in LIST_CHANGES}
        if _SUBSCRIPTIONS in wanted:
            kept[_SUBSCRIPTIONS] = [uri for uri in wanted[_SUBSCRIPTIONS] if self._of(Primitive.RESOURCES, uri).exists]
        if _TASK_IDS in wanted:
            kept[_TASK_IDS] = [task_id for task_id in wanted[_TASK_IDS] if self._of_task(task_id).is_allowed]
        return {**message, "params": {**params, "notifications": kept}}

    def _decide(self, method: str, params: Message) -> Decision:
        """Decide about a request. Raises _Refused."""
        if method in _USES:
            primitive, member = _USES[method]
            if primitive not in self.policy.rules:
                return _ALLOWED
            decision = self._use(primitive, _string(params, member, f"params.{member}"))
            # Ending a subscription needs no scope.
            return decision if method != "resources/unsubscribe" else _ALLOWED
        if method in _KNOWN or fold_method(method).partition("/")[0] not in self.policy.namespaces:
            return _ALLOWED
        return self._decide_by_parts(method, params)

    def _rules_for(self, message: Message) -> tuple[Rule, ...]:
        """Return the rules for what a request that was decided about uses."""
        primitive, member = _USES.get(message["method"], (None, ""))
        rules = self.policy.rules.get(primitive) if primitive is not None else None
        return () if rules is None else rules.find(jsonrpc.params_of(message)[member])

    def _check_arguments(self, message: Message, *, explain: bool) -> None:
        """Check the arguments of a use. Raises _Refused."""
        for rule in self._rules_for(message):
            if rule.arguments is None:
                continue
            arguments = jsonrpc.params_of(message).get("arguments")
            fault = rule.arguments.find_fault({} if arguments is None else arguments, explain=explain)
            if fault is not None:
                raise _Refused(jsonrpc.INVALID_PARAMS, f"Invalid arguments: {fault}")

    def _decide_by_parts(self, method: str, params: Message) -> Decision:
        if method == _COMPLETE:
            return self._complete(params)
        if method == LISTEN:
            return self._listen(params)
        if method in _ABOUT_ONE_TASK:
            return self._continue_task(params)
        raise _Refused(jsonrpc.METHOD_NOT_FOUND, "Method not found")

    def _use(self, primitive: Primitive, name: str) -> Decision:
        decision = self._of(primitive, name)
        if not decision.exists:
            raise _unknown(primitive, name)
        return decision

    def _complete(self, params: Message) -> Decision:
        """Decide about a completion. It reveals something of a prompt or resource, which must be allowed."""
        ref = params.get("ref")
        if not isinstance(ref, dict):
            raise _Refused(jsonrpc.INVALID_PARAMS, "params.ref must be an object")
        rules: list[Rule] = []
        # Both members are checked, whatever `type` says: a server may ignore it and use the other one.
        if self.policy.prompts is not None and "name" in ref:
            rules += self.policy.prompts.find(_string(ref, "name", "params.ref.name"))
        if self.policy.resources is not None and "uri" in ref:
            uri = _string(ref, "uri", "params.ref.uri")
            rules += self.policy.resources.find_all_of_template(uri)
            rules += self.policy.resources.find(uri) if "{" not in uri else ()
        decision = self._by(rules)
        if not decision.exists:
            raise _Refused(jsonrpc.INVALID_PARAMS, "Unknown reference")
        return decision

    def _listen(self, params: Message) -> Decision:
        wanted = params.get("notifications")
        if not isinstance(wanted, dict):
            raise _Refused(jsonrpc.INVALID_PARAMS, "params.notifications must be an object")
        for member in (_SUBSCRIPTIONS, _TASK_IDS):
            named = wanted.get(member, [])
            if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
                raise _Refused(jsonrpc.INVALID_PARAMS, f"params.notifications.{member} must be a list of strings")
            if sum(map(size_of, named)) > MAX_URI_BYTES:
                raise _Refused(jsonrpc.INVALID_PARAMS, f"params.notifications.{member} are too many")
        uris = wanted.get(_SUBSCRIPTIONS, [])
        decisions = [decision for uri in uris if (decision := self._of(Primitive.RESOURCES, uri)).exists]
        return Decision(
            exists=True,
            needed=frozenset[str]().union(*(decision.needed for decision in decisions)),
            missing=frozenset[str]().union(*(decision.missing for decision in decisions)),
        )

    def _continue_task(self, params: Message) -> Decision:
        decision = self._of_task(params.get("taskId"))
        if not decision.exists:
            raise _Refused(jsonrpc.INVALID_PARAMS, "Task not found")
        return decision

    def _of(self, primitive: Primitive, name: str) -> Decision:
        rules = self.policy.rules.get(primitive)
        return _ALLOWED if rules is None else self._by(rules.find(name))

    def _of_task(self, task_id: object) -> Decision:
        if self.policy.tools is None:
            return _ALLOWED
        rules = self.policy.find_task(self.identity.user, task_id)
        return HIDDEN if rules is None else self._by(rules)

    def _by(self, rules: Iterable[Rule]) -> Decision:
        return decide(rules, held=self.identity.scopes, grantable=self.identity.grantable)

    def _insufficient_scope(self, needed: frozenset[str]) -> HttpError:
        """403 with every scope that the next token needs, as clients request only the scopes of the challenge."""
        return challenged(
            "insufficient_scope",
            "the access token lacks a scope that this needs",
            resource=self.identity.resource,
            scopes=needed | self.identity.scopes,
        )

    # Answers

    def changes_answer_to(self, request: Message) -> bool:
        """Whether `answered` must see the answer to this request of a legacy client."""
        method = request["method"]
        is_task = method == "tools/call" and "task" in jsonrpc.params_of(request)
        return is_task or method in _LISTS or method == "tasks/list"

    def answered(self, request: Message, answer: Message) -> Message:
        """Return the answer to a request without what does not exist for the user, marked as private to the user."""
        result, method = answer.get("result"), request["method"]
        if not isinstance(result, dict):
            return answer
        self.policy.quotas.answered(self.identity.user, request, result)
        if _ANSWERED.get(method) not in self.policy.rules:
            return answer
        if method == "tools/call" and self.policy.tools is not None:
            rules = self.policy.tools.find(jsonrpc.params_of(request)["name"])
            self.policy.learn_task(self.identity.user, result, rules)
            return answer
        if method in _LISTS:
            primitive, member, name = _LISTS[method]
            result = {
                **result,
                member: [each for each in _objects(result, member) if self._lists(primitive, each, name)],
            }
        elif method == "tasks/list":
            result = {
                **result,
                "tasks": [task for task in _objects(result, "tasks") if self._of_task(task.get("taskId")).is_allowed],
            }
        if "cacheScope" in result:
            result = {**result, "cacheScope": "private"}
        return {**answer, "result": result}

    def shows(self, message: Message) -> bool:
        """Whether a message may reach the user: it does not if it reports a change of a resource they may not read."""
        if self.policy.resources is None or message.get("method") != "notifications/resources/updated":
            return True
        uri = jsonrpc.params_of(message).get("uri")
        return isinstance(uri, str) and self._of(Primitive.RESOURCES, uri).is_allowed

    def _lists(self, primitive: Primitive, element: Message, member: str) -> bool:
        name = element.get(member)
        if not isinstance(name, str):
            return False
        if member == "uriTemplate" and self.policy.resources is not None:
            return any(self._by([rule]).exists for rule in self.policy.resources.find_all_of_template(name))
        return self._of(primitive, name).exists


def _string(params: Message, member: str, path: str) -> str:
    value = params.get(member)
    if not isinstance(value, str):
        raise _Refused(jsonrpc.INVALID_PARAMS, f"{path} must be a string")
    return value


def _objects(result: Message, member: str) -> list[Message]:
    elements = result.get(member)
    return [each for each in elements if isinstance(each, dict)] if isinstance(elements, list) else []


def _unknown(primitive: Primitive, name: str) -> _Refused:
    code, text = unknown(primitive, name)
    return _Refused(code, text, {"uri": name} if primitive is Primitive.RESOURCES else None)
