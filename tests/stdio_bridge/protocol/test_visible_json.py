"""One text for one value, in which a reviewer sees every character."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol.visible_json import render

TEXTS = st.text(st.characters())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any, draw: st.DataObject) -> Any:
    """Return the same value with its members in another order, and with numbers written in another way."""
    if isinstance(value, dict):
        names = draw.draw(st.permutations(sorted(value)))
        return {name: shuffled(value[name], draw) for name in names}
    if isinstance(value, list):
        return [shuffled(each, draw) for each in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


@given(VALUES, st.data())
def test_the_same_value_is_the_same_text(value: Any, data: st.DataObject) -> None:
    assert render(shuffled(value, data)) == render(value)


@given(VALUES)
def test_the_text_is_json_of_the_same_value(value: Any) -> None:
    text = render(value)
    assert json.loads(text) == value
    assert render(json.loads(text)) == text


@given(TEXTS, TEXTS)
def test_different_texts_are_written_differently(one: str, other: str) -> None:
    assert (render(one) == render(other)) == (one == other)


@given(TEXTS)
def test_each_character_that_is_shown_has_a_shape_of_its_own(text: str) -> None:
    for character in render({text: text}).replace("\n", ""):
        assert character == " " or unicodedata.category(character)[0] in "LNPS"
        assert unicodedata.normalize("NFKC", character) == character


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It reads.\u200b", r"It reads.\u200b"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("a\x00\x1b[31m\x7f\x9b", r"a\u0000\u001b[31m\u007f\u009b"),
        ("a\u00a0b\u2003c\u3000\u2028", r"a\u00a0b\u2003c\u3000\u2028"),
        ("\U000e0041\U000e0042", r"\udb40\udc41\udb40\udc42"),
        ("\u3164\u115f\u2800\u00ad\ufeff", r"\u3164\u115f\u2800\u00ad\ufeff"),
        ("e\u0301 \ufe0f", r"e\u0301 \ufe0f"),
        ("\uff4c\uff4f\uff4f\uff4b", r"\uff4c\uff4f\uff4f\uff4b"),
        ("p\u0430ypal", r"p\u0430ypal"),  # a Cyrillic letter among Latin ones
        ("\u0441\u043e\u0440\u0443 \u0430", r"\u0441\u043e\u0440\u0443 \u0430"),  # Cyrillic that reads as Latin
        ("adm\u0131n \u0251", r"adm\u0131n \u0251"),
        ("\ud800", r"\ud800"),
        ('quote " backslash \\ line\n', r"quote \" backslash \\ line\n"),
    ],
)
def test_what_deceives_is_escaped(text: str, shown: str) -> None:
    assert render(text) == f'"{shown}"'


@pytest.mark.parametrize(
    "text",
    ["déjà vu — Größe “q” ß ø", "Показать задачи", "課題を表示する", "이슈 보기", "عرض القضايا", "Προβολή", "✓ 😀 →"],
)
def test_what_does_not_deceive_can_be_read(text: str) -> None:
    assert render(text) == f'"{text}"'


def test_the_form_of_a_document() -> None:
    value: dict[str, Any] = {"b": [1.0, True, None, {}, []], "a": {"x": "y"}}
    assert (
        render(value)
        == """{
  "a": {
    "x": "y"
  },
  "b": [
    1,
    true,
    null,
    {},
    []
  ]
}"""
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        render(value)
