"""Schemas for arguments: what they refuse, that the answer has no value in it, and that nothing is fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol import jsonrpc
from stdio_bridge.protocol.argument_schemas import ArgumentSchema, InvalidSchemaError

SECRET = "s3cr3t-value"
ISSUE = {
    "type": "object",
    "required": ["title"],
    "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 10, "pattern": "^[a-z ]+$"},
        "count": {"type": "integer", "minimum": 0, "maximum": 100},
        "labels": {"type": "array", "maxItems": 2, "uniqueItems": True, "items": {"enum": ["bug", "task"]}},
        "owner": {"$ref": "#/$defs/person"},
    },
    "$defs": {"person": {"type": "object", "properties": {"name": {"const": "me"}}}},
}


def fault(arguments: object, schema: object = ISSUE) -> str | None:
    return ArgumentSchema(schema).find_fault(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"title": "a"},
        {"title": "a", "count": 100, "labels": ["bug", "task"], "owner": {"name": "me"}},
        # To JSON Schema, a number without a fraction is an integer however it is written.
        {"title": "a", "count": 1.0},
    ],
)
def test_arguments_that_keep_to_the_schema_pass(arguments: object) -> None:
    assert fault(arguments) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, 'arguments: "title" is a required property'),
        ({"title": 1}, 'arguments.title: the value is not of type "string"'),
        ({"title": SECRET}, "arguments.title: the value is longer than 10 characters"),
        ({"title": "A"}, 'arguments.title: the value does not match "^[a-z ]+$"'),
        ({"title": "a", "count": 101}, "arguments.count: the value is greater than the maximum of 100"),
        ({"title": "a", "count": 1.5}, 'arguments.count: the value is not of type "integer"'),
        ({"title": "a", "count": True}, 'arguments.count: the value is not of type "integer"'),
        ({"title": "a", "count": "1"}, 'arguments.count: the value is not of type "integer"'),
        ({"title": "a", "count": 10**30}, "arguments.count: the value is greater than the maximum of 100"),
        ({"title": "a", "labels": ["bug", "x"]}, 'arguments.labels[1]: the value is not one of "bug" or "task"'),
        ({"title": "a", "owner": {"name": "you"}}, 'arguments.owner.name: "me" was expected'),
        ({"title": "a", "other": 1}, "arguments: Additional properties are not allowed ('other' was unexpected)"),
        ({"title": "a", "Title": "a"}, "arguments: Additional properties are not allowed ('Title' was unexpected)"),
        ({"arguments": {"title": "a"}, "title": None}, 'arguments.title: the value is not of type "string"'),
        ([], "arguments: must be an object"),
        ("title", "arguments: must be an object"),
        (True, "arguments: must be an object"),
    ],
)
def test_a_fault_names_the_member_and_what_is_expected(arguments: object, told: str) -> None:
    found = fault(arguments)
    assert found is not None
    assert told in found


def test_a_number_that_is_none_is_not_read_at_all() -> None:
    for number in (b"1e400", b"-1e400", b"NaN", b"Infinity", b"9" * 5000):
        with pytest.raises(jsonrpc.InvalidMessage):
            jsonrpc.parse_json(b'{"count": %s}' % number)


KEYWORDS: list[dict[str, Any]] = [
    {"type": "integer"}, {"type": ["integer", "null"]}, {"enum": ["a", 1]}, {"const": "a"}, {"const": {"a": 1}},
    {"multipleOf": 7}, {"maximum": 3}, {"exclusiveMaximum": 3}, {"minimum": 5}, {"exclusiveMinimum": 4},
    {"maxLength": 2}, {"minLength": 99}, {"pattern": "^a$"}, {"format": "email"}, {"format": "uuid"},
    {"maxItems": 0}, {"minItems": 9}, {"uniqueItems": True}, {"items": False}, {"prefixItems": [{"const": 1}]},
    {"contains": {"const": 1}}, {"minContains": 3, "contains": True}, {"unevaluatedItems": False},
    {"maxProperties": 0}, {"minProperties": 9}, {"required": ["z"]}, {"dependentRequired": {"k": ["z"]}},
    {"additionalProperties": {"const": 1}}, {"patternProperties": {"": {"const": 1}}},
    {"unevaluatedProperties": {"const": 1}}, {"propertyNames": {"maxLength": 0}},
    {"not": {}}, {"anyOf": [{"const": 1}, {"const": 2}]}, {"oneOf": [{"const": 1}]}, {"oneOf": [{}, {}]},
    {"allOf": [{"const": 1}]}, {"if": {}, "then": {"const": 1}},
]  # fmt: skip


@pytest.mark.parametrize("keyword", KEYWORDS, ids=json.dumps)
@pytest.mark.parametrize(
    "value",
    [SECRET, [SECRET, SECRET], {"k": SECRET}, {"k": [SECRET]}, 7654321.5],
    ids=["text", "list", "k", "deep", "n"],
)
def test_no_value_of_an_argument_is_told(keyword: dict[str, Any], value: object) -> None:
    for schema in (
        {"properties": {"p": keyword}},
        {"additionalProperties": keyword},
        {"properties": {"p": {"allOf": [keyword]}}},
    ):
        found = fault({"p": value}, schema) or ""
        assert SECRET not in found
        assert "7654321" not in found


ANY_TEXT = st.text(st.characters(exclude_categories=[]), min_size=6)


@given(
    st.recursive(
        ANY_TEXT | st.integers(10**6) | st.floats(min_value=1e6, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
        max_leaves=6,
    )
)
def test_no_value_is_told_whatever_it_is(value: object) -> None:
    schema = ArgumentSchema({"properties": {"p": {"enum": [1, "a"]}}})
    told = {schema.find_fault({"p": value}), "arguments: cannot be checked against the schema"}
    assert told <= {
        'arguments.p: the value is not one of 1 or "a"',
        "arguments: cannot be checked against the schema",
    }


def test_a_fault_is_short_however_much_is_wrong() -> None:
    assert len(fault({"a" * 9: 1, **{f"x{number}": 1 for number in range(50_000)}}) or "") < 2000
    many = ArgumentSchema({"additionalProperties": {"type": "null"}})
    found = many.find_fault({f"x{number}": 1 for number in range(50_000)}) or ""
    assert found.count("; ") == 4
    assert len(many.find_fault({"x" * 100_000: 1}) or "") < 400


def test_what_cannot_be_checked_is_refused() -> None:
    deep: Any = {}
    for _ in range(450):
        deep = {"x": deep}
    assert (
        fault({"x": deep}, {"additionalProperties": {"type": "null"}})
        == "arguments: cannot be checked against the schema"
    )
    for text in ("\ud800", "a\udfff", "\ude00\ud83d"):
        for arguments in ({"title": text}, {text: "a"}, {"other": [{"x": text}]}):
            assert fault(arguments, True) == "arguments: cannot be checked against the schema"
    assert fault({"title": "\U0001f600"}, True) is None


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ([], "a JSON Schema is an object, true or false"),
        ("object", "a JSON Schema is an object, true or false"),
        (None, "a JSON Schema is an object, true or false"),
        ({"type": "text"}, "schema.type: "),
        ({"required": "title"}, 'schema.required: the value is not of type "array"'),
        ({"pattern": "("}, "regex"),
        (
            {"properties": {"x": {"minLength": -1}}},
            "schema.properties.x.minLength: the value is less than the minimum of 0",
        ),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"format": "no-such-format"}, "no-such-format"),
        ({"$schema": "https://example.com/other"}, "https://example.com/other"),
        # Without back-references and look-around every pattern takes a time that grows with the text alone.
        ({"pattern": r"(a)\1"}, "regex"),
        ({"pattern": "(?=a)"}, "regex"),
    ],
)
def test_what_is_no_schema_is_refused(schema: object, told: str) -> None:
    with pytest.raises(InvalidSchemaError) as refused:
        ArgumentSchema(schema)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "ref", ["http://127.0.0.1:9/schema", "https://example.com/schema", "file:///etc/passwd", "other.json", "//host/x"]
)
@pytest.mark.parametrize(
    "under", [{}, {"$id": "https://example.com/"}, {"$schema": "http://json-schema.org/draft-07/schema#"}]
)
def test_no_schema_is_fetched(ref: str, under: dict[str, str]) -> None:
    with pytest.raises(InvalidSchemaError, match=r"is not fetched|No base URI is available"):
        ArgumentSchema({**under, "properties": {"x": {"$ref": ref}}})


def test_older_drafts_are_known_by_their_name() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"x": {"items": [{"type": "null"}]}}}
    assert fault({"x": [None]}, schema) is None
    assert fault({"x": [1]}, schema) == 'arguments.x[0]: the value is not of type "null"'


def test_a_pattern_that_would_make_others_backtrack_does_not() -> None:
    # It would take longer than the test may: two to the power of the length.
    assert fault({"x": "a" * 100_000 + "b"}, {"properties": {"x": {"pattern": "^(a+)+$"}}}) is not None


def test_the_library_is_loaded_only_where_there_is_a_schema() -> None:
    script = (
        "import sys; from stdio_bridge.options.rules import TOOL_RULES as rules; import stdio_bridge.app;"
        "rules.from_json({'rules': {'x': {'calls-per-minute': 1}}}); print('jsonschema_rs' in sys.modules);"
        "rules.from_json({'rules': {'x': {'arguments': {}}}}); print('jsonschema_rs' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]
