"""Make a name that a stranger chose safe to show to users, who decide by it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_LENGTH = 64
"""How many characters of a name are shown. A longer name would push other facts off the screen."""

_MAX_MARKS = 3
"""Combining marks in a row. No writing needs more, and a tower of them covers the text around it."""

# Letters and spaces by category that show nothing.
_BLANK = frozenset("\u00ad\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_SPACES = re.compile(r"\s+")

# Scripts with letters that look alike, and the letters of other scripts that look Latin.
_CONFUSABLE_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
_LATIN_TWINS = frozenset("аеорсухіјѕԁһӏԛԝьгпкмнтвАВЕЗКМНОРСТУХІЈЅԌοαεικνρτυχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧօոսցհղ")


@dataclass(frozen=True)
class DisplayName:
    """A name that is safe to show, and what is suspicious about it."""

    text: str
    has_hidden_characters: bool = False
    """Whether invisible or reordering characters were left out."""
    mixes_alphabets: bool = False
    """Whether letters only look like those of the alphabet that the name seems to use."""

    @property
    def initial(self) -> str:
        """The first letter or digit, for a badge."""
        return next((character.upper() for character in self.text if character.isalnum()), "?")[:1]


def display_name(unverified_name: str) -> DisplayName:
    """Return a name without invisible and reordering characters and towers of marks, and not too long."""
    normalized = unicodedata.normalize("NFC", unverified_name)
    spaced = _SPACES.sub(" ", normalized)
    visible = "".join(character for character in spaced if not _is_invisible(character))
    text = _SPACES.sub(" ", _without_towers(visible)).strip()
    if len(text) > MAX_LENGTH:
        text = text[: MAX_LENGTH - 1].rstrip() + "…"
    return DisplayName(
        text or "(no name)",
        has_hidden_characters=len(visible) != len(spaced),
        mixes_alphabets=any(_is_lookalike(word) for word in text.split()),
    )


def display_text(text: str) -> str:
    """Return only the text of `display_name`."""
    return display_name(text).text


def _is_invisible(character: str) -> bool:
    return character in _BLANK or unicodedata.category(character) in _INVISIBLE_CATEGORIES


def _without_towers(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in {"Mn", "Me"} else 0
        if marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _is_lookalike(word: str) -> bool:
    """Whether a word mixes scripts that look alike, or consists of other letters that all look Latin."""
    letters = [character for character in word if character.isalpha()]
    scripts = {unicodedata.name(letter, "").split(" ", 1)[0] for letter in letters} & _CONFUSABLE_SCRIPTS
    return len(scripts) > 1 or (len(letters) > 1 and all(letter in _LATIN_TWINS for letter in letters))
