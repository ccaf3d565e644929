"""What the settings say of users' own credentials: names, patterns and connections."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.settings import (
    Credentials,
    Settings,
    SettingsError,
    UserCredential,
    load_credentials,
    load_settings,
)
from auth_service.settings.user_credentials import STARTS_PROGRAMS
from auth_service.settings.value_pattern import MAX_VALUE_CHARACTERS, ValuePattern
from tests.auth_service.test_settings import MINIMAL, write_credentials

CHECKS = Path(__file__).parents[2] / "modules/lib/checks.nix"
OAUTH: dict[str, Any] = {
    "authorization_endpoint": "https://api.example.com/authorize",
    "token_endpoint": "https://api.example.com/token/",
    "client_id": "gateway",
    "scopes": ["read"],
}
PASTED: dict[str, Any] = {"label": "Token"}
FREE = ("AWS_SECRET_ACCESS_KEY", "GITLAB_TOKEN", "DOCKER_TOKEN", "GIT_PASSWORD", "GITHUB_PAT", "JIRA_URL", "R_TOKEN")
CONNECTED: dict[str, Any] = {"label": "Drive", "oauth": OAUTH}


def load(tmp_path: Path, name: str, credential: object) -> Settings:
    document = copy.deepcopy(MINIMAL)
    document["resources"]["time"]["user_credentials"] = {name: credential}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document))
    return load_settings(path)


def test_a_server_asks_for_pasted_values_and_for_accounts(tmp_path: Path) -> None:
    pasted = load(tmp_path, "API_TOKEN", PASTED | {"help": "See there.", "pattern": "a+"})
    assert pasted.resources["time"].user_credentials["API_TOKEN"].pattern == "a+"
    connected = load(tmp_path, "drive_token", CONNECTED).resources["time"].user_credentials["drive_token"].oauth
    assert connected is not None
    assert (connected.scopes, connected.token_endpoint_auth_method) == (("read",), None)


@pytest.mark.parametrize(
    ("name", "credential", "named"),
    [
        ("API-TOKEN", PASTED, "user_credentials.API-TOKEN"),
        ("1TOKEN", PASTED, "user_credentials.1TOKEN"),
        ("", PASTED, "user_credentials."),
        ("A" * 101, PASTED, "user_credentials.AAA"),
        ("TOKEN\n", PASTED, "user_credentials.TOKEN"),
        ("LD_PRELOAD", PASTED, "user_credentials.LD_PRELOAD.[key]: is a variable that decides how programs start"),
        ("TOKEN", {}, "user_credentials.TOKEN.label: Field required"),
        ("TOKEN", PASTED | {"label": ""}, "user_credentials.TOKEN.label: "),
        ("TOKEN", PASTED | {"pattern": "(a"}, "user_credentials.TOKEN.pattern: is no pattern: it ends too early"),
        ("TOKEN", PASTED | {"pattern": "((a*)*)*"}, "TOKEN.pattern: repeats too much"),
        ("TOKEN", PASTED | {"pattern": "a" * 501}, "user_credentials.TOKEN.pattern: "),
        ("TOKEN", CONNECTED | {"pattern": "a"}, "TOKEN: pattern is for pasted values"),
        *(
            ("TOKEN", {"label": "x", "oauth": {k: v for k, v in OAUTH.items() if k != missing}}, f"oauth.{missing}: Fi")
            for missing in OAUTH
        ),
        ("TOKEN", {"label": "x", "oauth": OAUTH | {"client_secret": "x"}}, "oauth.client_secret: Extra inputs"),
        ("TOKEN", {"label": "x", "oauth": OAUTH | {"scopes": ["a b"]}}, "oauth.scopes.0: "),
        (
            "TOKEN",
            {"label": "x", "oauth": OAUTH | {"token_endpoint": "http://api.example.com/token"}},
            "oauth.token_endpoint: must be https",
        ),
        (
            "TOKEN",
            {"label": "x", "oauth": OAUTH | {"authorization_endpoint": "https://a.example/x?y"}},
            "oauth.authorization_endpoint: must have no user, password, query",
        ),
        (
            "TOKEN",
            {"label": "x", "oauth": OAUTH | {"revocation_endpoint": "http://127.0.0.1:1/revoke"}},
            "user_credentials.TOKEN.oauth has a loopback stand-in",
        ),
        *(
            ("TOKEN", {"label": "x", "oauth": OAUTH | {"authorization_parameters": {own: "x"}}}, f"may not set {own}")
            for own in ("state", "redirect_uri", "code_challenge", "code_challenge_method", "client_id", "scope")
        ),
    ],
)
def test_a_fault_of_a_users_credential_is_one_line_that_names_it(
    tmp_path: Path, name: str, credential: object, named: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, name, credential)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value).replace(name, "")


@pytest.mark.parametrize(
    "name", ["GITHUB_TOKEN", "NPM_TOKEN", "GIT_TOKEN", "API_KEY", "SLACK_BOT_TOKEN", "PATHS", *FREE]
)
def test_usual_names_of_secrets_are_free(name: str) -> None:
    assert not STARTS_PROGRAMS.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "ENV", "NODE_OPTIONS", "PYTHONPATH"),
        *("PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "GIT_SSH_COMMAND"),
        *("GIT_CONFIG_COUNT", "https_proxy", "ALL_PROXY", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "npm_config_prefix"),
        *("GLIBC_TUNABLES", "NIX_LD", "XDG_CONFIG_HOME", "LISTEN_FDS", "NOTIFY_SOCKET", "SYSTEMD_LOG_LEVEL"),
        *("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "CORECLR_PROFILER_PATH", "DOTNET_STARTUP_HOOKS"),
        *("JAVA_OPTS", "MAVEN_OPTS", "JDK_JAVA_OPTIONS", "ERL_FLAGS", "ERL_AFLAGS", "R_PROFILE", "R_PROFILE_USER"),
        *("GIO_EXTRA_MODULES", "GST_PLUGIN_PATH", "QT_PLUGIN_PATH", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE", "GIT_DIR"),
        *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GIT_SSL_CAINFO", "GIT_ASKPASS", "GIT_EDITOR", "GIT_PAGER", "KUBECONFIG"),
        *("DOCKER_HOST", "PUPPETEER_EXECUTABLE_PATH", "LESSOPEN", "ZDOTDIR", "HTTP_PROXY", "no_proxy", "RES_OPTIONS"),
    ],
)
def test_names_that_decide_how_programs_start_are_refused(name: str) -> None:
    assert STARTS_PROGRAMS.fullmatch(name)


@pytest.mark.skipif(not CHECKS.exists(), reason="the source of the package has no module")
def test_the_module_refuses_the_same_names() -> None:
    found = re.search(r"startsPrograms = matches \(\s*lib\.concatStrings \[(.*?)\n\s*\]", CHECKS.read_text(), re.DOTALL)
    assert found
    assert "".join(re.findall(r'"([^"]*)"', found[1])) == STARTS_PROGRAMS.pattern


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("ghp_[A-Za-z0-9]{36}", "ghp_" + "a1" * 18),
        (r"^(?:ghp|gho)_\w+$", "gho_x"),
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "12345678-1234-1234-1234-123456789012"),
        (r"xox[bp]-[\d-]+\w{0,3}", "xoxb-1-2abc"),
        ("a|bc|", "bc"),
        ("a|bc|", ""),
        (r"[^\-!\]]+", "abc"),
        (".{3,5}", "äöü!"),
        ("(a|ab)(c|bcd)", "abcd"),
        ("(a?b){2,3}", "bab"),
        ("[a-]+", "a-a"),
    ],
)
def test_a_pattern_matches_whole_values(pattern: str, value: str) -> None:
    assert ValuePattern(pattern).matches(value)
    assert not ValuePattern(pattern).matches(f"{value}\n!")


@pytest.mark.parametrize(
    "pattern",
    [
        *("(", ")", "a)", "[", "[]", "[b-a]", "[a-\\d]", "a{", "a{2,1}", "a{,2}", "a**", "a+?", "+", "{2}", "*", "a\\"),
        *(r"\b", r"\1", r"\x41", r"\p", "a^", "$a", "(a$)", "(?=a)", "(?P<x>a)", "]", "}", "[[a]", "(" * 30 + ")" * 30),
        *("(a*b){5000}(b{5000}){5000}", "((a+)+)+b"),
    ],
)
def test_a_pattern_of_another_kind_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is no pattern: .* \(at character \d+\)|repeats too much"):
        ValuePattern(pattern)


@pytest.mark.parametrize("pattern", ["", "^", "$", "^$"])
def test_an_empty_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="is empty: leave it out to allow any value"):
        ValuePattern(pattern)


def test_a_group_with_a_flag_is_named() -> None:
    with pytest.raises(ValueError, match=r"is no pattern: .* only \(\?:...\) is supported"):
        ValuePattern("(?i)abc")


PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", "1"]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["?", "{2}", "{0,2}", "{1,}"])),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text(alphabet="ab1", max_size=8))
def test_a_pattern_means_what_it_means_to_python(pattern: str, value: str) -> None:
    try:
        mine = ValuePattern(pattern)
    except ValueError as error:
        assert "repeats too much" in str(error)
        return
    assert mine.matches(value) == (re.fullmatch(pattern, value) is not None)


@pytest.mark.parametrize("pattern", ["(a|aa)+b", "(x+x+)+y", "([a-z]*[a-z]*)*!", "a*a*a*a*a*a*a*a*a*a*a*a*b"])
def test_no_value_makes_a_pattern_slow(pattern: str) -> None:
    """Python's own engine would need longer for these than anybody waits."""
    assert not ValuePattern(pattern).matches("a" * MAX_VALUE_CHARACTERS)
    assert not ValuePattern(pattern).matches("x" * MAX_VALUE_CHARACTERS)


