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

# A name in ASCII that is no number and no Punycode, without user information: what is read is where it leads.
_PLAIN_URL = re.compile(
    r"https://(?!.*xn--)([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}(:[0-9]{1,5})?(/[\w./~%?&=+#-]*)?",
    re.ASCII | re.IGNORECASE,
)
_PUNCTUATION = ".,;:!?)"

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
    spaced = _spaced(unverified_name)
    visible = _visible(spaced)
    text = _tidied(visible)
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


def display_text_in_full(text: str) -> str:
    """Return a text as `display_text` does, of any length."""
    return _tidied(_visible(_spaced(text)))


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """A piece of a text."""

    text: str
    url: str | None = None
    """Where it leads to, if it is a link. A link's text is its URL."""


def split_links(text: str) -> list[TextPart]:
    """Return the pieces of a text, in which words that are plain https URLs are links."""
    pieces: list[TextPart] = []
    for word in re.split(r"( )", text):
        url = word.rstrip(_PUNCTUATION)
        if not _PLAIN_URL.fullmatch(url):
            pieces.append(TextPart(text=word))
            continue
        pieces.append(TextPart(text=url, url=url))
        pieces.append(TextPart(text=word[len(url) :]))
    return [piece for piece in pieces if piece.text]


def _spaced(text: str) -> str:
    return _SPACES.sub(" ", unicodedata.normalize("NFC", text))


def _visible(text: str) -> str:
    return "".join(character for character in text if not _is_invisible(character))


def _tidied(text: str) -> str:
    return _SPACES.sub(" ", _without_towers(text)).strip()


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
