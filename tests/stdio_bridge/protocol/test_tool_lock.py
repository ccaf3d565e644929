"""What a lock file holds, and what differs from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_bridge.protocol.tool_lock import Change, Difference, InvalidLockError, Reason, parse_lock, render_lock

Message = dict[str, Any]

NAMES = st.text(st.characters(), max_size=5)
SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "inputSchema": st.dictionaries(NAMES, SCHEMAS, max_size=3)},
        optional={"title": NAMES, "description": NAMES, "annotations": st.dictionaries(NAMES, st.booleans())},
    ),
    max_size=4,
    unique_by=lambda tool: str(tool["name"]),
)


@given(TOOLS, st.data(), st.integers(0, 8))
def test_the_same_tools_are_the_same_file_in_any_order_and_spelling(
    tools: list[Message], data: st.DataObject, indent: int
) -> None:
    moved = data.draw(st.permutations(tools))
    spelled = json.loads(json.dumps(moved, indent=indent, sort_keys=data.draw(st.booleans())))
    assert render_lock(spelled) == render_lock(tools)


@given(TOOLS)
def test_a_list_has_no_difference_from_its_own_file(tools: list[Message]) -> None:
    lock = parse_lock(render_lock(tools).encode())
    assert lock.compare(tools) == []
    assert all(lock.find_reason(str(tool["name"]), tool, is_repeated=False) is None for tool in tools)


@given(TOOLS, TOOLS)
def test_two_lists_have_one_file_only_if_neither_differs_from_the_other(one: list[Message], two: list[Message]) -> None:
    lock = parse_lock(render_lock(one).encode())
    assert (render_lock(one) == render_lock(two)) == (lock.compare(two) == [])


def test_the_form_of_the_file() -> None:
    tools = [
        {"name": "b", "inputSchema": {"type": "object"}, "_meta": {"x": 1}, "execution": {"taskSupport": "optional"}},
        {"name": "a", "title": None, "description": "A\u200b", "annotations": {"readOnlyHint": True}},
    ]
    assert (
        render_lock(tools)
        == r"""{
  "tools": {
    "a": {
      "annotations": {
        "readOnlyHint": true
      },
      "description": "A\u200b"
    },
    "b": {
      "inputSchema": {
        "type": "object"
      }
    }
  },
  "version": 1
}
"""
    )


def test_two_tools_of_one_name_cannot_be_locked() -> None:
    with pytest.raises(InvalidLockError, match=r'two tools of the name "a\\u200b"'):
        render_lock([{"name": "a\u200b"}, {"name": "a\u200b"}])


def test_what_has_no_name_is_not_locked() -> None:
    assert render_lock([{"name": 1}, {}, None, "x"]) == render_lock([])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ('{"version": 1, "tools": {"a": {}, "a": {}}}', "'a' occurs twice"),
        ('{"version": 1, "tools": {"a": {"x": NaN}}}', "NaN is not a number"),
        ("[]", "is not an object of tools and version"),
        ('{"tools": {}}', "is not an object of tools and version"),
        ('{"version": 1, "tools": {}, "more": 1}', "is not an object of tools and version"),
        ('{"version": 2, "tools": {}}', "version: is 2, and only 1 is known"),
        ('{"version": true, "tools": {}}', "version: is True, and only 1 is known"),
        ('{"version": 1, "tools": []}', "tools: is not an object"),
        ('{"version": 1, "tools": {"a": []}}', "tools: 'a': is not an object"),
        ('{"version": 1, "tools": {"a": {"_meta": {}}}}', "tools: 'a': _meta: is no part of a locked definition"),
        ('{"version": 1, "tools": {"a": {"name": "b"}}}', "tools: 'a': name: is no part of a locked definition"),
    ],
)
def test_what_is_no_lock_file_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidLockError, match=problem):
        parse_lock(text.encode("latin-1"))


LOCKED: list[Message] = [
    {"name": "gone"},
    {"name": "same"},
    {
        "name": "tool",
        "description": "x" * 1000 + "read" + "y" * 1000,
        "annotations": {"readOnlyHint": True},
        "inputSchema": {"properties": {"a-b": {"default": 1}}, "required": ["a", "b"]},
    },
]


def test_what_differs_is_named_by_its_path() -> None:
    lock = parse_lock(render_lock(LOCKED).encode())
    listed: list[Message] = [
        {"name": "new"},
        {"name": "same"},
        {
            "name": "tool",
            "description": "x" * 1000 + "re\u200bad" + "y" * 1000,
            "annotations": {"readOnlyHint": False},
            "inputSchema": {"properties": {"a-b": {"default": True}}, "required": ["a", "c"]},
            "title": "T",
        },
    ]
    differences = lock.compare(listed)
    assert [(each.tool, each.reason) for each in differences] == [
        ("gone", Reason.MISSING),
        ("new", Reason.NEW),
        ("tool", Reason.CHANGED),
    ]
    changes = {change.path: (change.locked, change.listed) for change in differences[2].changes}
    assert changes.pop("description") == (
        '…"' + "x" * 78 + "read" + "y" * 318 + '"…',
        '…"' + "x" * 78 + r"re\u200bad" + "y" * 317 + '"…',
    )
    assert changes == {
        "annotations.readOnlyHint": ("true", "false"),
        'inputSchema.properties."a-b".default': ("1", "true"),
        "inputSchema.required[1]": ('"b"', '"c"'),
        "title": (None, '"T"'),
    }


def test_a_tool_that_is_listed_twice_differs_even_if_both_are_as_locked() -> None:
    lock = parse_lock(render_lock([{"name": "a"}]).encode())
    assert lock.compare([{"name": "a"}, {"name": "a"}]) == [Difference(tool="a", reason=Reason.DUPLICATE)]


def test_a_new_tool_that_is_listed_twice_is_new() -> None:
    lock = parse_lock(render_lock([{"name": "a"}]).encode())
    listed = [{"name": "a"}, {"name": "b"}, {"name": "b"}]
    assert lock.compare(listed) == [Difference(tool="b", reason=Reason.NEW)]


def test_a_difference_that_is_large_is_cut() -> None:
    lock = parse_lock(render_lock([{"name": "a"}]).encode())
    schema = {f"p{number}": "x" * 1000 for number in range(1000)}
    (difference,) = lock.compare([{"name": "a", **schema, "inputSchema": schema}])
    assert len(difference.changes) == 100
    assert all(len(change.listed or "") < 500 for change in difference.changes)
    assert all(isinstance(change, Change) for change in difference.changes)
