"""Traefik's dynamic configuration: what is public, what is verified, and what has no route."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from auth_service.app.traefik import dynamic_configuration
from auth_service.app.traefik.middlewares import IDENTITY_HEADERS
from auth_service.settings import Settings
from tests.auth_service.test_settings import MINIMAL

INTERNAL_PATHS = ("/verify", "/routes", "/healthz", "/readyz", "/metrics")


def configuration(**changes: Any) -> dict[str, Any]:
    document = dynamic_configuration(Settings.model_validate({**copy.deepcopy(MINIMAL), **changes}))
    http: dict[str, Any] = document["http"]
    return http


def test_the_mcp_path_is_verified_before_anything_else_touches_it() -> None:
    http = configuration()
    router = http["routers"]["mcp-time"]
    assert router["rule"] == "Host(`time.mcp.example.com`) && (Path(`/mcp`) || PathPrefix(`/mcp/`))"
    assert router["middlewares"] == [
        "mcp.hsts",
        "mcp.cors",
        "mcp.refusals",
        "mcp-time.auth",
        "mcp.headers",
        "mcp.whole-requests",
    ]
    assert http["services"]["mcp-time"]["loadBalancer"]["servers"] == [{"url": "http://127.0.0.1:9001"}]


def test_forward_auth_names_the_resource_and_lets_no_identity_or_token_through() -> None:
    forward_auth = configuration()["middlewares"]["mcp-time.auth"]["forwardAuth"]
    assert forward_auth["address"] == "http://127.0.0.1:9000/verify/time"
    assert set(forward_auth["authResponseHeaders"]) == {"Authorization", *IDENTITY_HEADERS}
    assert forward_auth["authRequestHeaders"] == ["Authorization"]
    assert forward_auth["trustForwardHeader"] is False


def test_every_router_is_verified_or_leads_to_the_authorization_server() -> None:
    http = configuration()
    for name, router in http["routers"].items():
        verified = any("forwardAuth" in http["middlewares"][each] for each in router["middlewares"])
        assert verified or router["service"] == "mcp.auth-service", name


@pytest.mark.parametrize("path", INTERNAL_PATHS)
def test_an_internal_path_has_no_router(path: str) -> None:
    assert all(f"`{path}" not in router["rule"] for router in configuration()["routers"].values())


@pytest.mark.parametrize("prefix", ["", "/auth"])
def test_the_callbacks_of_connected_accounts_have_a_route_where_there_are_any(prefix: str) -> None:
    oauth = {
        "authorization_endpoint": "https://a.example/authorize",
        "token_endpoint": "https://a.example/token",
        "client_id": "x",
        "scopes": [],
    }
    callback = f"PathRegexp(`^{prefix}/connections/callback/[^/]+/[^/]+$`)"
    for credentials, is_routed in (
        ({}, False),
        ({"TOKEN": {"label": "x"}}, False),
        ({"TOKEN": {"label": "x", "oauth": oauth}}, True),
    ):
        time = {**MINIMAL["resources"]["time"], "user_credentials": credentials}
        http = configuration(issuer=f"https://mcp.example.com{prefix}", resources={"time": time})
        assert (callback in http["routers"]["mcp.authorization"]["rule"]) is is_routed
        assert sum("/connections" in router["rule"] for router in http["routers"].values()) == is_routed


def test_a_path_of_its_own_is_rewritten_after_verification() -> None:
    resource = {"url": "https://mcp.example.com/time.v1/mcp", "backends": ["http://127.0.0.1:9001/mcp"]}
    http = configuration(resources={"time": resource})
    assert http["routers"]["mcp-time"]["middlewares"][-4:-1] == ["mcp-time.auth", "mcp.headers", "mcp-time.path"]
    rewrite = http["middlewares"]["mcp-time.path"]["replacePathRegex"]
    assert rewrite == {"regex": r"^/time\.v1/mcp(/.*)?$", "replacement": "/mcp${1}"}


def test_certificates_come_from_the_resolver_that_the_settings_name() -> None:
    router = {"entry_points": ["websecure"], "tls": True, "certificate_resolver": "acme"}
    assert configuration(router=router)["routers"]["mcp-time"]["tls"] == {"certResolver": "acme"}
    assert configuration()["routers"]["mcp-time"]["tls"] == {}


def test_browsers_are_told_for_how_long_to_use_https_alone() -> None:
    router = {"entry_points": ["websecure"], "tls": True}
    http = configuration(router={**router, "hsts_seconds": 300})
    assert http["middlewares"]["mcp.hsts"]["headers"]["stsSeconds"] == 300
    assert all("mcp.hsts" in each["middlewares"] for each in http["routers"].values())
    assert "mcp.hsts" not in configuration(router={**router, "hsts_seconds": 0})["middlewares"]


def test_a_loopback_gateway_needs_no_tls_and_says_nothing_of_it() -> None:
    resource = {"url": "http://localhost:8080/time/mcp", "backends": ["http://127.0.0.1:9001/mcp"]}
    http = configuration(
        issuer="http://localhost:8080", resources={"time": resource}, router={"entry_points": ["web"], "tls": False}
    )
    assert all("tls" not in router for router in http["routers"].values())
    assert "mcp.hsts" not in http["middlewares"]


@pytest.mark.parametrize("name", ["metadata", "auth-service", "authorization", "time-auth", "time-metadata", "time-a"])
def test_no_name_of_a_server_takes_the_place_of_anything_else(name: str) -> None:
    time = {"url": "https://time.example.com/mcp", "replicas": {"a": "http://127.0.0.1:9001/mcp"}}
    other = {"url": "https://other.example.com/mcp", "backends": ["http://127.0.0.1:9002/mcp"]}

    def entries(resources: dict[str, Any]) -> int:
        return sum(len(kind) for kind in configuration(resources=resources).values())

    assert entries({"time": time, name: other}) == entries({"time": time, "harmless": other})


def test_no_name_of_a_replica_takes_the_place_of_anything_else() -> None:
    def entries(replica: str) -> int:
        url = "https://time.example.com/mcp"
        http = configuration(resources={"time": {"url": url, "replicas": {replica: "http://127.0.0.1:9001/mcp"}}})
        return sum(len(kind) for kind in http.values())

    assert {entries(name) for name in ("metadata", "any", "auth", "path", "by-grant", "visit", "a")} == {entries("b")}


def test_a_browser_at_a_servers_url_or_host_is_led_to_a_page_and_nothing_else_is() -> None:
    http = configuration()
    visit, root = http["routers"]["mcp.visit-time"], http["routers"]["mcp.root-time"]
    browser = (
        " && (Method(`GET`) || Method(`HEAD`)) && HeaderRegexp(`Accept`, `text/html`)"
        " && !HeaderRegexp(`Authorization`, `.`)"
    )
    assert visit["rule"] == http["routers"]["mcp-time"]["rule"] + browser
    assert root["rule"] == "Host(`time.mcp.example.com`) && (Path(`/`))" + browser
    for router, path in ((visit, "/visits/time/401"), (root, "/visits/time/200")):
        assert router["service"] == "mcp.auth-service"
        assert {"replacePath": {"path": path}} in [http["middlewares"][each] for each in router["middlewares"]]
        assert http["routers"]["mcp-time"]["priority"] < router["priority"] < http["routers"]["mcp.token"]["priority"]


def test_a_host_with_several_servers_or_the_gateways_pages_has_no_page_about_one() -> None:
    urls = {"a": "https://x.example.com/a", "b": "https://x.example.com/b", "c": "https://mcp.example.com/c"}
    resources = {name: {"url": url, "backends": ["http://127.0.0.1:9001/mcp"]} for name, url in urls.items()}
    routers = configuration(resources=resources)["routers"]
    assert not [name for name in routers if name.startswith("mcp.root-")]


def test_without_a_home_page_there_is_no_page_at_servers_urls() -> None:
    http = configuration(home_page={"enabled": False})
    assert not [name for name in http["routers"] if name.startswith(("mcp.visit-", "mcp.root-"))]
    assert "`/`)" not in "".join(router["rule"] for router in http["routers"].values())


def test_a_session_stays_on_its_replica_while_that_one_lives() -> None:
    url = "https://time.example.com/mcp"
    replicas = {"a": "http://10.0.0.1:9001/mcp", "b": "http://10.0.0.2:9001/mcp"}
    http = configuration(resources={"time": {"url": url, "replicas": replicas}})
    any_replica, of_a = http["routers"]["mcp-time"], http["routers"]["mcp-time.a"]
    assert of_a["rule"] == any_replica["rule"] + " && HeaderRegexp(`Mcp-Session-Id`, `^a[.]`)"
    assert of_a["priority"] > any_replica["priority"]
    assert of_a["middlewares"] == any_replica["middlewares"]
    assert http["services"]["mcp-time.a"] == {"failover": {"service": "mcp-time.a.only", "fallback": "mcp-time"}}
    assert http["services"]["mcp-time.a.only"]["loadBalancer"]["servers"] == [{"url": "http://10.0.0.1:9001"}]


def test_a_legacy_request_without_a_session_id_is_shown_to_one_replica_after_another() -> None:
    replicas = {"a": "http://10.0.0.1:9001/mcp", "b": "http://10.0.0.2:9001/mcp"}
    http = configuration(resources={"time": {"url": "https://time.example.com/mcp", "replicas": replicas}})
    by_grant, of_a = http["routers"]["mcp-time.by-grant.first"], http["routers"]["mcp-time.a"]
    assert by_grant["priority"] == of_a["priority"]
    # Traefik keeps such a request, and refuses one that is too large for that.
    refusals = ["mcp.by-grant-refusals" if each == "mcp.refusals" else each for each in of_a["middlewares"]]
    assert by_grant["middlewares"] == refusals
    assert http["middlewares"]["mcp.by-grant-refusals"]["errors"]["status"] == ["413", "502", "504"]
    asked, service = [], by_grant["service"]
    while "errors" in http["services"][service].get("failover", {}):
        failover = http["services"][service]["failover"]
        assert failover["errors"]["status"] == ["421"]
        asked.append(failover["service"])
        service = failover["fallback"]
    assert [*asked, service] == ["mcp-time", "mcp-time.a.only", "mcp-time.b.only", "mcp-time"]


def test_a_replica_that_answers_late_is_left_without_new_work_long_before_it_loses_its_sessions() -> None:
    replicas = {"a": "http://10.0.0.1:9001/mcp", "b": "http://10.0.0.2:9001/mcp"}
    http = configuration(resources={"time": {"url": "https://time.example.com/mcp", "replicas": replicas}})
    any_replica, of_a = (http["services"][name]["loadBalancer"] for name in ("mcp-time.any.live", "mcp-time.a.only"))
    assert [each["healthCheck"]["timeout"] for each in (any_replica, of_a)] == ["10s", "30s"]
    # A lost packet that asks for a connection is sent again after a second.
    assert http["serversTransports"][of_a["serversTransport"]]["forwardingTimeouts"]["dialTimeout"] == "2s"


def test_a_request_to_a_server_is_read_to_its_end_once_it_may_pass() -> None:
    wiki = {"url": "https://wiki.example.com/mcp", "backends": ["http://10.0.0.9:3000/mcp"]}
    time = {"url": "https://time.example.com/mcp", "replicas": {"a": "http://10.0.0.1:9001/mcp"}}
    http = configuration(resources={"wiki": wiki, "time": time})
    for name, router in http["routers"].items():
        through = router["middlewares"]
        if router["service"] == "mcp.auth-service":
            assert "mcp.whole-requests" not in through, name
        else:
            (auth,) = (each for each in through if each.endswith(".auth"))
            assert through.index(auth) < through.index("mcp.whole-requests"), name


def test_no_status_and_no_failure_makes_the_router_send_a_request_twice() -> None:
    retry = configuration()["middlewares"]["mcp.whole-requests"]["retry"]
    assert retry["disableRetryOnNetworkError"] is True
    # A status has three digits (RFC 9110 §15).
    assert all(int(status) > 999 for status in retry["status"])


def test_preflight_and_the_form_of_refusals_come_before_what_refuses() -> None:
    http = configuration()
    for name, router in http["routers"].items():
        chain = [next(iter(http["middlewares"][each])) for each in router["middlewares"] if each != "mcp.hsts"]
        if name == "mcp.authorization":
            assert chain == ["headers", "errors", "rateLimit", "buffering"]
            assert router["middlewares"][-4] == "mcp.pages"  # without CORS headers
        elif router["service"] == "mcp.auth-service":
            assert chain[:4] == ["headers", "errors", "rateLimit", "buffering"]
        else:
            assert chain[:3] == ["headers", "errors", "forwardAuth"]


def test_what_nothing_else_takes_leads_to_one_refusal_whatever_its_path() -> None:
    http = configuration()
    router = http["routers"]["mcp.not-found"]
    assert router["rule"] == "Host(`mcp.example.com`) || Host(`time.mcp.example.com`)"
    assert router["priority"] == 1  # below everything of the operator's
    assert http["middlewares"]["mcp.not-found"] == {"replacePath": {"path": "/refusals/nowhere/404"}}
    assert router["middlewares"][-1] == "mcp.not-found"


def test_every_public_router_has_a_rate_limit() -> None:
    http = configuration()
    for name, router in http["routers"].items():
        limited = any("rateLimit" in http["middlewares"][each] for each in router["middlewares"])
        assert limited == (router["service"] == "mcp.auth-service"), name


def test_registering_is_limited_tightly_and_tokens_generously() -> None:
    middlewares = configuration()["middlewares"]
    registration, token = (middlewares[f"mcp.{group}-rate"]["rateLimit"] for group in ("registration", "token"))
    assert registration["average"] < token["average"]
    assert registration["burst"] < token["burst"]


def test_rates_are_counted_by_the_address_that_can_be_believed() -> None:
    def source(**router: Any) -> dict[str, Any]:
        router = {"entry_points": ["web"], **router}
        limit = configuration(router=router)["middlewares"]["mcp.token-rate"]["rateLimit"]
        strategy: dict[str, Any] = limit["sourceCriterion"]["ipStrategy"]
        return strategy

    assert source() == {"ipv6Subnet": 64}
    assert source(trusted_proxies=["10.0.0.0/8"]) == {"excludedIPs": ["10.0.0.0/8"]}


def test_the_pages_are_balanced_over_the_live_instances() -> None:
    instances = ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
    services = configuration(instances=instances)["services"]
    failover = services["mcp.auth-service"]["failover"]
    ready, any_instance = (services[failover[each]]["loadBalancer"] for each in ("service", "fallback"))
    assert ready["servers"] == any_instance["servers"] == [{"url": url} for url in instances]
    assert ready["healthCheck"]["path"] == "/readyz"
    assert "healthCheck" not in any_instance


def test_a_server_without_a_live_replica_is_refused_by_a_service_that_has_none() -> None:
    time = {"url": "https://time.example.com/mcp", "replicas": {"a": "http://10.0.0.1:9001/mcp"}}
    http = configuration(resources={"time": time})
    assert http["services"]["mcp-time"] == {"failover": {"service": "mcp-time.any.live", "fallback": "mcp.no-replica"}}
    assert http["services"]["mcp.no-replica"]["loadBalancer"]["servers"] == []
    # A bridge's own 503 says more: nothing else takes its place.
    catching = [name for name, each in http["middlewares"].items() if "503" in each.get("errors", {}).get("status", [])]
    assert catching == ["mcp.no-replica"]
    assert all("mcp.no-replica" not in router["middlewares"] for router in http["routers"].values())


def test_what_another_host_does_not_take_is_sent_again_and_nothing_else() -> None:
    instances = ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
    wiki = {"url": "https://wiki.example.com/mcp", "backends": ["http://10.0.0.9:3000/mcp"]}
    time = {"url": "https://time.example.com/mcp", "replicas": {"a": "http://10.0.0.1:9001/mcp"}}
    http = configuration(instances=instances, resources={"wiki": wiki, "time": time})
    assert "status" not in http["middlewares"]["mcp.other-hosts"]["retry"]
    for name, router in http["routers"].items():
        # Last, so that nobody is asked twice whether the request may pass.
        assert (router["middlewares"][-1] == "mcp.other-hosts") == (router["service"] != "mcp-wiki"), name
    alone = configuration()
    assert all("mcp.other-hosts" not in router["middlewares"] for router in alone["routers"].values())


def test_a_backend_with_files_of_its_own_has_a_transport_of_its_own_and_no_other_has() -> None:
    tls = {
        "ca_file": "/run/credentials/traefik.service/ca",
        "certificate_file": "/run/credentials/traefik.service/certificate",
        "key_file": "/run/credentials/traefik.service/key",
    }
    wiki = {"url": "https://wiki.example.com/mcp", "backends": ["https://10.0.0.5/mcp"], "backend_tls": tls}
    http = configuration(resources={**MINIMAL["resources"], "wiki": wiki})
    assert http["services"]["mcp-wiki"]["loadBalancer"]["serversTransport"] == "mcp-wiki"
    assert http["serversTransports"]["mcp-wiki"] == {
        "rootCAs": [tls["ca_file"]],
        "certificates": [{"certFile": tls["certificate_file"], "keyFile": tls["key_file"]}],
    }
    assert "serversTransport" not in http["services"]["mcp-time"]["loadBalancer"]
    assert not any("insecureSkipVerify" in transport for transport in http["serversTransports"].values())


def test_the_routes_say_nothing_of_the_gateways_own_token() -> None:
    wiki = {"url": "https://wiki.example.com/mcp", "backends": ["https://10.0.0.5/mcp"]}
    with_token, without = (
        configuration(resources={"wiki": {**wiki, "backend_credential": present}}) for present in (True, False)
    )
    assert with_token == without
