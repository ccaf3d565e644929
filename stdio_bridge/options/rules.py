"""How the configuration file writes the rules for tools, prompts and resources. The command line has none."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from stdio_bridge.protocol.argument_schemas import ArgumentSchema, InvalidSchemaError
from stdio_bridge.protocol.policy import InvalidRulesError, Primitive, ResourceRules, Rule, Rules
from stdio_bridge.protocol.quotas import Quota

from .kinds import COUNT, FLAG, InvalidValueError, Kind

R = TypeVar("R", bound=Rules)

_SCOPE = r"[\x21\x23-\x5b\x5d-\x7e]+"
# A resource is read by its URI alone.
_WITH_ARGUMENTS = frozenset({Primitive.TOOLS, Primitive.PROMPTS})


def _schema(primitive: Primitive) -> dict[str, object]:
    rule: dict[str, object] = {
        "scopes": {"type": "array", "items": {"type": "string", "pattern": f"^{_SCOPE}$"}},
        "deny": {"type": "boolean", "default": False},
        "calls-per-minute": dict(COUNT.schema),
    }
    if primitive in _WITH_ARGUMENTS:
        rule["arguments"] = {"type": ["object", "boolean"]}
    each = {"type": "object", "additionalProperties": False, "properties": rule}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "default": {"enum": ["allow", "deny"], "default": "allow"},
            "rules": {"type": "object", "additionalProperties": each},
        },
    }


def _object(value: object, *members: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError(f"{value!r} is not an object")
    for name in value:
        if name not in members:
            raise InvalidValueError(f"{name}: is none of {', '.join(members)}")
    return value


def _rule(primitive: Primitive, name: str, value: object) -> Rule:
    try:
        with_arguments = ("arguments",) if primitive in _WITH_ARGUMENTS else ()
        members = _object(value, "scopes", "deny", "calls-per-minute", *with_arguments)
        scopes, deny = members.get("scopes", []), FLAG.from_json(members.get("deny", False))
        if not isinstance(scopes, list):
            raise InvalidValueError(f"scopes: {scopes!r} is not a list")
        for scope in scopes:
            if not isinstance(scope, str) or not re.fullmatch(_SCOPE, scope):
                raise InvalidValueError(f"scopes: {scope!r} is no scope (RFC 6749 §3.3)")
        for other, given in members.items():
            if deny and other != "deny" and given != []:
                raise InvalidValueError(f"deny: true leaves nothing for {other} to allow")
        return Rule(
            scopes=frozenset(scopes),
            deny=deny,
            quota=_quota(primitive, name, members["calls-per-minute"]) if "calls-per-minute" in members else None,
            arguments=_arguments(members["arguments"]) if "arguments" in members else None,
        )
    except InvalidValueError as error:
        raise InvalidValueError(f"rules: {name}: {error}") from error


def _quota(primitive: Primitive, name: str, value: object) -> Quota:
    try:
        calls = COUNT.from_json(value)
    except InvalidValueError as error:
        raise InvalidValueError(f"calls-per-minute: {error}") from error
    of = f"{primitive.value} that match {name}" if "*" in name else f"{primitive.value.removesuffix('s')} {name}"
    return Quota(name=of, calls_per_minute=calls)


def _arguments(value: object) -> ArgumentSchema:
    try:
        return ArgumentSchema(value)
    except InvalidSchemaError as error:
        raise InvalidValueError(f"arguments: {error}") from error


def _kind(primitive: Primitive, of: type[R]) -> Kind[R]:
    """A default, and rules by name or pattern."""

    def from_json(value: object) -> R:
        members = _object(value, "default", "rules")
        default = members.get("default", "allow")
        if default not in ("allow", "deny"):
            raise InvalidValueError(f"default: {default!r} is neither allow nor deny")
        written = members.get("rules", {})
        if not isinstance(written, dict):
            raise InvalidValueError(f"rules: {written!r} is not an object")
        by_name = {name: _rule(primitive, name, rule) for name, rule in written.items()}
        try:
            return of(default=Rule(deny=default == "deny"), rules=by_name)
        except InvalidRulesError as error:
            raise InvalidValueError(f"rules: {error}") from error

    return Kind(from_json=from_json, schema=_schema(primitive))


TOOL_RULES = _kind(Primitive.TOOLS, Rules)
PROMPT_RULES = _kind(Primitive.PROMPTS, Rules)
RESOURCE_RULES = _kind(Primitive.RESOURCES, ResourceRules)
