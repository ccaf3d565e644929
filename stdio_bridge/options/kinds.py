"""How the value of an option is written: on the command line, in the configuration file, and in that file's schema."""

from __future__ import annotations

import enum
import importlib.util
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NewType, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

DescriptorName = NewType("DescriptorName", str)
"""The name of a file that systemd hands over: `OpenFile=PATH:NAME`, see systemd.service(5)."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}
# With a path; without a user, a query and a fragment.
_COLLECTOR = r"^https?://[^/@?#\s]+/[^?#\s]+$"
# With an IP address: the bridge would have to resolve a name while its clients wait.
_CREDENTIALS = r"^http://([0-9.]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?/[!-\"$->@-~]*$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
_MAX_SECONDS = 1e9
_MAX_COUNT = 10**11
_MAX_DIGITS = 100


class InvalidValueError(Exception):
    """A value is not of its kind; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[T]):
    """One way to write a value. Both readers raise InvalidValueError.

    `from_text` reads the text after `--NAME`; it is None for an option without a value. `collect` combines the values
    of an option that can be repeated.
    """

    from_json: Callable[[object], T]
    schema: Mapping[str, object]
    from_text: Callable[[str], Any] | None = None
    metavar: str | None = None
    collect: Callable[[list[Any]], T] | None = None


def text(metavar: str, parse: Callable[[str], T]) -> Kind[T]:
    """A value that is the same text on the command line and in the file."""
    return Kind(metavar=metavar, from_text=parse, from_json=lambda value: parse(_string(value)), schema=_STRING)


def choice(metavar: str, *words: str) -> Kind[str]:
    """One of some words."""

    def parse(word: str) -> str:
        if word not in words:
            raise InvalidValueError(f"{word!r} is not one of {', '.join(words)}")
        return word

    return replace(text(metavar, parse), schema={"enum": list(words)})


def member(metavar: str, of: type[E]) -> Kind[E]:
    """One of the members of an enumeration, by its value."""
    words = choice(metavar, *(each.value for each in of))
    return replace(text(metavar, lambda value: of(words.from_json(value))), schema=words.schema)


