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
REFUSED = "arguments: the schema of the rule for this call does not allow them"
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
        ({"title": "a", "count": 10**18}, "arguments.count: the value is greater than the maximum of 100"),
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
        "arguments: a number does not fit into 64 bits",
        REFUSED,
    }


def test_a_fault_is_short_however_much_is_wrong() -> None:
    assert len(fault({"a" * 9: 1, **{f"x{number}": 1 for number in range(50_000)}}) or "") < 2000
    many = ArgumentSchema({"additionalProperties": {"type": "null"}})
    found = many.find_fault({f"x{number}": 1 for number in range(200)}) or ""
    assert found.count("; ") == 4
    assert len(many.find_fault({"x" * 4000: 1}) or "") < 400


# A filter as many servers have it: the errors of one value are a power of its depth.
FILTER = {
    "properties": {"filter": {"$ref": "#/$defs/filter"}},
    "$defs": {
        "filter": {
            "anyOf": [
                {"properties": {"all": {"items": {"$ref": "#/$defs/filter"}}}, "required": ["all"]},
                {"properties": {"all": {"items": {"$ref": "#/$defs/filter"}}}, "required": ["any"]},
                {"properties": {"field": {"type": "string"}}, "required": ["field"]},
            ]
        }
    },
}


class Validator:
    """In place of the library's: refuses all arguments, and counts what it is asked."""

    def __init__(self) -> None:
        self.checked = self.explained = 0

    def is_valid(self, arguments: object) -> bool:
        self.checked += 1
        return False

    def iter_errors(self, arguments: object) -> list[Any]:
        self.explained += 1
        return []


def asked(monkeypatch: pytest.MonkeyPatch, schema: object, arguments: object) -> tuple[str | None, int, int]:
    """Return the fault, how often the library was asked for an answer, and how often for all errors."""
    validator = Validator()
    checked = ArgumentSchema(schema)
    monkeypatch.setattr(checked, "_validator", validator)
    return checked.find_fault(arguments), validator.checked, validator.explained


def nested(depth: int, leaf: object) -> object:
    for _ in range(depth):
        leaf = {"all": [leaf]}
    return leaf


@pytest.mark.parametrize("keyword", [
    {"anyOf": [{"type": "null"}]}, {"oneOf": [{"type": "null"}]}, {"not": {}}, {"if": {}, "then": False},
    {"propertyNames": False}, {"contains": False}, {"dependentSchemas": {"x": False}}, {"dependencies": {"x": ["y"]}},
    {"unevaluatedProperties": False}, {"unevaluatedItems": False},
], ids=json.dumps)  # fmt: skip
def test_errors_are_not_collected_below_keywords_that_multiply_them(
    monkeypatch: pytest.MonkeyPatch, keyword: dict[str, Any]
) -> None:
    for schema in (
        keyword,
        {"properties": {"p": {"items": keyword}}},
        {"items": [keyword], "$schema": "http://json-schema.org/draft-07/schema#"},
        {"allOf": [{"additionalProperties": keyword}]},
        {"$ref": "#/$defs/properties", "$defs": {"properties": keyword}},
        {"$ref": "#/elsewhere", "elsewhere": {"$defs": {"const": keyword}}},
    ):
        assert asked(monkeypatch, schema, {"p": 1}) == (REFUSED, 1, 0)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"anyOf": {"type": "null"}, "not": True}, "patternProperties": {"if": True}},
        {"properties": {"p": {"enum": [{"anyOf": 1}]}, "q": {"const": {"not": 1}, "default": {"oneOf": 1}}}},
        {"$ref": "#/$defs/contains", "$defs": {"contains": {"required": ["anyOf"]}}},
        {"allOf": [{"type": "object"}], "examples": [{"propertyNames": 1}]},
    ],
)
def test_names_and_values_in_a_schema_are_no_keywords(monkeypatch: pytest.MonkeyPatch, schema: object) -> None:
    assert asked(monkeypatch, schema, {"p": 1}) == ("", 1, 1)


