"""The rules for tools, prompts and resources: who may use them, and with which arguments. No I/O.

The rule for the exact name decides. Without one, it is the rule for a pattern that matches: the one with the longest
text before its first `*`, which stands for any characters. Without one, it is the default. Names are compared code
point by code point.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .argument_schemas import ArgumentSchema
from .jsonrpc import INVALID_PARAMS
from .mcp import LEGACY_RESOURCE_NOT_FOUND
from .quotas import Quota
from .resource_uris import AmbiguousUriError, normalize_pattern, normalize_uri, without_file_host


class Primitive(enum.Enum):
    """What a server offers, as MCP calls it. The value is the option that holds its rules."""

    TOOLS = "tools"
    PROMPTS = "prompts"
    RESOURCES = "resources"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a call needs: all of these scopes, and arguments that the schema allows. `deny` forbids it to every user.

    `quota` counts the calls of everything that this rule decides about.
    """

    scopes: frozenset[str] = frozenset()
    deny: bool = False
    quota: Quota | None = None
    arguments: ArgumentSchema | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a user may do. If not `exists`, the user can neither see it nor use it.

    `missing` are those of the `needed` scopes that the user lacks, and can still be granted.
    """

    exists: bool
    needed: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()

    @property
    def is_allowed(self) -> bool:
        """Whether it may be used now."""
        return self.exists and not self.missing


def unknown(primitive: Primitive, name: str) -> tuple[int, str]:
    """Return the error code and text with which a server answers for a tool, prompt or resource that it lacks."""
    if primitive is Primitive.RESOURCES:
        return LEGACY_RESOURCE_NOT_FOUND, "Resource not found"
    return INVALID_PARAMS, f"Unknown {primitive.value.removesuffix('s')}: {name}"


HIDDEN = Decision(exists=False)
_DENIED = Rule(deny=True)


class InvalidRulesError(Exception):
    """Rules contradict each other, or one of them can never match; the text names it."""


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    name: str
    pieces: tuple[str, ...]
    rule: Rule

    def matches(self, name: str) -> bool:
        """Whether the name has all pieces in their order, without overlaps."""
        first, *middle, last = self.pieces
        position, end = len(first), len(name) - len(last)
        if end < position or not name.startswith(first) or not name.endswith(last):
            return False
        for piece in middle:
            position = name.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True

    def may_tie_with(self, other: _Pattern) -> bool:
        """Whether one name might match both patterns, and neither has precedence."""
        ends = self.pieces[-1], other.pieces[-1]
        return self.pieces[0] == other.pieces[0] and (ends[0].endswith(ends[1]) or ends[1].endswith(ends[0]))


class _RuleSet:
    """Rules by name; all names are in the form that `pieces_of` and `key_of` make."""

    def __init__(
        self,
        default: Rule,
        rules: Mapping[str, Rule],
        *,
        pieces_of: Callable[[str], tuple[str, ...]],
        key_of: Callable[[str], str],
    ) -> None:
        self._default = default
        self._key_of = key_of
        self._exact: dict[str, Rule] = {}
        self._patterns: list[_Pattern] = []
        named = self._named = dict[str, str]()
        for name, rule in rules.items():
            pieces = pieces_of(name)
            if len(pieces) == 1:
                key = key_of(pieces[0])
                if key in named:
                    raise InvalidRulesError(f"{named[key]} and {name} are the same name")
                self._exact[key] = rule
                named[key] = name
                continue
            pattern = _Pattern(name=name, pieces=pieces, rule=rule)
            for other in self._patterns:
                if pattern.may_tie_with(other):
                    raise InvalidRulesError(
                        f"{'*'.join(other.pieces)} and {'*'.join(pieces)} can match the same name, and neither is "
                        "longer before its *"
                    )
            self._patterns.append(pattern)
        # The first pattern that matches decides.
        self._patterns.sort(key=lambda pattern: -len(pattern.pieces[0]))

    def find(self, name: str) -> Rule:
        """Return the rule that decides about a name."""
        exact = self._exact.get(self._key_of(name))
        if exact is not None:
            return exact
        return next((pattern.rule for pattern in self._patterns if pattern.matches(name)), self._default)

    def find_all_below(self, prefix: str) -> list[Rule]:
        """Return every rule that may decide about a name with this prefix."""
        found = [rule for name, rule in self._exact.items() if name.startswith(prefix)]
        for pattern in self._patterns:
            before = pattern.pieces[0]
            if before.startswith(prefix) or prefix.startswith(before):
                found.append(pattern.rule)
            if prefix.startswith(before) and pattern.pieces[1:] == ("",):
                return found  # it matches every such name, so no later rule decides
        return [*found, self._default]

    def find_unmatched(self, names: Iterable[str], prefixes: Iterable[str]) -> set[str]:
        """Return the names of the rules that match none of these names, and no name with one of these prefixes."""
        names, prefixes = list(names), tuple(prefixes)
        keys = {self._key_of(name) for name in names}
        unmatched = {name for key, name in self._named.items() if key not in keys and not key.startswith(prefixes)}
        for pattern in self._patterns:
            before = pattern.pieces[0]
            is_below = any(before.startswith(prefix) or prefix.startswith(before) for prefix in prefixes)
            if not is_below and not any(map(pattern.matches, names)):
                unmatched.add(pattern.name)
        return unmatched


class Rules:
    """The rules for tools or for prompts, by their names."""

    def __init__(self, *, default: Rule, rules: Mapping[str, Rule]) -> None:
        """Raises InvalidRulesError."""
        self._rules = _RuleSet(default, rules, pieces_of=lambda name: tuple(name.split("*")), key_of=str)

    def find(self, name: str) -> tuple[Rule, ...]:
        """Return the rules that a use must satisfy."""
        return (self._rules.find(name),)

    def find_unmatched(self, names: Iterable[str], templates: Iterable[str] = ()) -> list[str]:
        """Return the rules that match none of these names, sorted. Only resources have templates."""
        return sorted(self._rules.find_unmatched(names, ()))


class ResourceRules(Rules):
    """The rules for resources, by their URIs.

    A URI must satisfy the rule for it as it is written, and the rule for its normal form, which is compared with the
    normal forms of the rules. So no other spelling of a resource evades its rule. A `file` URI with a host must satisfy
    the rule for the local file as well. A URI that servers read in different ways does not exist.
    """

    def __init__(self, *, default: Rule, rules: Mapping[str, Rule]) -> None:
        """Raises InvalidRulesError."""
        super().__init__(default=default, rules=rules)
        try:
            self._normal = _RuleSet(default, rules, pieces_of=normalize_pattern, key_of=lambda uri: uri.rstrip("/"))
        except AmbiguousUriError as error:
            raise InvalidRulesError(str(error)) from error

    def find(self, name: str) -> tuple[Rule, ...]:
        """Return the rules that a use must satisfy."""
        try:
            normal = normalize_uri(name)
        except AmbiguousUriError:
            return (_DENIED,)
        local = without_file_host(normal)
        rules = self._rules.find(name), self._normal.find(normal)
        return rules if local == normal else (*rules, self._normal.find(local))

    def find_unmatched(self, names: Iterable[str], templates: Iterable[str] = ()) -> list[str]:
        """Return the rules that match none of these URIs, and no URI of a template, sorted."""
        names, prefixes = list(names), [template.partition("{")[0] for template in templates]
        normal = [uri for uri in map(_find_normal, names) if uri is not None]
        return sorted(
            self._rules.find_unmatched(names, prefixes) & self._normal.find_unmatched(normal, prefixes),
        )

    def find_all_of_template(self, template: str) -> list[Rule]:
        """Return every rule that may decide about a URI of this template."""
        return self._rules.find_all_below(template.partition("{")[0])


def _find_normal(uri: str) -> str | None:
    try:
        return normalize_uri(uri)
    except AmbiguousUriError:
        return None


def decide(rules: Iterable[Rule], *, held: frozenset[str], grantable: frozenset[str]) -> Decision:
    """Decide about a call that must satisfy all these rules, for a user with the scopes `held`.

    `grantable` are other scopes that the user can still be granted.
    """
    needed: frozenset[str] = frozenset()
    for rule in rules:
        if rule.deny:
            return HIDDEN
        needed |= rule.scopes
    missing = needed - held
    return Decision(exists=True, needed=needed, missing=missing) if missing <= grantable else HIDDEN
