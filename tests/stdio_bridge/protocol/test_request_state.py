from __future__ import annotations

from typing import Any

import pytest

from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.request_state import Claim, RequestStates

KEY = b"k" * 32
ADA = {"user": "github:1", "resource": "https://a.example/mcp"}
REQUEST = {"method": "tools/call", "params": {"name": "t", "arguments": {"x": 1, "y": 2}}}


@pytest.fixture
def state() -> str:
    return RequestStates(KEY).sign(Claim(call="c1", **ADA, request=REQUEST, expires=100.0))


def verify(state: object, *, whose: dict[str, str] = ADA, key: bytes = KEY, now: float = 50, **changed: Any) -> str:
    return RequestStates(key).verify(state, **whose, request={**REQUEST, **changed}, now=now)


def test_a_state_brings_back_its_call(state: str) -> None:
    assert verify(state) == "c1"


def test_what_differs_between_attempts_does_not_matter(state: str) -> None:
    params = {
        "arguments": {"y": 2, "x": 1},
        "name": "t",
        "_meta": {"a": 1},
        "inputResponses": {},
        "requestState": state,
    }
    assert verify(state, params=params, id=9) == "c1"


@pytest.mark.parametrize(
    "changed",
    [
        {"whose": {**ADA, "user": "github:2"}},
        {"whose": {**ADA, "resource": "https://b.example/mcp"}},
        {"key": b"l" * 32},
        {"now": 100.0},
        {"method": "prompts/get"},
        {"params": {"name": "t", "arguments": {"x": 1, "y": 3}}},
        {"params": {"name": "t"}},
        {"params": {**REQUEST["params"], "more": 1}},  # type: ignore[dict-item]  # params are an object
    ],
)
def test_a_state_is_refused_elsewhere(state: str, changed: dict[str, Any]) -> None:
    with pytest.raises(HttpError) as refused:
        verify(state, **changed)
    assert refused.value.message["error"]["code"] == -32602


def test_no_other_spelling_of_a_state_is_good(state: str) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    for place, character in enumerate(state):
        for other in (alphabet[(alphabet.index(character) + step) % 65] for step in (1, 2, 3, 32)):
            with pytest.raises(HttpError):
                verify(state[:place] + other + state[place + 1 :])
    for spelled in (state + "=", state + "A", state[:-1], " " + state, state + "\n"):
        with pytest.raises(HttpError):
            verify(spelled)


@pytest.mark.parametrize("value", [None, 5, "", ".", "a.b", "=", [], {}])
def test_what_is_no_state_is_refused(value: object) -> None:
    with pytest.raises(HttpError):
        verify(value)


def test_what_else_the_key_has_signed_is_no_state() -> None:
    states = RequestStates(KEY)
    for payload in ([], ["c"], ["c", "soon", "b"], "text", {"c": 1}):
        with pytest.raises(HttpError):
            verify(states._serializer.dumps(payload))
