"""The rules for URLs that strangers choose: redirect URIs, metadata documents, resources.

The browser and we must read the same in them, so a parser that is not ours (Node.js, by the WHATWG URL standard)
judges what was accepted.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.protocol import client_documents, redirect_uris, resources
from auth_service.protocol.errors import ClientDocumentError, OAuthError
from tests.peers import HAS_NODE, NODE

PIECES = [
    *("http://", "https://", "http:", "https:", "HTTPS://", "javascript:", "data:", "file:///", "vscode://", "com.a:/"),
    *("localhost", "127.0.0.1", "[::1]", "127.1", "0x7f.1", "2130706433", "evil.com", "example.com", "xn--e1awd7f.com"),
    *(".", "..", "/", "//", "\\", ":", ":80", ":443", ":8080", ":65536", "@", "#", "?", "&", "=", ";", ",", "%", "*"),
    *("%2e", "%2F", "%5c", "%40", "%00", "%23", "%3a", "%0d%0a", "user", "user:pass@", "/callback", "?a=b", " ", "\t"),
    *("\n", "\r", "\0", "\u3002", "\uff0f", "\uff03", "\u2044", "\u200b", "\u202e", "\u0131", "\u212a", "\u00ad", "é"),
    *("[", "]", "{", "}", "|", "^", "`", "<", ">", '"', "'", "(", ")", "!", "$", "+", "~", "_", "-", "a", "A", "1"),
]
SHAPES = [
    "https://example.com/callback",
    "http://127.0.0.1:33418/callback",
    "vscode://a.b/callback",
    "https://a.example/x?y=z",
]


def mutations(seed: int, number: int) -> list[str]:
    """Return URLs and near misses: plausible ones with pieces of others put in or taken out."""
    chance = random.Random(seed)
    made = []
    for _ in range(number):
        text = chance.choice([*SHAPES, ""])
        for _ in range(chance.randint(0, 4)):
            at = chance.randint(0, len(text))
            text = text[:at] + chance.choice(PIECES) + text[at + chance.choice([0, 0, 1, 3]) :]
        made.append(text)
    return made


def read_by_node(uris: list[str]) -> list[dict[str, str] | None]:
    """Return how a browser's parser reads each; None where it is no URL."""
    script = """
      const parse = (text) => {
        try { const { protocol, username, password, hostname, port, hash, href } = new URL(text);
              return { protocol, username, password, hostname, port, hash, href } } catch { return null } };
      let input = "";
      process.stdin.on("data", (data) => { input += data })
        .on("end", () => console.log(JSON.stringify(JSON.parse(input).map(parse))));
    """
    if not HAS_NODE:
        pytest.skip("Node.js is not installed: what browsers make of a URL is not known here")
    done = subprocess.run([str(NODE), "-e", script], input=json.dumps(uris), capture_output=True, text=True, check=True)
    parsed: list[dict[str, str] | None] = json.loads(done.stdout)
    return parsed


def is_redirect_uri(uri: str) -> bool:
    try:
        redirect_uris.check(uri)
    except OAuthError:
        return False
    return True


def is_document_url(url: str) -> bool:
    try:
        client_documents.check_url(url)
    except ClientDocumentError:
        return False
    return True


def test_a_browser_goes_where_an_accepted_redirect_uri_seems_to_lead() -> None:
    accepted = sorted({uri for uri in mutations(1, 60_000) if is_redirect_uri(uri)})
    assert len(accepted) > 300
    for uri, read in zip(accepted, read_by_node(accepted), strict=True):
        if read is None and "xn--" in uri:
            continue  # no name in punycode: a browser goes nowhere
        assert read is not None, uri
        ours = urlsplit(uri)
        assert (read["username"], read["password"], read["hash"]) == ("", "", ""), uri
        assert read["protocol"] == f"{ours.scheme}:", uri
        assert read["protocol"] not in {"javascript:", "data:", "file:", "blob:", "about:", "ftp:"}, uri
        if ours.scheme == "http":
            assert read["hostname"] in {"localhost", "127.0.0.1", "[::1]"}, uri
        if ours.scheme == "https" and not uri.startswith("https://["):
            assert read["hostname"] == ours.hostname, uri


