"""The survey: what a server offers to a client with all capabilities, unfiltered, asked of a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from stdio_bridge.io.event_loop import Loop
from stdio_bridge.protocol import jsonrpc, visible_json
from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.jsonrpc import Message
from stdio_bridge.protocol.mcp import CLIENT_CAPABILITIES, MODERN_VERSIONS, Versions
from stdio_bridge.protocol.policy import Primitive, Rules
from stdio_bridge.protocol.request_metadata import RequestMetadata
from stdio_bridge.protocol.tool_catalog import next_cursor
from stdio_bridge.protocol.tool_lock import Difference, InvalidLockError, ToolLock, render_lock_in_steps

from .handshake import EraCache, Failed, Gone, Handshake, Initialized, Outcome, own_initialize, own_meta
from .pool import Server, ServerPool

SECONDS = 60.0
_MAX_PAGES = 1000
_MAX_BYTES = 32 << 20
# A server may offer more to a client that supports these.
_CAPABILITIES: Message = {
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
    "sampling": {"tools": {}},
}
# The requests for each primitive, and the member of the result that is the list.
_LISTS = {
    Primitive.TOOLS: (("tools/list", "tools"),),
    Primitive.PROMPTS: (("prompts/list", "prompts"),),
    Primitive.RESOURCES: (("resources/list", "resources"), ("resources/templates/list", "resourceTemplates")),
}


@dataclass(frozen=True, kw_only=True)
class Offers:
    """What a server lists, unchanged, by the member of the result. `era` is that of the requests."""

    era: str
    lists: dict[str, list[object]] = field(default_factory=dict)

    def texts(self, member: str, name: str) -> Iterator[str]:
        """Yield the member `name` of each element of a list, if it is a string."""
        for each in self.lists.get(member, ()):
            if isinstance(each, dict) and isinstance(text := each.get(name), str):
                yield text


class SurveyError(Exception):
    """The server did not answer as needed; the text says why."""


Done = Callable[[Offers | SurveyError], None]


def report_in_steps(
    offers: Offers, *, lock: ToolLock | None, rules: Mapping[Primitive, Rules]
) -> Generator[None, None, Message]:
    """Return the operator's report: the lock file of the tools, what differs, and the rules that match nothing."""
    tools = offers.lists["tools"]
    text, problem = None, None
    try:
        text = yield from render_lock_in_steps(tools)
    except InvalidLockError as error:
        problem = str(error)
    names = {
        Primitive.TOOLS: offers.texts("tools", "name"),
        Primitive.PROMPTS: offers.texts("prompts", "name"),
        Primitive.RESOURCES: offers.texts("resources", "uri"),
    }
    templates = list(offers.texts("resourceTemplates", "uriTemplate"))
    unmatched = {each.value: its.find_unmatched(names[each], templates) for each, its in rules.items()}
    return {
        "mcp-stdio-bridge": {
            "tools": len(tools),
            "lock": text,
            "problem": problem,
            "locked": lock is not None,
            "differences": [] if lock is None else [_describe(each) for each in lock.compare(tools)],
            "unmatched_rules": {option: unused for option, unused in unmatched.items() if unused},
        }
    }


def _describe(difference: Difference) -> Message:
    return {
        "tool": visible_json.render_short(difference.tool),
        "reason": difference.reason.value,
        "changes": [
            {"path": change.path, "locked": change.locked, "listed": change.listed} for change in difference.changes
        ],
    }


class Surveys:
    """The surveys of one bridge. One runs at a time; a survey that is requested meanwhile gets the same result."""

    def __init__(self, loop: Loop, pool: ServerPool, versions: Versions, primitives: Iterable[Primitive]) -> None:
        """Tools are always listed, prompts and resources if `primitives` has them."""
        self._loop = loop
        self._pool = pool
        self._versions = versions
        asked = {Primitive.TOOLS, *primitives}
        self._questions = [question for each, questions in _LISTS.items() if each in asked for question in questions]
        self._waiting: list[Done] = []

    def begin(self, done: Done) -> None:
        """Begin a survey, and pass its result to `done`."""
        self._waiting.append(done)
        if len(self._waiting) == 1:
            _Survey(self._loop, self._pool, self._versions, self._questions, self._finish).start()

    def _finish(self, result: Offers | SurveyError) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(result)