def several(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Values of a kind: a repeated option, or a list in the file."""

    def from_json(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise InvalidValueError(f"{value!r} is not a list")
        return tuple(kind.from_json(each) for each in value)

    return Kind(
        metavar=kind.metavar,
        from_text=kind.from_text,
        from_json=from_json,
        schema={"type": "array", "items": dict(kind.schema)},
        collect=tuple,
    )


def count(*, at_least: int) -> Kind[int]:
    """A whole number."""
    description = "a positive whole number" if at_least else "a whole number"

    def from_text(value: str) -> int:
        number = _find_number(value)
        if number is None or not at_least <= number < _MAX_COUNT:
            raise InvalidValueError(f"{value!r} is not {description}")
        return number

    def from_json(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value < _MAX_COUNT:
            raise InvalidValueError(f"{value!r} is not {description}")
        return value

    return Kind(
        metavar="N",
        from_text=from_text,
        from_json=from_json,
        schema={"type": "integer", "minimum": at_least, "exclusiveMaximum": _MAX_COUNT},
    )


def _find_number(text: str) -> int | None:
    """Return the whole number that a text is; None also for more digits than any option has."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _number(
    metavar: str, description: str, contains: Callable[[float], bool], bounds: Mapping[str, float]
) -> Kind[float]:
    """A number that need not be whole; `bounds` say in the schema what `contains` checks."""

    def from_json(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not contains(value):
            raise InvalidValueError(f"{value!r} is not {description}")
        return float(value)

    def from_text(value: str) -> float:
        try:
            return from_json(float(value))
        except ValueError as error:
            raise InvalidValueError(f"{value!r} is not {description}") from error

    return Kind(metavar=metavar, from_text=from_text, from_json=from_json, schema={"type": "number", **bounds})


def _flag_from_json(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidValueError(f"{value!r} is neither true nor false")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{value!r} is not a string")
    return value


def _address(value: str) -> tuple[str, int] | Path:
    if value.startswith("unix:/"):
        return Path(value.removeprefix("unix:"))
    host, _, port = value.rpartition(":")
    number = _find_number(port)
    if not host or number is None or number > 65535:
        raise InvalidValueError(f"{value!r} is neither HOST:PORT nor unix:/PATH")
    return host.removeprefix("[").removesuffix("]"), number


@dataclass(frozen=True, kw_only=True)
class RecordsTarget:
    """Where records go: a file, or the native socket of a journal."""

    path: Path
    is_journal: bool


def _records(value: str) -> RecordsTarget:
    path = value.removeprefix("unix:")
    if not path.startswith("/"):
        raise InvalidValueError(f"{value!r} is neither /PATH nor unix:/PATH")
    return RecordsTarget(path=Path(path), is_journal=path != value)


def _path(value: str) -> Path:
    if not value.startswith("/"):
        raise InvalidValueError(f"{value!r} is not an absolute path")
    return Path(value)


def _collector(value: str) -> str:
    if not re.fullmatch(_COLLECTOR, value):
        raise InvalidValueError(
            f"{value!r} is not an http or https URL with a path, such as http://HOST:4318/v1/traces"
        )
    if importlib.util.find_spec("opentelemetry") is None:
        raise InvalidValueError("traces need OpenTelemetry's SDK: install mcp-oauth-gateway[tracing]")
    return value


def _credentials(value: str) -> str:
    example = "such as http://127.0.0.1:9000/credentials/NAME"
    found = re.fullmatch(_CREDENTIALS, value)
    if found is None:
        raise InvalidValueError(f"{value!r} is not an http URL with an IP address and a path, {example}")
    try:
        ipaddress.ip_address(found[1].strip("[]"))
    except ValueError as error:
        raise InvalidValueError(f"{value!r} has no valid IP address, {example}") from error
    if not 0 < int((found[2] or ":80")[1:]) < 65536:
        raise InvalidValueError(f"{value!r} has no valid port, {example}")
    return value


def _origin(value: str) -> str:
    """An origin as browsers write it: without a path, and without its scheme's default port."""
    if value in ("*", "null"):
        return value
    found = re.fullmatch(
        r"([a-z*][a-z0-9+.*-]*)://(\[[0-9a-f:.*]+\]|[^/?#@,:\[\]\s]+)(?::([0-9*]{1,9}))?/?", value.lower()
    )
    if found is None or (found[3] and found[3].isdecimal() and int(found[3]) > 65535):
        raise InvalidValueError(f"{value!r} is not an origin: SCHEME://HOST or SCHEME://HOST:PORT, without a path")
    if not value.isascii():
        raise InvalidValueError(f"{value!r} is not what browsers send: write the name in its xn-- form")
    scheme, host, port = found.groups()
    if host.startswith("["):
        host = f"[{_shortest(host[1:-1], value)}]"
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _host(value: str) -> str:
    """The name or address in a Host header, without a port and without the brackets of an IPv6 address."""
    lower = value.lower()
    if found := re.fullmatch(r"\[([0-9a-f:.*]+)\](?::[0-9*]+)?|([0-9a-f.]*:[0-9a-f:.*]*:[0-9a-f:.*]*)", lower):
        return _shortest(found[1] or found[2], value)
    if found := re.fullmatch(r"([a-z0-9_.*-]+)(?::[0-9*]+)?", lower):
        return found[1]
    raise InvalidValueError(f"{value!r} is not a host: give a name or an address, such as mcp.example.com or [::1]")


def _shortest(address: str, value: str) -> str:
    """An IPv6 address as clients write it in headers. A pattern is left as it is."""
    if "*" in address:
        return address
    try:
        return str(ipaddress.IPv6Address(address))
    except ValueError as error:
        raise InvalidValueError(f"{value!r} contains no valid IPv6 address: {error}") from error


def _key_file(value: str) -> Path | DescriptorName:
    if not value.startswith("fd:"):
        return Path(value)
    if not (name := value.removeprefix("fd:")):
        raise InvalidValueError("fd: must be followed by the name that the unit gives the file")
    return DescriptorName(name)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", value):
        raise InvalidValueError(f"{value!r} is not a name of 1 to 63 characters out of a-z, 0-9 and -")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(_VARIABLE, value):
        raise InvalidValueError(
            f"{value!r} is not the name of a variable: 1 to 100 characters out of A-Z, a-z, 0-9 and _"
        )
    return value


def _assignment(value: str) -> tuple[str, str]:
    name, equals, assigned = value.partition("=")
    if not name or not equals:
        raise InvalidValueError(f"{value!r} is not NAME=VALUE")
    return name, assigned


def _variables_from_json(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidValueError(f"{value!r} is not an object of names and values")
    for name in value:
        if not name or "=" in name:
            raise InvalidValueError(f"{name!r} is not the name of a variable")
    return {name: _string(each) for name, each in value.items()}


def _command_from_json(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidValueError(f"{value!r} is not a list of a program and its arguments")
    return tuple(map(_string, value))


_STRING = {"type": "string"}
ANY_TEXT = text("NAME", str)
DIRECTORY = text("DIRECTORY", str)
ADDRESS = text("ADDRESS", _address)
PATH = replace(text("PATH", _path), schema={**_STRING, "pattern": "^/"})
RECORDS = replace(text("TARGET", _records), schema={**_STRING, "pattern": "^(unix:)?/"})
ORIGIN = text("ORIGIN", _origin)
HOST = text("HOST", _host)
KEY_FILE = text("KEYFILE", _key_file)
NAME = replace(text("NAME", _name), schema={**_STRING, "pattern": "^[a-z0-9-]{1,63}$"})
COUNT = count(at_least=1)
COUNT_OR_NONE = count(at_least=0)
SECONDS = _number(
    "SECONDS",
    "a positive number of seconds",
    lambda seconds: 0 < seconds < _MAX_SECONDS,
    {"exclusiveMinimum": 0, "exclusiveMaximum": _MAX_SECONDS},
)
SECONDS_OR_NONE = _number(
    "SECONDS",
    "a number of seconds",
    lambda seconds: 0 <= seconds < _MAX_SECONDS,
    {"minimum": 0, "exclusiveMaximum": _MAX_SECONDS},
)
RATIO = _number("RATIO", "a number from 0 to 1", lambda ratio: 0 <= ratio <= 1, {"minimum": 0, "maximum": 1})
COLLECTOR = replace(text("URL", _collector), schema={**_STRING, "pattern": _COLLECTOR})
CREDENTIALS = replace(text("URL", _credentials), schema={**_STRING, "pattern": _CREDENTIALS})
VARIABLE = replace(text("NAME", _variable), schema={**_STRING, "pattern": _VARIABLE})
FLAG = Kind(from_json=_flag_from_json, schema={"type": "boolean"})
"""On the command line it stands without a value, and means true."""
VARIABLES: Kind[Mapping[str, str]] = Kind(
    metavar="NAME=VALUE",
    from_text=_assignment,
    from_json=_variables_from_json,
    schema={"type": "object", "additionalProperties": _STRING},
    collect=dict,
)
COMMAND = Kind(from_json=_command_from_json, schema={"type": "array", "items": _STRING, "minItems": 1})