def test_an_accepted_document_url_is_in_the_one_form_that_everybody_reads_alike() -> None:
    shapes = [*mutations(2, 60_000), *(f"https://client.example.com/{text}" for text in mutations(3, 5_000))]
    accepted = sorted({url for url in shapes if is_document_url(url)})
    assert len(accepted) > 300
    for url, read in zip(accepted, read_by_node(accepted), strict=True):
        if read is None and "xn--" in url:
            continue  # no name in punycode, for which no resolver has an address
        assert read is not None, url
        assert read["href"].replace("'", "%27") == url.replace("'", "%27"), url
        assert (read["username"], read["password"], read["hash"], read["port"]) == ("", "", "", ""), url
        assert not re.fullmatch(r"[0-9.]+", read["hostname"]), url


LOOKALIKES = [
    "http://localhost.evil.com/callback",
    "http://localhost.evil.com:80/callback",
    "http://localhost@evil.com/callback",
    "http://localhost:80@evil.com/callback",
    "http://localhost%2eevil.com/callback",
    "http://localhost%40evil.com/callback",
    "http://localhost\\@evil.com/callback",
    "http://localhost#@evil.com/callback",
    "http://localhost\t.evil.com/callback",
    "http://localhost\u3002evil.com/callback",
    "http://\u24dbocalhost/callback",
    "http://loc\u0430lhost/callback",
    "http://localhos\u0442/callback",
    "http://LOCALHOST/callback",
    "http://localhost./callback",
    "http://sub.localhost/callback",
    "http://127.0.0.1.evil.com/callback",
    "http://127.0.0.1@evil.com/callback",
    "http://127.0.0.2/callback",
    "http://127.1/callback",
    "http://0.0.0.0/callback",
    "http://[::]/callback",
    "http://[::ffff:127.0.0.1]/callback",
    "http://[::1].evil.com/callback",
    "http://[::1]@evil.com/callback",
    "http://[::1%25eth0]/callback",
    "http://2130706433/callback",
    "http://0x7f000001/callback",
    "http://localhost:99999/callback",
    "http://localhost:/callback",
    "http://localhost:port/callback",
    "http://evil.com/callback",
    "http:localhost/callback",
    "http:/localhost/callback",
    "http:///localhost/callback",
    "https://example.com@evil.com/callback",
    "https://user@example.com/callback",
    "https://user:password@example.com/callback",
    "https://example.com\\@evil.com/callback",
    "https://example.com\\.evil.com/callback",
    "https://EXAMPLE.com/callback",
    "https://ex\u0430mple.com/callback",
    "https://example\u3002com/callback",
    "https://example.com\u2044evil/callback",
    "https://*.example.com/callback",
    "https://example.com/*",
    "https://example.com/callback?iss=https://evil.com",
    "https://example.com/callback?a=b&is%73=https://evil.com",
    "http://127.0.0.1/callback?iss",
    "https://example.com/callback#",
    "https://example.com/callback#fragment",
    "https://example.com/call back",
    "https://example.com/callback\n",
    "https://example.com/callback\r\nLocation: https://evil.com",
    "https://example.com/\u202ekcabllac",
    "https:example.com/callback",
    "https:/example.com/callback",
    "https:///example.com/callback",
    "https://",
    "https:///",
    "https://-example.com/callback",
    "https://.example.com/callback",
    "https://example.com:0443/callback",
    "https://2130706433/callback",
    "https://0x7f.1/callback",
    "https://127.1/callback",
    "https://0177.0.0.1/callback",
    "https://256.1.1.1/callback",
    "https://example.1/callback",
    "https://[::1/callback",
    "https://[:::]/callback",
    "vscode://[::1]/callback",
    "vscode://user@host/callback",
    "vscode://host:80/callback",
    "com.example.app://://example.com/callback",
    "com.example.app:/",
    "com.example.app://",
    "com.example.app:/open",
    "com.example.app:/open?then=/callback",
    "com.example.app:/callback/../open",
    "com.example.app:/callback/..",
    "com.example.app:/callback/open/folder",
    "com.example.app:/open/%2e%2e/callback",
    "com.example.app:/callback%2f..%2fopen",
    "com.example.app://user:callback/",
    "com.example.app:////callback",
    "com.example.app:/callback?code=planted",
    "com.example.app:/callback?a=b&stat%65=planted",
    "com.example.app:/nocallbacks",
    "com.epicgames.launcher://apps/fn?action=launch",
    "com.raycast:/extensions/someone/tool/run",
    "cursor://anysphere.cursor-deeplink/prompt?text=x",
    "cursor://anysphere.cursor-deeplink/mcp/install?name=x&config=y",
    "cursor://anysphere.cursor-deeplink/callback",
    "cursor://ANYSPHERE.Cursor-DeepLink/callback",
    "cursor://callback",
    "cursor:///callback",
    "cursor://file/etc/passwd",
    "vscode://vscode.git/clone?url=https://evil.com/callback",
    "vscode://vscode.git/clone/callback",
    "vscode://VSCode.git/clone/callback",
    "vscode://file/callback",
    "vscode://a.b/c",
    "vscode:///callback",
    "vscode://vscode-remote/ssh-remote+evil.com/callback",
    "vscode:mcp/install?x",
    "claude://claude.ai/new?q=callback",
    "claude://claude.ai/callback",
    "claude://other.example/mcp-auth-callback",
    "raycast://extensions/someone/tool/oauth",
    "raycast://oauth/callback",
    "warp://action/new_window?path=/",
    "warp://mcp/callback",
    "lmstudio://add_mcp?name=x&config=y",
    "zed://file/etc/passwd",
    "zed://extension/callbacks",
    "https://example.com:65536/callback",
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "javascript://example.com/%0aalert(1)",
    "java\tscript:alert(1)",
    " javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
    "blob:https://example.com/x",
    "about:blank",
    "mailto:a@example.com",
    "myapp:/callback",
    "myapp://callback",
    "VSCODE://callback",
    "vscode:callback",
    "com.example.app:callback",
    "//example.com/callback",
    "/callback",
    "callback",
    "",
]


