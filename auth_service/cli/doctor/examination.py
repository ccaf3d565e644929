"""All checks of `mcp-gatewayctl doctor`, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import requests

from auth_service.backends import health, surveys
from auth_service.backends.assertions import derive_identity_key
from auth_service.keys.signing_keys import SigningKeys
from auth_service.oauth.revocation import Revocation
from auth_service.settings import Credentials, Settings
from auth_service.storage.store import Store

from . import authorization_server, connections, dependencies, servers, web
from .findings import Finding, run


def examine(
    settings: Settings, credentials: Credentials, store: Store, revocation: Revocation, keys: SigningKeys
) -> Iterator[Finding]:
    """Run all checks, first those on this host, then those from outside. Raises nothing for what it finds.

    `store` keeps a grant for a minute, for one request to each server.
    """
    with web.connect() as http:
        yield run("redis", partial(dependencies.check_redis, settings, store))
        yield run("identity provider", partial(dependencies.check_identity_provider, http, settings, credentials))
        for name, trusted in settings.trusted_issuers.items():
            yield run(f"trusted issuer {name}", partial(dependencies.check_trusted_issuer, settings, trusted))
        yield from examine_connections(http, settings, credentials)
        yield run("service", partial(authorization_server.check_service, http, settings))
        yield run("router", partial(authorization_server.check_issuer, http, settings))
        yield run("signing keys", partial(authorization_server.check_keys, http, settings, keys))
        yield run("internal endpoints", partial(authorization_server.check_internal, http, settings))
        yield run("client documents", partial(authorization_server.check_client_documents, http, settings))
        for host, port in sorted(authorization_server.tls_hosts(settings)):
            yield run(f"certificate {host}", partial(authorization_server.check_certificate, host, port))
        # Before a request wakes the bridges.
        for name, resource in settings.resources.items():
            for endpoint in resource.status_urls:
                yield run(f"status {name}", partial(servers.check_status, http, resource, endpoint))
            if resource.egress_socket is not None:
                yield run(f"egress {name}", partial(servers.check_egress, name, resource.egress_socket))
        identity_keys = {name: derive_identity_key(credentials, name) for name in settings.resources}
        for result in health.check_each(settings, identity_keys):
            yield run(f"bridge {result.name}", partial(servers.check_backend, result))
        for answer in surveys.ask_all(settings, identity_keys):
            yield run(f"tools {answer.name}", partial(servers.check_tools, answer))
            yield run(f"rules {answer.name}", partial(servers.check_rules, answer))
        for name, resource in settings.resources.items():
            url = resource.url
            yield run(f"challenge {name}", partial(servers.check_challenge, http, url))
            yield run(f"metadata {name}", partial(servers.check_metadata, http, settings, url))
            yield run(
                f"request {name}", partial(servers.check_request, http, settings, store, revocation, keys, name=name)
            )


def examine_connections(http: requests.Session, settings: Settings, credentials: Credentials) -> Iterator[Finding]:
    """Check each service at which users connect their accounts."""
    if not any(resource.connections for resource in settings.resources.values()):
        return
    yield run("connections", partial(connections.check_secrets, settings, credentials))
    for (name, variable), service in connections.find_services(settings, credentials).items():
        of = f"{name}.{variable}"
        yield run(f"authorization endpoint {of}", partial(connections.check_authorization_endpoint, http, service))
        yield run(f"token endpoint {of}", partial(connections.check_token_endpoint, service))
