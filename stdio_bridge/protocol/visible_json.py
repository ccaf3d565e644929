"""JSON for people to review: one form for one value, and no character that looks like another or like nothing. No I/O.

Members are sorted by name, numbers of one value are written alike, and each level is indented by two spaces. Characters
outside ASCII are written as `\\u` escapes if they cannot be seen, change the direction of text, combine with the one
before, stand for another character, or pass for an ASCII letter.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator

# Other, separators, and marks that combine, by the first letter of their general category; Zs outside ASCII as well.
_INVISIBLE = ("C", "Z", "M")
# Blank, though by their category they are letters and symbols.
_BLANK = frozenset("\u115f\u1160\u2800\U0001d159")
# Letters of these alphabets that look like ASCII letters in usual fonts.
_LIKE_ASCII = frozenset(
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυϲϳϹϺ"  # noqa: RUF001 - Greek
    "АВЕКМНОРСТУХЅІЈԌԚԜаеорсухѕіјһԁԛԝӀӏүѵ"  # Cyrillic
    "ՍՏԼՕօսոցհզո"  # Armenian
)
_INDENT = "  "
_FOREIGN_ALPHABETS = ("ARMENIAN", "CHEROKEE", "COPTIC", "CYRILLIC", "DESERET", "GEORGIAN", "GREEK", "LISU", "NKO")
# Latin letters that are no ASCII letter with a mark, and yet in everyday use.
_USUAL_LATIN = frozenset("ßæøłđðþœÆØŁĐÐÞŒẞ")
# Of a string in JSON: an escape, a word, or another character outside ASCII.
_TOKEN = re.compile(r"\\u[0-9a-f]{4}|\\.|\w+|[^\w\x00-\x7f]")


def render(value: object, *, depth: int = 0) -> str:
    """Return a value as canonical, readable text, indented as at that depth. Raises ValueError if it is not JSON."""
    return "".join(_pieces(value, "\n" + depth * _INDENT))


def render_short(value: object) -> str:
    """Return a value in one line."""
    return re.sub(r"\n *", " ", render(value))


def _pieces(value: object, line: str) -> Iterator[str]:
    """Yield the text of a value; `line` ends a line and indents the next one as the value is."""
    inner = line + _INDENT
    if isinstance(value, dict) and value:
        separator = "{"
        for name in sorted(value):
            yield f"{separator}{inner}{_string(name)}: "
            yield from _pieces(value[name], inner)
            separator = ","
        yield line + "}"
    elif isinstance(value, list) and value:
        separator = "["
        for each in value:
            yield separator + inner
            yield from _pieces(each, inner)
            separator = ","
        yield line + "]"
    elif isinstance(value, str):
        yield _string(value)
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))
    else:
        yield json.dumps(value, allow_nan=False)


def _string(text: str) -> str:
    written = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return written if written.isascii() else _TOKEN.sub(_token, written)


def _token(found: re.Match[str]) -> str:
    token = found[0]
    if token.isascii():
        return token
    # A word of one alphabet is read as such, unless all of it could be read as another.
    suspicious = any(each.isascii() for each in token) or all(each in _LIKE_ASCII for each in token)
    return "".join(_character(each, suspicious=suspicious) for each in token)


def _character(character: str, *, suspicious: bool) -> str:
    if character.isascii():
        return character
    escape = _is_deceptive(character) or (suspicious and _is_foreign(character))
    return json.dumps(character)[1:-1] if escape else character


@functools.lru_cache(maxsize=4096)
def _is_deceptive(character: str) -> bool:
    if unicodedata.category(character).startswith(_INVISIBLE) or character in _BLANK:
        return True
    if unicodedata.normalize("NFKC", character) != character:
        return True
    is_latin = unicodedata.name(character, "").startswith("LATIN ")
    return is_latin and unicodedata.normalize("NFD", character) == character and character not in _USUAL_LATIN


def _is_foreign(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_FOREIGN_ALPHABETS)