@pytest.mark.parametrize("uri", LOOKALIKES)
def test_a_lookalike_can_be_neither_registered_nor_asked_for(uri: str) -> None:
    assert not is_redirect_uri(uri)
    for registered in ("http://localhost/callback", "http://127.0.0.1/callback", "http://[::1]/callback", *SHAPES):
        assert not redirect_uris.matches(registered, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://claude.ai/api/mcp/auth_callback",
        "https://chatgpt.com/connector_platform_oauth_redirect",
        "https://example.com:8443/callback?tenant=1",
        "https://xn--e1awd7f.com/callback",
        "https://192.0.2.1/callback",
        "http://localhost/callback",
        "http://127.0.0.1:33418/",
        "http://[::1]:8080/callback?a=b",
        "https://example.com/iss?issuer=iss",
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "cursor://anysphere.cursor-retrieval/oauth/callback",
        "cursor://anysphere.cursor-retrieval/oauth/user-time/callback",
        "vscode://saoudrizwan.claude-dev/mcp-auth/callback",
        "vscode-insiders://saoudrizwan.claude-dev/mcp-auth/callback/0f3c9a",
        "windsurf://codeium.windsurf/callback",
        "claude://claude.ai/mcp-auth-callback/sdk",
        "raycast://oauth?package_name=mcp_server_time_(local)",
        "com.raycast:/oauth?package_name=Extension",
        "warp://mcp/oauth2callback",
        "lmstudio://oauth-callback",
        "com.example.app:/oauth2redirect",
        "com.example.app:/oauth2redirect/example-provider",
        "com.example.app://callback",
        "com.example.app:///oauth/callback?tenant=1",
    ],
)
def test_what_clients_use_can_be_registered(uri: str) -> None:
    redirect_uris.check(uri)
    assert redirect_uris.matches(uri, uri)


_TEXT = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
_REDIRECT = st.one_of(
    st.from_regex(r"https://[a-z]{1,8}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?/[a-z]{0,8}(\?[a-z]=[a-z])?", fullmatch=True),
    st.from_regex(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[1-9][0-9]{0,3})?/[a-z]{0,8}", fullmatch=True),
)


@given(registered=_REDIRECT, requested=st.one_of(_REDIRECT, _TEXT))
def test_only_the_port_of_a_loopback_address_is_free(registered: str, requested: str) -> None:
    if redirect_uris.matches(registered, requested) and requested != registered:
        ours, theirs = urlsplit(registered), urlsplit(requested)
        assert (ours.scheme, theirs.scheme) == ("http", "http")
        assert ours.hostname == theirs.hostname
        assert ours.hostname in {"localhost", "127.0.0.1", "::1"}
        assert (ours.path, ours.query) == (theirs.path, theirs.query)
        assert is_redirect_uri(requested)


