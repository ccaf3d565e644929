"""What a modern request says of itself: the rules without any HTTP."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol.errors import HttpError
from stdio_bridge.protocol.mcp import Versions
from stdio_bridge.protocol.param_headers import check_mirrored, find_mirrored
from stdio_bridge.protocol.request_metadata import (
    find_header_text,
    is_modern,
    is_modern_version,
    missing_capabilities,
    parse_metadata,
)

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


def request(method: str = "tools/list", **params: Any) -> dict[str, Any]:
    meta = {VERSION: "2026-07-28", CAPABILITIES: {"roots": {}}}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **params}}


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.mark.parametrize(
    ("version", "modern"),
    [
        ("2026-07-28", True),
        ("2026-07-29", True),
        ("2031-01-01", True),
        ("2026-07-27", False),
        ("2025-11-25", False),
        ("v9", False),
        ("9999", False),
        ("2026-07-28x", False),
        ("", False),
        (None, False),
    ],
)
def test_an_era_is_told_from_the_version(version: str | None, modern: bool) -> None:
    assert is_modern_version(version) is modern


def test_a_body_that_names_a_version_is_modern_whatever_the_header_says() -> None:
    assert is_modern("2025-11-25", [request()])
    assert is_modern(None, [{"method": "x"}, request()])
    assert not is_modern("2025-11-25", [{"method": "x", "params": {"_meta": {"progressToken": 1}}}])


def test_metadata_holds_what_the_client_declares() -> None:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    metadata = parse_metadata(request(), headers, Versions())
    assert (metadata.version, metadata.capabilities, metadata.log_level) == ("2026-07-28", {"roots": {}}, None)


@pytest.mark.parametrize("message", [request("tools/call"), request("tools/call", name=5), request("resources/read")])
def test_a_request_that_names_nothing_is_refused(message: dict[str, Any]) -> None:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"], "mcp-name": "5"}
    with pytest.raises(HttpError, match="must be a string"):
        parse_metadata(message, headers, Versions())


@given(st.text())
def test_any_text_can_be_said_in_the_base64_form(text: str) -> None:
    assert find_header_text(encoded(text)) == text


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_plain_text_stands_for_itself_unless_it_looks_encoded(text: str) -> None:
    if not text.startswith("=?base64?"):
        assert find_header_text(text) == text


@pytest.mark.parametrize(
    "value", ["=?base64?Zg?=", "=?base64?Zh==?=", "=?base64?Zg==\n?=", "=?base64?/w==?=", "ü", "a\x00", "a\nb", None]
)
def test_a_malformed_header_is_no_text(value: str | None) -> None:
    assert find_header_text(value) is None


@pytest.mark.parametrize("value", ["=?base64?Zg==", "base64?Zg==?=", "=?BASE64?Zg==?=", "=?base64?"])
def test_without_the_whole_mark_nothing_is_decoded(value: str) -> None:
    assert find_header_text(value) == value


FORM = {"method": "elicitation/create", "params": {"message": "m"}}
LINK = {"method": "elicitation/create", "params": {"mode": "url"}}
SAMPLE = {"method": "sampling/createMessage", "params": {}}
SAMPLE_WITH_TOOLS = {"method": "sampling/createMessage", "params": {"tools": []}}


@pytest.mark.parametrize(
    ("asked", "declared", "missing"),
    [
        (FORM, {"elicitation": {}}, {}),
        (FORM, {"elicitation": {"form": {}}}, {}),
        (FORM, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        (FORM, {}, {"elicitation": {"form": {}}}),
        (FORM, {"elicitation": None}, {"elicitation": {"form": {}}}),
        (LINK, {"elicitation": {}}, {"elicitation": {"url": {}}}),
        (LINK, {"elicitation": {"url": {}}}, {}),
        (SAMPLE, {"sampling": {}}, {}),
        (SAMPLE, {"elicitation": {}}, {"sampling": {}}),
        (SAMPLE_WITH_TOOLS, {"sampling": {}}, {"sampling": {"tools": {}}}),
        (SAMPLE_WITH_TOOLS, {"sampling": {"tools": {}}}, {}),
        ({"method": "roots/list"}, {}, {"roots": {}}),
        ({"method": "roots/list"}, {"roots": {}}, {}),
    ],
)
def test_a_client_is_asked_for_what_it_has_declared(
    asked: dict[str, Any], declared: dict[str, Any], missing: dict[str, Any]
) -> None:
    assert missing_capabilities(asked, declared) == missing


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def mirrored(name: object, kind: object = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


def test_annotations_are_found_along_properties() -> None:
    found = find_mirrored(
        schema(a=mirrored("One"), b={"type": "object", "properties": {"c": mirrored("Two", "integer")}})
    )
    assert {(parameter.path, parameter.header) for parameter in found} == {
        (("a",), "mcp-param-one"),
        (("b", "c"), "mcp-param-two"),
    }


@pytest.mark.parametrize(
    "bad",
    [
        schema(a=mirrored("")),
        schema(a=mirrored("a b")),
        schema(a=mirrored("a\r\nb")),
        schema(a=mirrored(5)),
        schema(a=mirrored("A", "number")),
        schema(a=mirrored("A", ["string"])),
        schema(a=mirrored("A", "object")),
        schema(a=mirrored("A"), b=mirrored("a")),
        schema(a={"type": "array", "items": mirrored("A")}),
        schema(a={"anyOf": [mirrored("A")]}),
        {"$defs": {"x": mirrored("A")}, **schema(a={"$ref": "#/$defs/x"})},
        {"if": schema(a=mirrored("A"))},
        {"x-mcp-header": "A", "type": "string"},
        {"items": {"properties": {"a": mirrored("A")}}},
    ],
)
def test_an_invalid_annotation_spoils_the_definition(bad: dict[str, Any]) -> None:
    assert find_mirrored({**bad, "properties": {**bad.get("properties", {}), "good": mirrored("Good")}}) == ()


def test_data_that_looks_like_an_annotation_is_none() -> None:
    assert len(find_mirrored(schema(a=mirrored("A"), b={"default": mirrored("A"), "enum": [mirrored("")]}))) == 1


@pytest.mark.parametrize("value", [None, [], "x", 5, {"properties": []}, {"properties": {"a": 5}}])
def test_what_is_no_schema_mirrors_nothing(value: object) -> None:
    assert find_mirrored(value) == ()


def test_a_name_that_would_be_dropped_on_the_way_is_left_out() -> None:
    assert find_mirrored(schema(a=mirrored("my_region"))) == ()


PARAMETER = find_mirrored(schema(a=mirrored("A")))


@pytest.mark.parametrize(
    ("value", "header"),
    [("x", "x"), ("", ""), (" x ", encoded(" x ")), ("é", encoded("é")), (True, "true"), (False, "false"), (42, "42"),
     (42, "42.0"), (-7, "-7"), (2**53 - 1, "9007199254740991"), (None, None), ([1], None), ({"b": 1}, None)],
)  # fmt: skip
def test_a_value_and_its_header_agree(value: object, header: str | None) -> None:
    check_mirrored(PARAMETER, {"a": value}, {} if header is None else {"mcp-param-a": header})


@pytest.mark.parametrize(
    ("value", "header"),
    [("x", None), ("x", "y"), ("x", "X"), ("é", "é"), (True, "True"), (True, "1"), (1, "true"), (42, "42.5"),
     (42, "4e1"), (42, " 42"), (42, "0x2a"), (42.5, "42"), (None, "null"), (None, ""), ([1], "1"),
     (42, None), (False, None)],
)  # fmt: skip
def test_a_value_and_its_header_disagree(value: object, header: str | None) -> None:
    with pytest.raises(HttpError) as refused:
        check_mirrored(PARAMETER, {"a": value}, {} if header is None else {"mcp-param-a": header})
    assert refused.value.message["error"]["code"] == -32020


@pytest.mark.parametrize("arguments", [None, "x", [], {}])
def test_a_header_without_its_argument_disagrees(arguments: object) -> None:
    check_mirrored(PARAMETER, arguments, {})
    with pytest.raises(HttpError):
        check_mirrored(PARAMETER, arguments, {"mcp-param-a": "x"})
