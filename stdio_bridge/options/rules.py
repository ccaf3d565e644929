"""How the rules for tools, prompts and resources are written, which is in the configuration file alone."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from stdio_bridge.protocol.policy import InvalidRulesError, ResourceRules, Rule, Rules

from .kinds import FLAG, InvalidValueError, Kind

R = TypeVar("R", bound=Rules)

_SCOPE = r"[\x21\x23-\x5b\x5d-\x7e]+"
_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "default": {"enum": ["allow", "deny"], "default": "allow"},
        "rules": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "scopes": {"type": "array", "items": {"type": "string", "pattern": f"^{_SCOPE}$"}},
                    "deny": {"type": "boolean", "default": False},
                },
            },
        },
    },
}


def _object(value: object, *members: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError(f"{value!r} is not an object")
    for name in value:
        if name not in members:
            raise InvalidValueError(f"{name}: is none of {', '.join(members)}")
    return value


def _rule(name: str, value: object) -> Rule:
    try:
        members = _object(value, "scopes", "deny")
        scopes, deny = members.get("scopes", []), FLAG.from_json(members.get("deny", False))
        if not isinstance(scopes, list):
            raise InvalidValueError(f"scopes: {scopes!r} is not a list")
        for scope in scopes:
            if not isinstance(scope, str) or not re.fullmatch(_SCOPE, scope):
                raise InvalidValueError(f"scopes: {scope!r} is no scope (RFC 6749 §3.3)")
        if deny and scopes:
            raise InvalidValueError("deny: true leaves nothing for scopes to allow")
    except InvalidValueError as error:
        raise InvalidValueError(f"rules: {name}: {error}") from error
    return Rule(scopes=frozenset(scopes), deny=deny)


def _kind(of: type[R]) -> Kind[R]:
    """Who may use what: a default, and rules by name or pattern. In the file alone."""

    def from_json(value: object) -> R:
        members = _object(value, "default", "rules")
        default = members.get("default", "allow")
        if default not in ("allow", "deny"):
            raise InvalidValueError(f"default: {default!r} is neither allow nor deny")
        written = members.get("rules", {})
        if not isinstance(written, dict):
            raise InvalidValueError(f"rules: {written!r} is not an object")
        by_name = {name: _rule(name, rule) for name, rule in written.items()}
        try:
            return of(default=Rule(deny=default == "deny"), rules=by_name)
        except InvalidRulesError as error:
            raise InvalidValueError(f"rules: {error}") from error

    return Kind(from_json=from_json, schema=_SCHEMA)


RULES = _kind(Rules)
RESOURCE_RULES = _kind(ResourceRules)