@given(uri=_REDIRECT, parameters=st.dictionaries(st.text(min_size=1), st.text(min_size=1), max_size=4))
def test_parameters_are_appended_whole_and_change_nothing_else(uri: str, parameters: dict[str, str]) -> None:
    parameters = {_storable(name): _storable(value) for name, value in parameters.items()}
    assert redirect_uris.with_parameters(uri, {"code": "c"}).startswith(uri)
    before, after = urlsplit(uri), urlsplit(redirect_uris.with_parameters(uri, {**parameters, "absent": None}))
    assert (before.scheme, before.netloc, before.path) == (after.scheme, after.netloc, after.path)
    assert parse_qsl(after.query, keep_blank_values=True) == [
        *parse_qsl(before.query, keep_blank_values=True),
        *parameters.items(),
    ]


@pytest.mark.parametrize(
    ("uri", "answer"),
    [
        ("com.example.app:///callback", "com.example.app:///callback?code=c"),
        ("com.example.app:/callback", "com.example.app:/callback?code=c"),
        ("com.example.app://callback", "com.example.app://callback?code=c"),
        ("https://client.example.com", "https://client.example.com?code=c"),
        ("https://client.example.com/?", "https://client.example.com/?code=c"),
        ("https://client.example.com/?a=b", "https://client.example.com/?a=b&code=c"),
    ],
)
def test_an_answer_goes_to_the_very_uri_that_was_registered(uri: str, answer: str) -> None:
    assert is_redirect_uri(uri)
    assert redirect_uris.with_parameters(uri, {"code": "c", "state": None}) == answer


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@given(_TEXT)
def test_anything_else_is_refused_in_one_way_only(text: str) -> None:
    is_redirect_uri(text)
    is_document_url(text)
    client_documents.host_of(text) if client_documents.is_document_url(text) and is_document_url(text) else None


RESOURCES = {
    "time": "https://time.example.com/mcp",
    "root": "https://example.com/time/mcp",
    "port": "https://example.com:8443/mcp",
    "six": "http://[::1]:8080/mcp",
}


@given(
    name=st.sampled_from(sorted(RESOURCES)),
    slashes=st.integers(0, 2),
    query=st.sampled_from(["", "?", "?utm_source=x&utm_medium=", "?profile=work", "?a=b&a=c", "?x=/../y@z:1"]),
    upper=st.booleans(),
    with_port=st.booleans(),
)
def test_a_resource_is_known_however_people_paste_it(
    name: str, slashes: int, query: str, upper: bool, with_port: bool
) -> None:
    parts = urlsplit(RESOURCES[name])
    scheme, authority = parts.scheme, parts.netloc
    if with_port and parts.port is None:
        authority += ":443"
    if upper:
        scheme, authority = scheme.upper(), authority.upper()
    pasted = f"{scheme}://{authority}{parts.path}{'/' * slashes}{query}"
    assert resources.parse_resource(pasted, RESOURCES, default=None) == name


@given(_TEXT)
def test_nothing_but_a_resource_is_taken_for_one(text: str) -> None:
    try:
        name = resources.parse_resource(text, RESOURCES, default="time")
    except OAuthError as error:
        assert error.error == "invalid_target"
    else:
        parts = urlsplit(text)
        assert parts.hostname == urlsplit(RESOURCES[name]).hostname


@pytest.mark.parametrize(
    "resource",
    [
        "https://time.example.com/MCP",
        "https://time.example.com/mcp/x",
        "https://time.example.com/",
        "https://time.example.com",
        "http://time.example.com/mcp",
        "https://time.example.com:8443/mcp",
        "https://time.example.com.evil.com/mcp",
        "https://time.example.com@evil.com/mcp",
        "https://user@time.example.com/mcp",
        "https://time.example.com/mcp#x",
        "https://time.example.com/mcp#",
        "https://time.example.com/mcp?x=1#x",
        "https://time.example.com/mcp/x?x=1",
        "https://time.example.com?/mcp",
        "https://evil.com?https://time.example.com/mcp",
        "https://time.example.com/x/../mcp",
        "https://time.example.com/%6dcp",
        "https://time.example.com/mcp;x",
        "https://time.example.com:port/mcp",
        "https://[time.example.com/mcp",
        "time",
        "",
    ],
)
def test_what_only_resembles_a_resource_is_refused(resource: str) -> None:
    with pytest.raises(OAuthError, match="invalid_target"):
        resources.parse_resource(resource, RESOURCES, default="time")


def test_no_resource_means_the_default_or_none() -> None:
    assert resources.parse_resource(None, RESOURCES, default="time") == "time"
    with pytest.raises(OAuthError, match="invalid_target"):
        resources.parse_resource(None, RESOURCES, default=None)


def test_an_empty_redirect_uri_is_refused_as_such() -> None:
    with pytest.raises(OAuthError, match="is empty"):
        redirect_uris.check("")
