from __future__ import annotations

import pytest

from stdio_bridge.protocol.policy import (
    HIDDEN,
    Decision,
    InvalidRulesError,
    ResourceRules,
    Rule,
    Rules,
    decide,
)

ALLOW, DENY = Rule(), Rule(deny=True)
NONE: frozenset[str] = frozenset()


def needs(*scopes: str) -> Rule:
    return Rule(scopes=frozenset(scopes))


def tools(default: Rule = ALLOW, **rules: Rule) -> Rules:
    return Rules(default=default, rules=rules)


def resources(rules: dict[str, Rule], default: Rule = ALLOW) -> ResourceRules:
    return ResourceRules(default=default, rules=rules)


def is_hidden(rules: Rules, name: str) -> bool:
    return decide(rules.find(name), held=NONE, grantable=NONE) == HIDDEN


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("create", needs("exact")),
        ("create_issue", needs("longer")),
        ("create_", needs("longer")),
        ("creator", needs("shorter")),
        ("cre", needs("shorter")),
        ("cr", DENY),
        ("", DENY),
        ("x_admin", needs("ending")),
        ("create_x_admin", needs("longer")),
        ("x_admin_", DENY),
    ],
)
def test_the_exact_name_decides_then_the_pattern_with_the_longest_beginning_then_the_default(
    name: str, expected: Rule
) -> None:
    rules = Rules(
        default=DENY,
        rules={
            "cre*": needs("shorter"),
            "create": needs("exact"),
            "create_*": needs("longer"),
            "*_admin": needs("ending"),
        },
    )
    assert rules.find(name) == (expected,)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("*", "any\nthing", True),
        ("a*b*c", "abc", True),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "ac", False),
        ("a*bb*b", "abb", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*x*x*", "x", False),
        ("a.c*", "abc", False),
        ("a?*", "ab", False),
        ("[ab]*", "a", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_has_a_meaning(
    pattern: str, name: str, matches: bool
) -> None:
    assert is_hidden(Rules(default=ALLOW, rules={pattern: DENY}), name) == matches


@pytest.mark.parametrize(
    "lookalike", ["Delete", "delete ", " delete", "delete\u200b", "d\u0435lete", "\uff44elete", "delete\0"]
)
def test_names_are_compared_code_point_by_code_point(lookalike: str) -> None:
    assert is_hidden(tools(default=DENY, delete=ALLOW), lookalike)
    assert not is_hidden(tools(default=DENY, delete=ALLOW), "delete")
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert is_hidden(Rules(default=DENY, rules={composed: ALLOW}), decomposed)


@pytest.mark.parametrize(
    ("first", "second"),
    [("*_read", "*_admin_read"), ("*", "*_read"), ("a*b*c", "a*c"), ("a*x*", "a*y*")],
)
def test_patterns_that_may_match_the_same_name_without_one_going_first_are_refused(first: str, second: str) -> None:
    for rules in ({first: DENY, second: ALLOW}, {second: ALLOW, first: DENY}):
        with pytest.raises(InvalidRulesError, match="can match the same name"):
            Rules(default=ALLOW, rules=rules)


def test_patterns_that_begin_alike_and_end_differently_are_no_tie() -> None:
    rules = Rules(default=ALLOW, rules={"*_read": needs("r"), "*_write": needs("w")})
    assert rules.find("x_read") == (needs("r"),)
    assert rules.find("x_write") == (needs("w"),)


def test_a_long_name_is_matched_without_trying_all_ways_to_divide_it() -> None:
    # Trying them all would not end.
    assert not is_hidden(Rules(default=ALLOW, rules={"a*a*a*a*a*a*b": DENY}), "a" * (1 << 20))
    assert is_hidden(Rules(default=ALLOW, rules={"*a*a*a*a*a*": DENY}), "a" * (1 << 20))


@pytest.mark.parametrize(
    ("held", "grantable", "expected"),
    [
        ({"a", "b"}, set(), Decision(exists=True, needed=frozenset({"a", "b"}))),
        ({"a"}, {"b"}, Decision(exists=True, needed=frozenset({"a", "b"}), missing=frozenset({"b"}))),
        (set(), {"a", "b", "c"}, Decision(exists=True, needed=frozenset({"a", "b"}), missing=frozenset({"a", "b"}))),
        (set(), {"a"}, HIDDEN),
        ({"a"}, set(), HIDDEN),
        ({"A", "b"}, {"c"}, HIDDEN),
    ],
)
def test_what_a_user_can_still_be_granted_exists_and_all_else_does_not(
    held: set[str], grantable: set[str], expected: Decision
) -> None:
    assert decide([needs("a", "b")], held=frozenset(held), grantable=frozenset(grantable)) == expected


def test_every_rule_must_be_satisfied_and_denial_wins() -> None:
    both = decide([needs("a"), needs("b")], held=frozenset({"a"}), grantable=frozenset({"b"}))
    assert both == Decision(exists=True, needed=frozenset({"a", "b"}), missing=frozenset({"b"}))
    assert decide([ALLOW, DENY], held=frozenset({"a"}), grantable=NONE) == HIDDEN


SECRET = {"file:///srv/secret/*": DENY, "https://in.example/key": DENY, "memo://Keys/1": DENY}
SECRET |= {"http://10.0.0.1/*": DENY, "http://[::2]/key": DENY, "ws://[::2]/*": DENY}


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/secret/key",
        "FILE:///srv/secret/key",
        "file:///srv/%73ecret/key",
        "file:///srv/%2573ecret/key",
        "file:///srv/secret%2Fkey",
        "file://localhost/srv/secret/key",
        "file://x/srv/secret/key",
        "file://127.0.0.1/srv/secret/key",
        "file://localhost:80/srv/secret/key",
        "file://localhostx/srv/secret/key",
        "file://a@localhost/srv/secret/key",
        "file://x/srv/%73ecret//key",
        "file:///srv//secret/key",
        "file:/srv/secret/key",
        "file:////srv/secret/key",
        "file:srv/secret/key",
        "file:///srv/public/../secret/key",
        "file:///srv/public/%2e%2e/secret/key",
        "file:///srv/public/..%2fsecret/key",
        "file:///srv/./secret/key",
        "file:///srv\\secret\\key",
        "file:///srv%5csecret/key",
        "file:///srv/sec\tret/key",
        "file:///srv/sec%0aret/key",
        " file:///srv/secret/key",
        "file:///srv/secret/key\u2003",
        "https://in.example/key/",
        "https://IN.example/key",
        "https://in.example:443/key",
        "https://in.example:0443/key",
        "https://in.example:/key",
        "https://in.example./key",
        "https://in.example.:443/key",
        "https://u@in.example/key",
        "https://u:p@in.example/key",
        "https://u%40in.example/key",
        "https://in\u3002example/key",
        "https://\uff49n.example/key",
        "https://in%E3%80%82example/key",
        "https://in.ex\u00adample/key",
        "https://in.example\ufdd0/key",
        "https://in.example:44x/key",
        "http://10.0.0.1:80/key",
        "http://167772161/key",
        "http://0xa.0.0.1/key",
        "http://10.1/key",
        "http://012.0.0.1/key",
        "http://[0:0::2]/key",
        "ws://[::2]:80/key",
        "https:in.example/key",
        "https:///in.example/key",
        "https://in.example/%6bey",
        "memo://keys/1",
        "MEMO://Keys/1",
        "memo://Keys/%31",
        "memo://Keys/%25252531",
        "memo://Keys/" + "0" * (1 << 16),
    ],
)
def test_another_spelling_of_a_uri_does_not_get_round_a_rule(uri: str) -> None:
    assert is_hidden(resources(SECRET), uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/public/key",
        "file:///srv/secrets",
        "file:///My%20Files/50%25.txt",
        "file:///srv/.hidden/a..b/...",
        "file://x/srv/public/key",
        "https://in.example/keys",
        "https://in.example:8443/key",
        "https://in.example/a@b",
        "https://in.example/J\u00fcrgen.",
        "http://10.0.0.2/key",
        "http://[::3]:8080/key",
        "memo://u@J\u00fcrgen./1",
        "https://in.example/key?of=x",
        "memo://Keys/10",
        "memo:Keys",
        "no uri at all",
        "greeting://J\u00fcrgen",
    ],
)
def test_all_others_are_as_before(uri: str) -> None:
    assert not is_hidden(resources(SECRET), uri)


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        ("file:///srv/public/*", "file:///srv/public/"),
        ("file:///srv/public/*", "file:///srv/public/My%20Notes.txt"),
        ("FILE:///srv/Public%20Files/*", "FILE:///srv/Public%20Files/a"),
        ("memo://Notes", "memo://Notes"),
        ("memo://*.Example/x", "memo://a.Example/x"),
        ("https://a.example*", "https://a.example/x"),
        ("https://*.example:443/x", "https://a.example:443/x"),
        ("https://a.example:*", "https://a.example:8443/x"),
        ("https://10.0.0.*", "https://10.0.0.7/x"),
        ("file:*", "file:///a"),
        ("file:*", "file://x/a"),
        ("*.md", "file:///a.md"),
        ("*", "memo:1"),
    ],
)
def test_a_rule_allows_a_uri_that_is_written_as_in_the_rule(pattern: str, uri: str) -> None:
    assert not is_hidden(resources({pattern: ALLOW}, default=DENY), uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/public/../secret",
        "file:///srv/public/%2e%2e/secret",
        "file:///srv/publi%63/a",
        "FILE:///srv/public/a",
        "file:///srv/public%2Fa",
        "file:///srv/public",
    ],
)
def test_a_rule_allows_no_uri_that_is_written_otherwise(uri: str) -> None:
    assert is_hidden(resources({"file:///srv/public/*": ALLOW}, default=DENY), uri)


