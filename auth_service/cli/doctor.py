"""Find what keeps clients out: check each dependency of the gateway, and the gateway from outside."""

from __future__ import annotations

import os
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import requests

from auth_service.backends import health
from auth_service.backends.assertions import derive_identity_key
from auth_service.keys.access_tokens import issue_access_token
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth import document_probe
from auth_service.oauth.revocation import Revocation
from auth_service.oauth.safe_fetch import make_fetcher
from auth_service.protocol.errors import ServiceUnavailable, WritesRefused
from auth_service.protocol.metadata import protected_resource_url
from auth_service.settings import Credentials, GitHub, OpenIDConnect, Settings
from auth_service.storage.grants import Grant, new_sid
from auth_service.storage.store import Store

TIMEOUT_SECONDS: Final = 10
OLDEST_REDIS: Final = (6, 2)
CERTIFICATE_WARNING_DAYS: Final = 14
PROBE_SECONDS: Final = 60
# The parts have a journal of their own; systemd's messages about them are in the system's journal.
LOG_COMMAND: Final = "journalctl --namespace='*'"

_DAY: Final = 86400
_INTERNAL_PATHS: Final = ("/routes", "/metrics", "/readyz")


class Status(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    status: Status
    text: str
    advice: str | None = None
    """What to do; None if there is nothing to do."""


class CheckFailed(Exception):
    """A check has found a problem; `advice` says what to do."""

    def __init__(self, text: str, advice: str, *, status: Status = Status.PROBLEM) -> None:
        super().__init__(text)
        self.advice = advice
        self.status = status


class Doctor:
    """Examine a gateway. `examine` raises nothing for what it finds."""

    def __init__(
        self, settings: Settings, credentials: Credentials, store: Store, revocation: Revocation, keys: SigningKeys
    ) -> None:
        """`store` keeps a grant for a minute, for one request to each server."""
        self._settings = settings
        self._credentials = credentials
        self._store = store
        self._revocation = revocation
        self._keys = keys
        self._http = requests.Session()
        self._http.trust_env = False  # clients use no proxy of this host, and it would see a token
        self._http.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True

    def examine(self) -> Iterator[Finding]:
        """Run all checks, first those on this host, then those from outside."""
        yield self._run("redis", self._check_redis)
        yield self._run("identity provider", self._check_identity_provider)
        yield self._run("service", self._check_service)
        yield self._run("router", self._check_issuer)
        yield self._run("signing keys", self._check_keys)
        yield self._run("internal endpoints", self._check_internal)
        yield self._run("client documents", self._check_client_documents)
        for host, port in sorted(self._tls_hosts()):
            yield self._run(f"certificate {host}", partial(check_certificate, host, port))
        keys = {name: derive_identity_key(self._credentials, name) for name in self._settings.resources}
        for result in health.check_each(self._settings, keys):
            yield self._run(f"bridge {result.name}", partial(_check_bridge, result))
        for name, resource in self._settings.resources.items():
            url = resource.url
            yield self._run(f"challenge {name}", partial(self._check_challenge, url))
            yield self._run(f"metadata {name}", partial(self._check_metadata, url))
            yield self._run(f"request {name}", partial(self._check_request, name, url))

    def _run(self, check: str, run: Callable[[], str]) -> Finding:
        try:
            return Finding(check=check, status=Status.OK, text=run())
        except CheckFailed as failure:
            return Finding(check=check, status=failure.status, text=str(failure), advice=failure.advice)
        except ServiceUnavailable as error:
            return Finding(
                check=check,
                status=Status.PROBLEM,
                text=str(error),
                advice="See the result of the check of redis above.",
            )
        except (requests.RequestException, OSError) as error:
            return Finding(check=check, status=Status.PROBLEM, text=_explain(error), advice=_advise(error))

    # Inside

    def _check_redis(self) -> str:
        connection = self._store.redis
        try:
            info = connection.info()
        except redis.RedisError as error:
            raise CheckFailed(
                f"{self._settings.redis_url}: {error}",
                "No access is granted without Redis. Start it (systemctl status redis-mcp-oauth-gateway), and see that "
                "this user may use its socket.",
            ) from error
        try:
            self._store.identifiers.use_once(new_sid(), seconds=1)
        except WritesRefused as error:
            raise CheckFailed(
                f"takes no writes: {error.reason}",
                "No user can log in and no token can be refreshed. Requests with a token pass, and `users revoke` and "
                "`grants revoke` still end access. Free space on the disk, or memory, that Redis uses; it takes writes "
                "again a moment later.",
            ) from error
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
            raise CheckFailed(f"version {version} is too old", "Install Redis 6.2 or newer.")
        if info.get("maxmemory", 0) and info.get("maxmemory_policy") != "noeviction":
            raise CheckFailed(
                f"drops keys when its memory is full ({info['maxmemory_policy']})",
                "Set maxmemory-policy to noeviction: the user of an evicted grant has to log in again.",
                status=Status.WARNING,
            )
        if not info.get("aof_enabled"):
            raise CheckFailed(
                "forgets everything when it stops",
                "Set appendonly to yes. Without it every client has to register again after a restart.",
                status=Status.WARNING,
            )
        return f"version {version}, {info['used_memory_human']} used, appendonly"

    def _check_identity_provider(self) -> str:
        provider = self._settings.identity_provider
        if isinstance(provider, OpenIDConnect):
            return self._check_openid(provider)
        return self._check_github(provider)

    def _check_github(self, provider: GitHub) -> str:
        # GitHub answers 404 for a token that it does not know, and 401 for credentials that it does not know.
        answer = self._http.post(
            f"{provider.api_url}/applications/{provider.client_id}/token",
            json={"access_token": "gho_" + secrets.token_hex(18)},
            auth=(provider.client_id, self._credentials.client_secret),
            timeout=TIMEOUT_SECONDS,
        )
        if answer.status_code == 401:
            raise CheckFailed(
                "GitHub does not know this client id and secret",
                "Compare identity_provider.client_id and the credential client-secret with the application's page.",
            )
        if answer.status_code >= 500:
            raise CheckFailed(f"{provider.api_url} answers {answer.status_code}", "See https://www.githubstatus.com/.")
        return f"{provider.api_url} answers, and accepts the client's secret"

    def _check_openid(self, provider: OpenIDConnect) -> str:
        url = f"{provider.issuer.removesuffix('/')}/.well-known/openid-configuration"
        document = self._get_json(url)
        if document.get("issuer") != provider.issuer:
            raise CheckFailed(
                f"{url} names the issuer {document.get('issuer')}",
                "Write identity_provider.issuer exactly as the provider does, including a slash at the end.",
            )
        return f"{provider.issuer} is found"

    def _check_service(self) -> str:
        url = f"{self._settings.internal_url}/readyz"
        answer = self._http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        if answer.status_code != 200:
            raise CheckFailed(
                f"{url} answers {answer.status_code}", f"See its log: {LOG_COMMAND} --unit=mcp-auth-service"
            )
        return "answers, and reaches Redis"

    # Outside

    def _check_issuer(self) -> str:
        issuer = self._settings.issuer
        url = self._metadata_url()
        found = self._get_json(url).get("issuer")
        if found != issuer:
            raise CheckFailed(
                f"{url} names the issuer {found}",
                f"Another program answers there, or the service runs with other settings. Clients require {issuer}.",
            )
        return f"{issuer} names itself as the issuer"

    def _metadata_url(self) -> str:
        parts = urlsplit(self._settings.issuer)
        return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"

    def _check_keys(self) -> str:
        published = {key.get("kid") for key in self._get_json(f"{self._settings.issuer}/jwks").get("keys", [])}
        if missing := {key.kid for key in self._keys.all()} - published:
            raise CheckFailed(
                f"{', '.join(sorted(missing))} is not published",
                "An instance with another master key or Redis answers: all instances need the same.",
            )
        return f"{len(published)} published"

    def _check_internal(self) -> str:
        parts = urlsplit(self._settings.issuer)
        for path in (*_INTERNAL_PATHS, *(f"/verify/{name}" for name in self._settings.resources)):
            url = f"{parts.scheme}://{parts.netloc}{path}"
            status = self._http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False).status_code
            if status not in {403, 404}:
                raise CheckFailed(
                    f"{url} answers {status}: it is reachable from outside",
                    "Route to the service only the paths that its GET /routes names.",
                )
        return "are not reachable from outside"

    def _check_client_documents(self) -> str:
        documents = self._settings.client_documents
        if not documents.enabled:
            return "are off: every client registers"
        fetcher = make_fetcher(documents)
        if problems := document_probe.find_problems(fetcher, document_probe.targets_of(documents)):
            raise CheckFailed(
                "; ".join(problems),
                "Until they can be fetched, metadata does not offer them, and clients register instead. This host "
                "needs name resolution and outgoing https, or client_documents.proxy (clientDocuments.proxy).",
                status=Status.WARNING,
            )
        if not self._get_json(self._metadata_url()).get("client_id_metadata_document_supported"):
            raise CheckFailed(
                "can be fetched from here, but the service does not offer them",
                f"It tries again within {document_probe.MAX_RETRY_SECONDS // 60} minutes. If that does not help, the "
                f"service cannot reach what this user can. See its log: {LOG_COMMAND} --unit=mcp-auth-service",
                status=Status.WARNING,
            )
        by = f" through {documents.proxy}" if documents.proxy is not None else ""
        who = ", which alone resolves names and can refuse internal addresses" if documents.proxy_resolves_names else ""
        return f"can be fetched{by}{who}"

    def _tls_hosts(self) -> set[tuple[str, int]]:
        urls = [self._settings.issuer, *(resource.url for resource in self._settings.resources.values())]
        parts = [urlsplit(url) for url in urls]
        return {(part.hostname or "", part.port or 443) for part in parts if part.scheme == "https"}

    def _check_challenge(self, url: str) -> str:
        """Check the challenge for a client without a token, also with a slash at the end of the URL."""
        for asked in (url, url + "/"):
            answer = self._http.post(
                asked, json=health.INITIALIZE, headers=health.HEADERS, timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
            if answer.is_redirect:
                raise CheckFailed(
                    f"{asked} redirects to {answer.headers['Location']}",
                    "Clients do not follow it. A proxy in front of the gateway must pass the URL on unchanged.",
                )
            if answer.status_code != 401:
                raise CheckFailed(
                    f"{asked} answers {answer.status_code}, not 401",
                    "404: the router has no route for it. See that it polls /routes and the host name leads to it. "
                    "200: the server is open to everyone. 5xx: see the router's log.",
                )
            challenge = answer.headers.get("WWW-Authenticate", "")
            found = re.search(r'resource_metadata="([^"]*)"', challenge)
            if found is None or found[1] != protected_resource_url(url):
                raise CheckFailed(
                    f"{asked} challenges with {challenge or 'nothing'}",
                    "A proxy between the gateway and the internet changes WWW-Authenticate, or answers instead of it.",
                )
        return "names its metadata, with and without a slash at the end"

    def _check_metadata(self, url: str) -> str:
        where = protected_resource_url(url)
        document = self._get_json(where)
        expected = {"resource": url, "authorization_servers": [self._settings.issuer]}
        for member, value in expected.items():
            if document.get(member) != value:
                raise CheckFailed(
                    f"{where}: {member} is {document.get(member)}, not {value}",
                    "Another program answers there, or the service runs with other settings.",
                )
        return f"{where} is right"

    def _check_request(self, name: str, url: str) -> str:
        """Make one request as an authorized client would, with a token that lives a minute."""
        now = int(time.time())
        grant = Grant(
            sid=new_sid(),
            sub="gateway:doctor",
            name="doctor",
            client_id="mcp-gatewayctl",
            client_name="mcp-gatewayctl doctor",
            resource=url,
            scope=" ".join(self._settings.resources[name].scopes),
            redirect="",
            created_at=now,
        )
        self._store.grants.add(grant, lifetime=PROBE_SECONDS)
        try:
            token = issue_access_token(
                self._keys,
                issuer=self._settings.issuer,
                sub=grant.sub,
                name=grant.name,
                client_id=grant.client_id,
                scope=grant.scope,
                resource=url,
                sid=grant.sid,
                lifetime=PROBE_SECONDS,
                now=now,
            )
            return self._call(url, {**health.HEADERS, "Authorization": f"Bearer {token}"})
        finally:
            self._revocation.revoke_grant(grant.sid, by="operator", reason="the examination is over")

    def _call(self, url: str, headers: dict[str, str]) -> str:
        # Status and headers are enough. The body is the server's, and is not read.
        with self._http.post(
            url, json=health.INITIALIZE, headers=headers, timeout=PROBE_SECONDS, allow_redirects=False, stream=True
        ) as answer:
            session = answer.headers.get("Mcp-Session-Id")
        if session is not None:
            ending = {**headers, "Mcp-Session-Id": session}
            self._http.delete(url, headers=ending, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True).close()
        if answer.status_code == 401:
            raise CheckFailed(
                "a good token is refused: " + answer.headers.get("WWW-Authenticate", "no reason given"),
                "The service behind the router has other settings, keys or clock than this host; its audit log names "
                "the reason (verify.refused).",
            )
        if answer.status_code != 200:
            raise CheckFailed(
                f"the server answers {answer.status_code}",
                f"The gateway accepts the token, but the server fails: systemctl status 'mcp-bridge-*', {url}.",
            )
        return "an authorized request is answered"

    def _get_json(self, url: str) -> dict[str, Any]:
        answer = self._http.get(url, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        if answer.status_code != 200:
            raise CheckFailed(
                f"{url} answers {answer.status_code}",
                "The router has no route for it, or another program listens there. See that the host name leads to "
                "this gateway, and that Traefik polls /routes.",
            )
        try:
            document = answer.json()
        except requests.JSONDecodeError as error:
            raise CheckFailed(f"{url} is not JSON", "Something else answers there.") from error
        if not isinstance(document, dict):
            raise CheckFailed(f"{url} is no JSON object", "Something else answers there.")
        return document


def _check_bridge(result: health.Result) -> str:
    if result.problem is not None:
        raise CheckFailed(
            f"{result.endpoint} {result.problem}",
            f"See its log: {LOG_COMMAND} --unit=mcp-bridge-{result.name}; a server given by its URL has its own",
        )
    return f"{result.endpoint} answers, {result.seconds:.2f} s"


def check_certificate(host: str, port: int) -> str:
    """Return until when a host's certificate is valid. Raises CheckFailed if it expires soon."""
    context = ssl.create_default_context(cafile=os.environ.get("REQUESTS_CA_BUNDLE"))
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        certificate = secured.getpeercert() or {}
    days = int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) // _DAY)
    if days < CERTIFICATE_WARNING_DAYS:
        raise CheckFailed(
            f"ends in {days} days",
            "It should be renewed already: see Traefik's log for ACME errors.",
            status=Status.WARNING,
        )
    return f"good for {days} days"


def _explain(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return f"the certificate is not trusted: {error}"
    if isinstance(error, requests.Timeout | TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS} s"
    return f"cannot be reached: {error}"


def _advise(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return "Clients cannot connect either. See Traefik's log for ACME errors, and check the system's clock."
    return "See that the name resolves, the firewall lets it through, and Traefik runs: systemctl status traefik."