@pytest.mark.parametrize(
    ("arguments", "is_explained"),
    [
        ({"p": "x" * 4086}, True),
        ({"p": "x" * 4097}, False),
        ({"p": [1] * 450_000}, False),
        ({"p": [[[1]]]}, True),
        ({"p": [[[[1]]]]}, False),
    ],
    ids=["small", "large", "many", "flat", "deep"],
)
def test_only_small_arguments_are_explained(
    monkeypatch: pytest.MonkeyPatch, arguments: object, is_explained: bool
) -> None:
    expected = ("", 1, 1) if is_explained else (REFUSED, 1, 0)
    assert asked(monkeypatch, {"properties": {"p": {"type": "null"}}}, arguments) == expected


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (FILTER, {"filter": nested(5, {"x": 1})}),
        ({"propertyNames": {"pattern": "^[a-z]+$"}}, {str(number): 1 for number in range(4000)}),
        ({"properties": {"p": {"items": {"type": "string"}}}}, {"p": [1] * 450_000}),
    ],
    ids=["recursive", "names", "items"],
)
def test_arguments_with_very_many_errors_are_refused(schema: object, arguments: object) -> None:
    assert fault(arguments, schema) == REFUSED


def test_arguments_of_schemas_that_branch_and_refer_to_themselves_are_bounded_in_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fault({"filter": nested(5, {"field": "a"})}, FILTER) is None
    told = "arguments: arrays and objects are nested more than 12 deep"
    assert asked(monkeypatch, FILTER, {"filter": nested(6, {"field": "a"})}) == (told, 0, 0)
    lists = {"properties": {"p": {"$ref": "#/$defs/list"}}, "$defs": {"list": {"items": {"$ref": "#/$defs/list"}}}}
    assert fault({"p": nested(20, 1)}, lists) is None
    assert fault({"p": nested(20, 1)}, {"anyOf": [True]}) is None


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**46, -(10**4000)])
def test_an_integer_outside_64_bits_is_refused_before_the_check(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    told = "arguments: a number does not fit into 64 bits"
    for arguments in ({"p": number}, {"p": [[number]]}, {"p": [{"x": [number]}]}):
        assert asked(monkeypatch, True, arguments) == (told, 0, 0)


def test_an_integer_of_64_bits_passes() -> None:
    assert fault({"p": [2**63 - 1, -(2**63), True, 1e300]}, True) is None


def test_only_few_large_integers_are_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"properties": {"p": {"items": {"uniqueItems": True}}}}
    large = [2**53 + 1 + number for number in range(201)]
    told = "arguments: more than 200 integers do not fit into 53 bits"
    for arguments in (
        {"p": [large]},
        {"p": [[-number for number in large]]},
        {"p": [[{"x": number}] for number in large]},
    ):
        assert asked(monkeypatch, schema, arguments) == (told, 0, 0)
    assert fault({"p": [large[:200]]}, schema) is None
    assert fault({"p": [large]}, {"properties": {"p": {"items": {"type": "array"}}}}) is None
    assert fault({"p": [list(range(50_000))]}, schema) is None


def test_a_float_beyond_64_bits_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "arguments: a number does not fit into 64 bits"
    assert asked(monkeypatch, {"items": {"multipleOf": 0.01}}, {"p": [-1.5e308]}) == (told, 0, 0)
    assert fault({"p": 1e18}, {"properties": {"p": {"multipleOf": 2}}}) is None


def test_what_cannot_be_checked_is_refused() -> None:
    deep: Any = {}
    for _ in range(450):
        deep = {"x": deep}
    # Only some versions of the library say that this is too deep for them.
    assert fault({"x": deep}, {"additionalProperties": {"type": "null"}}) in {
        REFUSED,
        "arguments: cannot be checked against the schema",
    }
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