class _Survey:
    """One process that is started, asked and ended."""

    def __init__(
        self, loop: Loop, pool: ServerPool, versions: Versions, questions: Iterable[tuple[str, str]], done: Done
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._era_cache = EraCache(versions=versions)  # a new one, which is not kept
        self._questions = list(questions)
        self._done = done
        self._server: Server | None = None
        self._is_over = False
        self._is_to_start_again = False
        self._meta: Message = {}
        self._offers = Offers(era="legacy")
        self._pages = 0
        self._bytes = 0

    def start(self) -> None:
        """Begin. The result may come at once."""
        self._loop.call_later(SECONDS, lambda: self._fail(f"the MCP server did not answer within {SECONDS:.0f} s"))
        self._begin(Handshake.begin_for_modern)

    def _begin(self, begin: Callable[[Handshake], None]) -> None:
        try:
            self._server = self._pool.start_probe(self._ended)
        except HttpError as error:
            self._fail(str(error))
            return
        metadata = RequestMetadata(
            version=MODERN_VERSIONS[-1], capabilities=_CAPABILITIES, client_info={}, log_level=None
        )
        initialize = own_initialize(metadata, self._era_cache.versions)
        begin(Handshake(self._server.dispatcher, self._loop, self._era_cache, initialize, self._open))

    def _ended(self, reason: str) -> None:
        if self._is_to_start_again:
            self._is_to_start_again = False
            self._begin(Handshake.begin_again)
        else:
            self._fail(f"the MCP server {reason}")

    def _open(self, outcome: Outcome) -> None:
        if isinstance(outcome, Gone):
            self._is_to_start_again = True
        elif isinstance(outcome, Failed):
            text = outcome.message["error"].get("message")
            self._fail(text if isinstance(text, str) else "the MCP server refused to initialize")
        else:
            if not isinstance(outcome, Initialized):
                self._offers = Offers(era="modern")
                self._meta = {"_meta": {**own_meta(), CLIENT_CAPABILITIES: _CAPABILITIES}}
            self._ask_next()

    def _ask_next(self) -> None:
        if not self._questions:
            self._finish(self._offers)
            return
        method, member = self._questions.pop(0)
        self._offers.lists[member] = []
        self._ask(method, member, None)

    def _ask(self, method: str, member: str, cursor: str | None) -> None:
        self._pages += 1
        if self._pages > _MAX_PAGES or self._server is None:
            self._fail(f"the MCP server has more than {_MAX_PAGES} pages of what it offers")
            return
        page = {} if cursor is None else {"cursor": cursor}
        self._server.dispatcher.ask(method, {**self._meta, **page}, lambda answer: self._take(method, member, answer))

    def _take(self, method: str, member: str, answer: Message) -> None:
        error, result = answer.get("error"), answer.get("result")
        if isinstance(result, dict) and isinstance(result.get(member), list):
            self._bytes += len(jsonrpc.encode(result))
            if self._bytes > _MAX_BYTES:
                self._fail(f"the MCP server has more than {_MAX_BYTES} bytes of what it offers")
                return
            self._offers.lists[member] += result[member]
            cursor = next_cursor(result)
            if cursor is None:
                self._ask_next()
            else:
                self._ask(method, member, cursor)
        elif isinstance(error, dict) and error.get("code") == jsonrpc.METHOD_NOT_FOUND:
            self._ask_next()  # it has none
        else:
            text = error.get("message") if isinstance(error, dict) else None
            self._fail(f"{method}: {text if isinstance(text, str) else 'the answer is no list'}")

    def _fail(self, text: str) -> None:
        if self._pool.credentials is not None:
            text += " (it was started without a user's credentials)"
        self._finish(SurveyError(text))

    def _finish(self, result: Offers | SurveyError) -> None:
        if not self._is_over:
            self._is_over = True
            if self._server is not None:
                self._server.stop("the survey is done")
            self._done(result)