@pytest.mark.parametrize(
    "rules",
    [
        ["memo://a", "MEMO://a"],
        ["memo://a/b", "memo://a/%62"],
        ["memo://a/*", "memo://A/*"],
        ["file:///a/../b"],
        ["file:///a/..", "memo://x"],
        ["file:a"],
        ["https://a.example/x", "https://a.example:443/x"],
        ["https://u@a.example/*"],
        ["https://a.example./*"],
        ["http://0x7f.1/"],
        ["file:///a\tb*"],
    ],
)
def test_rules_for_resources_that_are_the_same_or_never_match_are_refused(rules: list[str]) -> None:
    with pytest.raises(InvalidRulesError):
        resources(dict.fromkeys(rules, DENY))


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("memo://{id}", {"public", "secret", "default"}),
        ("memo://public/{id}", {"public"}),
        ("memo://pub{id}", {"public", "default"}),
        ("memo://secret/{id}", {"secret", "default"}),
        ("{+uri}", {"public", "secret", "default"}),
        ("other://{id}", {"default"}),
    ],
)
def test_a_template_stands_for_everything_that_it_can_become(template: str, found: set[str]) -> None:
    rules = resources(
        {"memo://public/*": needs("public"), "memo://secret/1": needs("secret")}, default=needs("default")
    )
    assert {scope for rule in rules.find_all_of_template(template) for scope in rule.scopes} == found


def test_rules_that_match_nothing_are_found() -> None:
    rules = Rules(default=ALLOW, rules={"look": ALLOW, "drop": DENY, "create_*": ALLOW, "*_admin": DENY, "x*z": DENY})
    assert rules.find_unmatched(["look", "create_issue", "xyz"]) == ["*_admin", "drop"]
    assert rules.find_unmatched([]) == ["*_admin", "create_*", "drop", "look", "x*z"]
    assert rules.find_unmatched(["drop", "look", "create_", "_admin", "xz"]) == []


def test_rules_for_resources_that_match_nothing_are_found() -> None:
    rules = resources({"file:///a/*": DENY, "file:///b": DENY, "FILE:///c%41": DENY, "file:///d/*": DENY})
    assert rules.find_unmatched(["file:///a/1", "file:///cA"], []) == ["file:///b", "file:///d/*"]
    assert rules.find_unmatched(["file:///a/1", "file:///%2e%2e/x\\y"], ["file:///d/{id}"]) == [
        "FILE:///c%41",
        "file:///b",
    ]
    assert rules.find_unmatched([], ["file:///{+path}"]) == []
