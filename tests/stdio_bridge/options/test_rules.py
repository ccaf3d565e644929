"""The rules for tools, prompts and resources, as they stand in the configuration file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stdio_bridge.options import Options, parse_options
from stdio_bridge.options.config_file import make_schema
from stdio_bridge.protocol.errors import UsageError
from stdio_bridge.protocol.policy import Rule
from stdio_bridge.protocol.quotas import Quota

KINDS = ["tools", "prompts", "resources"]
RULES: dict[str, Any] = {
    "default": "deny",
    "rules": {"memo://a": {}, "memo://b/*": {"scopes": ["read", "write"]}, "memo://b/x": {"deny": True}},
}


def parse(tmp_path: Path, members: dict[str, object]) -> Options:
    config = tmp_path / "bridge.json"
    config.write_text(json.dumps({"command": ["true"], "no-identity": True, **members}))
    return parse_options(["--config", str(config)], {"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize("kind", KINDS)
def test_rules_say_who_may_use_what(tmp_path: Path, kind: str) -> None:
    rules = getattr(parse(tmp_path, {kind: RULES}), kind)
    assert set(rules.find("memo://a")) == {Rule()}
    assert set(rules.find("memo://b/c")) == {Rule(scopes=frozenset({"read", "write"}))}
    assert set(rules.find("memo://b/x")) == {Rule(deny=True)}
    assert set(rules.find("memo://c")) == {Rule(deny=True)}
    jsonschema.validate({kind: RULES}, make_schema())


def test_without_a_default_all_is_allowed(tmp_path: Path) -> None:
    tools = parse(tmp_path, {"tools": {"rules": {"x": {"deny": True}}}}).tools
    assert tools is not None
    assert tools.find("y") == (Rule(),)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "deny",
        None,
        {"default": "no"},
        {"default": True},
        {"rule": {}},
        {"rules": []},
        {"rules": {"x": "deny"}},
        {"rules": {"x": {"scope": ["a"]}}},
        {"rules": {"x": {"scopes": "a"}}},
        {"rules": {"x": {"scopes": [1]}}},
        {"rules": {"x": {"scopes": ["a b"]}}},
        {"rules": {"x": {"scopes": ['a"']}}},
        {"rules": {"x": {"scopes": [""]}}},
        {"rules": {"x": {"deny": "yes"}}},
        {"rules": {"x": {"calls-per-minute": 0}}},
        {"rules": {"x": {"calls-per-minute": -1}}},
        {"rules": {"x": {"calls-per-minute": 1.5}}},
        {"rules": {"x": {"calls-per-minute": True}}},
        {"rules": {"x": {"calls-per-minute": "5"}}},
        {"rules": {"x": {"calls-per-minute": None}}},
        {"rules": {"x": {"callsPerMinute": 5}}},
        {"rules": {"x": {"arguments": []}}},
        {"rules": {"x": {"arguments": None}}},
    ],
)
def test_what_is_no_rule_is_refused_by_the_option_s_name_and_by_the_schema(
    tmp_path: Path, kind: str, wrong: object
) -> None:
    with pytest.raises(UsageError, match=rf"bridge\.json: {kind}: "):
        parse(tmp_path, {kind: wrong})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({kind: wrong}, make_schema())


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"a*b": {}, "a*": {"deny": True}}, r"rules: a\*b and a\* can match the same name"),
        ({"a": {"deny": True, "scopes": ["w"]}}, "rules: a: deny"),
        ({"a": {"deny": True, "calls-per-minute": 5}}, "rules: a: deny: true leaves nothing for calls-per-minute"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_rules_that_contradict_each_other_are_refused_by_name(
    tmp_path: Path, kind: str, rules: object, named: str
) -> None:
    with pytest.raises(UsageError, match=rf"{kind}: {named}"):
        parse(tmp_path, {kind: {"rules": rules}})


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_has_one_quota_for_all_that_it_matches(tmp_path: Path, kind: str) -> None:
    written = {"rules": {"memo://a": {"calls-per-minute": 5}, "memo://*": {"calls-per-minute": 7}}}
    rules = getattr(parse(tmp_path, {kind: written}), kind)
    of_all = {rule.quota for name in ("memo://b", "memo://c") for rule in rules.find(name)}
    assert of_all == {Quota(name=f"{kind} that match memo://*", calls_per_minute=7)}
    assert {rule.quota for rule in rules.find("memo://a")} == {
        Quota(name=f"{kind.removesuffix('s')} memo://a", calls_per_minute=5)
    }
    jsonschema.validate({kind: written}, make_schema())


@pytest.mark.parametrize("kind", ["tools", "prompts"])
def test_a_rule_may_have_a_schema_for_arguments(tmp_path: Path, kind: str) -> None:
    written = {"rules": {"a": {"arguments": {"maxProperties": 0}}, "b": {"arguments": False}}}
    rules = getattr(parse(tmp_path, {kind: written}), kind)
    ((of_a,), (of_b,)) = rules.find("a"), rules.find("b")
    assert (of_a.arguments.find_fault({}), of_b.arguments.find_fault({})) != (None, None)
    assert of_a.arguments.find_fault({}) is None
    jsonschema.validate({kind: written}, make_schema())


@pytest.mark.parametrize("kind", ["tools", "prompts"])
@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"properties": {"x": {"type": "text"}}}, r"schema\.properties\.x\.type: "),
        ({"$ref": "https://example.com/schema"}, r"schema: .*https://example\.com/schema is not fetched"),
        ({"properties": {"x": {"pattern": "("}}}, r"schema.*: .*regex"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_name(tmp_path: Path, kind: str, schema: object, named: str) -> None:
    with pytest.raises(UsageError, match=rf"bridge\.json: {kind}: rules: do_\*: arguments: {named}"):
        parse(tmp_path, {kind: {"rules": {"do_*": {"arguments": schema}}}})


def test_resources_have_no_arguments(tmp_path: Path) -> None:
    wrong: dict[str, object] = {"resources": {"rules": {"memo://a": {"arguments": {}}}}}
    with pytest.raises(UsageError, match="resources: rules: memo://a: arguments: is none of scopes, deny, calls"):
        parse(tmp_path, wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, make_schema())


def test_two_spellings_of_one_resource_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"resources: rules: memo://a and MEMO://a are the same name"):
        parse(tmp_path, {"resources": {"rules": {"memo://a": {}, "MEMO://a": {}}}})


@pytest.mark.parametrize("kind", KINDS)
def test_rules_stand_in_the_file_alone(kind: str) -> None:
    with pytest.raises(UsageError, match="unrecognized arguments"):
        parse_options([f"--{kind}", "{}", "--no-identity", "--", "true"], {"PATH": "/usr/bin:/bin"})
