"""What a server needs from each of its users: a secret that the user pastes, or an account that the user connects."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from .value_pattern import MAX_PATTERN_CHARACTERS, ValuePattern
from .values import IssuerUrl, Model, ScopeName, is_loopback_host

MAX_VALUE_BYTES: Final = 4096
"""Of a user's value, in UTF-8."""
CLIENT_SECRET_PREFIX: Final = "user-credential-secret."  # noqa: S105  # a name, and no secret
"""The client secret of a connection is the credential file `user-credential-secret.SERVER.NAME`."""
CONNECTION_OWN_PARAMETERS: Final = frozenset(
    {
        *("client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce"),
        *("code_challenge", "code_challenge_method", "request", "request_uri"),
    }
)
"""Parameters of an authorization request at the other service that are not the operator's to set."""

STARTS_PROGRAMS: Final = re.compile(
    "PATH|HOME|PWD|OLDPWD|SHELL|USER|LOGNAME|ENV|IFS|PS4|SHELLOPTS|BASHOPTS|CDPATH|TMPDIR|TMP|TEMP|CLASSPATH|.*EDITOR"
    "|VISUAL|.*PAGER|BROWSER|NLSPATH|LOCPATH|HOSTALIASES|LOCALDOMAIN|SSLKEYLOGFILE|RUBYOPT|RUBYLIB|PERLLIB"
    "|PHPRC|PHP_INI_SCAN_DIR|ZDOTDIR|LESS(OPEN|CLOSE)|NETRC|CURL_HOME|WGETRC|GODEBUG|RUSTFLAGS|ERL_(LIBS|INETRC)"
    "|(JAVA|MAVEN|GRADLE|ANT|M2)_HOME|KUBECONFIG|DOCKER_(HOST|CONFIG|CONTEXT|CERT_PATH)"
    "|AWS_(CONFIG_FILE|SHARED_CREDENTIALS_FILE|ENDPOINT_URL.*)"
    "|GIT_((SSH|CONFIG|PROXY|SSL|HTTP|TRACE|PROTOCOL|REDIRECT|CURL|ASK|EXEC|EXTERNAL|TEMPLATE|INDEX|OBJECT|ALTERNATE).*)"
    "|GIT_(DIR|COMMON_DIR|WORK_TREE|NAMESPACE|ALLOW_PROTOCOL|ATTR_SOURCE|GRAFT_FILE|SHALLOW_FILE|REPLACE_REF_BASE)"
    "|.*_(OPTS|OPTIONS|FLAGS|AFLAGS|ZFLAGS|CA_BUNDLE|CERT_FILE|CERT_DIR|ROOTS_FILE_PATH|EXECUTABLE_PATH|proxy|PROXY)"
    "|(LD|DYLD|BASH|NODE|DENO|BUN|UV|PIP|GLIBC|MALLOC|GCONV|NIX|XDG|SYSTEMD|LISTEN|LUA|GEM|BUNDLE|npm_config|NPM_CONFIG)_.*"
    "|(OPENSSL|CORECLR|COR|DOTNET|COMPlus|GIO|GST|GTK|QT|PUPPETEER|PLAYWRIGHT)_.*|R_(PROFILE|ENVIRON|LIBS|HOME)(_.*)?"
    "|(PYTHON|PERL5|NOTIFY_).*"
)
"""Names of variables that decide which program runs, which code it loads, or where its requests go."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _parse_name(name: str) -> str:
    if STARTS_PROGRAMS.fullmatch(name):
        raise ValueError("is a variable that decides how programs start, which no user may set")
    return name


def _parse_pattern(text: str) -> str:
    ValuePattern(text)
    return text


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100), AfterValidator(_parse_name)]


class Connection(Model):
    """An account at another service, which the user connects with OAuth (authorization code, PKCE)."""

    authorization_endpoint: IssuerUrl
    token_endpoint: IssuerUrl
    client_id: Annotated[str, Field(min_length=1)]
    scopes: tuple[ScopeName, ...] = Field(strict=False, description="What to ask for; an empty list asks for nothing.")
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post", "none"] | None = Field(
        default=None,
        description="How this service authenticates at the token endpoint; by default `client_secret_basic` with the "
        "credential `user-credential-secret.SERVER.NAME`, and `none` without it.",
    )
    authorization_parameters: dict[str, str] = Field(
        default={}, description="Added to each authorization request, for example `access_type: offline`."
    )
    revocation_endpoint: IssuerUrl | None = Field(
        default=None, description="Where tokens are revoked that a user removes (RFC 7009)."
    )
    issuer: IssuerUrl | None = Field(
        default=None,
        description="What the other service calls itself in `iss` (RFC 9207); by default any issuer at the origin of "
        "the authorization endpoint.",
    )

    @model_validator(mode="after")
    def _is_protected(self) -> Connection:
        if taken := sorted(CONNECTION_OWN_PARAMETERS & self.authorization_parameters.keys()):
            raise ValueError(f"authorization_parameters may not set {taken[0]}")
        return self

    @property
    def source(self) -> tuple[str, str]:
        """The endpoint that issues the tokens, and the client it issues them to. Tokens from another source must not be
        sent to this endpoint.
        """
        return self.token_endpoint, self.client_id

    @property
    def is_stand_in(self) -> bool:
        """Whether one of its endpoints is on this machine."""
        urls = (self.authorization_endpoint, self.token_endpoint, self.revocation_endpoint)
        return any(is_loopback_host(urlsplit(url).hostname or "") for url in urls if url is not None)


class UserCredential(Model):
    """One environment variable of a server's processes whose value each user provides."""

    label: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="What the page asks for.")
    help: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="Where the user finds it, in a sentence or two; plain text."
    )
    pattern: Annotated[str, Field(max_length=MAX_PATTERN_CHARACTERS), AfterValidator(_parse_pattern)] | None = Field(
        default=None,
        description="What a pasted value must look like as a whole: a regular expression of literals, `.`, `[...]`, "
        r"`\d`, `\w`, groups, `|`, `?`, `*`, `+` and `{m,n}`. `^` at its beginning and `$` at its end change nothing.",
    )
    oauth: Connection | None = Field(
        default=None, description="Instead of a pasted value: the access token of an account that the user connects."
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> UserCredential:
        if self.oauth is not None and self.pattern is not None:
            raise ValueError("pattern is for pasted values, and with oauth there is none")
        return self

    @cached_property
    def _matcher(self) -> ValuePattern | None:
        return None if self.pattern is None else ValuePattern(self.pattern)

    def accepts(self, value: str) -> bool:
        """Whether a user's value can be kept: one line of bounded length that is as the pattern says."""
        if not value or len(value.encode(errors="replace")) > MAX_VALUE_BYTES or _CONTROL.search(value):
            return False
        return self._matcher is None or self._matcher.matches(value)