@pytest.mark.parametrize("value", ["x", "a b", "ü", "x" * 4096, "ü" * 2048])
def test_a_value_is_one_line_of_bounded_length(value: str) -> None:
    assert UserCredential(label="Token").accepts(value)


@pytest.mark.parametrize(
    "value",
    ["", "x" * 4097, "ü" * 2049, "a\nb", "a\r", "a\x00b", "\x1b[31m", "a\x85b", "a\u2028b", "\x7f", "\ud800" * 4097],
)
def test_any_other_value_is_refused(value: str) -> None:
    assert not UserCredential(label="Token").accepts(value)
    assert not UserCredential(label="Token", pattern=".+").accepts(value)


def test_a_value_is_compared_with_the_pattern() -> None:
    credential = UserCredential(label="Token", pattern="trk_[a-z]+")
    assert credential.accepts("trk_abc")
    assert not credential.accepts("trk_ABC")


def test_client_secrets_of_connections_are_read_by_their_names(tmp_path: Path) -> None:
    secret = {"user-credential-secret.time.DRIVE_TOKEN": b"s3cret-of-drive\n"}
    credentials = load_credentials(_write(tmp_path, secret))
    assert dict(credentials.connections) == {"time.DRIVE_TOKEN": "s3cret-of-drive"}
    assert "s3cret" not in repr(credentials)


def _write(tmp_path: Path, secrets: dict[str, bytes]) -> Path:
    write_credentials(tmp_path)
    for name, secret in secrets.items():
        (tmp_path / name).write_bytes(secret)
    return tmp_path


@pytest.mark.parametrize("secret", [b"", b"\n", "schlüssel".encode()])
def test_an_unusable_client_secret_is_named(tmp_path: Path, secret: bytes) -> None:
    with pytest.raises(SettingsError, match=r"user-credential-secret\.time\.A: "):
        load_credentials(_write(tmp_path, {"user-credential-secret.time.A": secret}))


def test_credentials_without_connections_have_no_secrets_of_them() -> None:
    assert dict(Credentials(client_secret="x", master_key=b"k" * 32).connections) == {}
