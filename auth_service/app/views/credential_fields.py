"""Users' own credentials in forms: the fields of a page, and what a user has entered there.

The texts are the operator's. They are shown as text: only a plain https URL becomes a link.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from auth_service.app.composition import Parts
from auth_service.protocol.display import DisplayName, TextPart, display_name, display_text_in_full, split_links
from auth_service.settings.user_credentials import MAX_VALUE_BYTES, UserCredential
from auth_service.storage.user_credentials import Secret

from .browser import is_signed_in_still
from .pages import moment

VALUE_FIELD: Final = "value:"
"""Before the variable's name, in the name of a field."""
_NO_PROBLEMS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Field:
    """A credential as a page asks for it."""

    variable: str
    name: str
    """Of the form's field."""
    label: str
    help: list[TextPart]
    is_connected: bool
    """Whether the user connects an account instead of entering a value."""
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class HeldCredential:
    """A credential that the gateway keeps for a user."""

    id: str
    """Names it in the form."""
    resource_name: str
    server: DisplayName
    variable: str
    label: str
    set_at: datetime
    used_at: datetime | None
    field: Field | None
    """The field for a new value; None if the server does not ask for this credential any more."""
    digest: str
    """The digest of what a page shows of it, by which a form is refused if that has changed."""


@dataclass(frozen=True, kw_only=True)
class MissingCredential:
    """A credential that a server needs from a user and the gateway does not have."""

    id: str
    """Names it in the form."""
    resource_name: str
    server: DisplayName
    field: Field
    digest: str
    """As that of `HeldCredential`."""


@dataclass(frozen=True, kw_only=True)
class Entered:
    """What a user has entered: what can be kept, and why the rest cannot, by variable."""

    secrets: dict[str, Secret]
    problems: dict[str, str]


def credential_id(resource_name: str, variable: str) -> str:
    """Return the id of a credential in forms. The name of a server has no colon."""
    return f"{resource_name}:{variable}"


def describe(parts: Parts, resource_name: str, variable: str, *, problem: str | None = None) -> Field:
    """Return the field for a variable that a server asks for. `problem` says why the value last sent is not kept."""
    wanted = parts.settings.resources[resource_name].user_credentials[variable]
    return Field(
        variable=variable,
        name=VALUE_FIELD + variable,
        label=display_text_in_full(wanted.label),
        help=split_links(display_text_in_full(wanted.help or "")),
        is_connected=wanted.oauth is not None,
        problem=problem,
    )


def find_held(
    parts: Parts, sub: str, resource_names: Sequence[str], *, problems: Mapping[str, str] = _NO_PROBLEMS
) -> list[HeldCredential]:
    """Return what is kept for a user at these servers. `problems` are those of a form, by `HeldCredential.id`."""
    found: list[HeldCredential] = []
    for state in parts.user_credentials.find_states(sub, resource_names):
        name, variable = state.resource_name, state.variable
        resource = parts.settings.resources[name]
        id_ = credential_id(name, variable)
        is_wanted = variable in resource.user_credentials
        field = describe(parts, name, variable, problem=problems.get(id_)) if is_wanted else None
        found.append(
            HeldCredential(
                id=id_,
                resource_name=name,
                server=display_name(resource.title or name),
                variable=variable,
                label=variable if field is None else field.label,
                set_at=moment(state.set_at),
                used_at=None if state.used_at is None else moment(state.used_at),
                field=field,
                digest=digest(parts, name, [variable]),
            )
        )
    return found


def find_missing(
    parts: Parts, sub: str, resource_names: Sequence[str], *, problems: Mapping[str, str] = _NO_PROBLEMS
) -> list[MissingCredential]:
    """Return what these servers need from a user and is not kept. `problems` are as those of `find_held`."""
    kept = {(each.resource_name, each.variable) for each in parts.user_credentials.find_states(sub, resource_names)}
    found: list[MissingCredential] = []
    for name in resource_names:
        resource = parts.settings.resources[name]
        for variable in resource.user_credentials:
            if (name, variable) in kept:
                continue
            id_ = credential_id(name, variable)
            found.append(
                MissingCredential(
                    id=id_,
                    resource_name=name,
                    server=display_name(resource.title or name),
                    field=describe(parts, name, variable, problem=problems.get(id_)),
                    digest=digest(parts, name, [variable]),
                )
            )
    return found


def digest(parts: Parts, resource_name: str, variables: Sequence[str]) -> str:
    """Return the digest of all that the settings say of these variables, also of those that they name no more."""
    wanted = parts.settings.resources[resource_name].user_credentials
    members = [
        (variable, wanted[variable].model_dump(mode="json") if variable in wanted else None) for variable in variables
    ]
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def read(parts: Parts, resource_name: str, variables: Sequence[str], form: Mapping[str, str]) -> Entered:
    """Return what a form has in the fields of these variables. No text quotes a value."""
    wanted = parts.settings.resources[resource_name].user_credentials
    secrets: dict[str, Secret] = {}
    problems: dict[str, str] = {}
    for variable in variables:
        credential = wanted[variable]
        if credential.oauth is not None:
            continue
        value = form.get(VALUE_FIELD + variable, "").strip(" ")
        if (problem := _find_problem(credential, value)) is None:
            secrets[variable] = Secret(value=value)
        else:
            problems[variable] = problem
    return Entered(secrets=secrets, problems=problems)


def keep(parts: Parts, resource_name: str, sub: str, name: str, secrets: Mapping[str, Secret]) -> bool:
    """Keep what a user has entered or connected; return False, and keep nothing, if the user's session has ended.

    The user may be revoked at any moment, which ends sessions first and then removes what is stored.
    """
    if not secrets:
        return True
    if is_signed_in_still(parts, sub):
        parts.credential_changes.put(resource_name, sub, name, secrets)
        if is_signed_in_still(parts, sub):
            return True
        parts.credential_changes.remove(resource_name, sub, list(secrets), by="gateway")
    return False


def _find_problem(credential: UserCredential, value: str) -> str | None:
    if not value:
        return "Nothing was entered."
    if len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
        return f"This is too long: at most {MAX_VALUE_BYTES:,} bytes can be kept."
    if not value.isprintable():
        return "This has line breaks or control characters: copy the value alone."
    if not credential.accepts(value):
        return "This does not look as it should: check that you have copied the right value, and all of it."
    return None
