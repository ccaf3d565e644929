"""Which names are on a list, and which texts are names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.egress.domains import Domains, InvalidDomainError, parse_name

DOMAINS = Domains(["api.github.com", "*.githubusercontent.com"])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("api.github.com", "api.github.com"),
        ("API.GitHub.com", "api.github.com"),
        ("api.github.com.", "api.github.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.2.3.example", "1.2.3.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_one_name_has_one_form(text: str, name: str) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "localhost",
        "api.github.com..",
        ".github.com",
        "api..github.com",
        "-a.example",
        "a-.example",
        "a_b.example",
        f"{'a' * 64}.example",
        ".".join(["a" * 60] * 5),
        "127.0.0.1",
        "127.1",
        "1.2.3.4.",
        "example.12",
        "[::1]",
        "::1",
        "bücher.example",
        "\N{KELVIN SIGN}.example",  # lower() makes a k of it
        "api.github.com@evil.example",
        "api.github.com\n",
        "api.github.com\0.evil.example",
        "*.github.com",
        "api.github.com/",
        "api%2egithub.com",
    ],
)
def test_what_is_no_name_has_no_form(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize(
    "name",
    ["api.github.com", "raw.githubusercontent.com", "a.b.githubusercontent.com"],
)
def test_a_name_or_one_below_a_wildcard_is_on_the_list(name: str) -> None:
    assert name in DOMAINS


@pytest.mark.parametrize(
    "name",
    [
        "github.com",
        "evil.api.github.com",
        "api.github.com.evil.example",
        "evilapi.github.com",
        "githubusercontent.com",
        "evilgithubusercontent.com",
        "githubusercontent.com.evil.example",
        "raw.githubusercontent.com.evil.example",
    ],
)
def test_a_name_that_looks_like_one_of_the_list_is_not_on_it(name: str) -> None:
    assert name not in DOMAINS


@pytest.mark.parametrize(
    "domain",
    ["", "*", "*.", "*.com", "com", "*.*.example.com", "a.*.com", "https://a.example", "a.example:443", "10.0.0.1",
     "*.0.0.1", "A.example", "a.example.", "a.example/x", "bücher.example"],
)  # fmt: skip
def test_a_list_takes_names_and_wildcards_of_names_only(domain: str) -> None:
    with pytest.raises(InvalidDomainError):
        Domains([domain])


@given(text=st.text(alphabet="aZ1.-*@:/\0\u212a ", max_size=20))
def test_the_form_of_a_form_is_itself(text: str) -> None:
    name = parse_name(text)
    assert name is None or parse_name(name) == name
