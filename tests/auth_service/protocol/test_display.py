"""Names that deceive, and names that only look unusual."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.protocol.display import MAX_LENGTH, display_name


@pytest.mark.parametrize(
    "name",
    ["Claude", "Visual Studio Code", "ChatGPT 5.1", "Café Zürich", "Клод Код", "Ελληνικά", "クロード", "클로드", "قلم"],
)
def test_an_honest_name_is_shown_as_it_is_without_a_warning(name: str) -> None:
    shown = display_name(name)
    assert shown.text == name
    assert not shown.has_hidden_characters
    assert not shown.mixes_alphabets


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("\u202eedualC", "edualC"),
        ("Cla\u200bude", "Claude"),
        ("Cla\u00adude", "Claude"),
        ("Claude\u2066 \u2069", "Claude"),
        ("Claude\x00\x1b[31m", "Claude[31m"),
        ("Claude\ufeff", "Claude"),
        ("\U000e0041Claude", "Claude"),
        ("Claude\u3164", "Claude"),
        ("\u2800", "(no name)"),
    ],
)
def test_hidden_and_reordering_characters_are_left_out_and_reported(name: str, text: str) -> None:
    shown = display_name(name)
    assert shown.text == text
    assert shown.has_hidden_characters


@pytest.mark.parametrize(
    "name", ["Cl\u0430ude", "\u0421laude", "\u0421\u043e\u0441\u043e\u0430", "G\u03bfogle", "\u0555penAI"]
)
def test_letters_that_look_like_others_are_reported(name: str) -> None:
    assert display_name(name).mixes_alphabets


def test_white_space_is_one_space_and_lines_are_one_line() -> None:
    assert display_name("  a\t\n\u00a0\u2003b  ").text == "a b"


def test_a_tower_of_marks_is_cut() -> None:
    assert len(display_name("Z" + "\u0337" * 50).text) <= 5


def test_a_long_name_is_cut_with_a_sign() -> None:
    shown = display_name("x" * 300)
    assert len(shown.text) == MAX_LENGTH
    assert shown.text.endswith("…")


@pytest.mark.parametrize(
    ("name", "initial"), [("claude", "C"), ("<script>", "S"), ("ßtraße", "S"), ("…", "?"), ("", "N")]
)
def test_the_badge_is_one_letter(name: str, initial: str) -> None:
    assert display_name(name).initial == initial


@given(st.text(max_size=400))
def test_any_name_is_short_visible_and_stays_the_same_when_shown_again(name: str) -> None:
    shown = display_name(name)
    assert 0 < len(shown.text) <= MAX_LENGTH
    assert display_name(shown.text).text == shown.text
    assert not any(ord(character) < 32 for character in shown.text)
