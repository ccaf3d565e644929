"""Metadata offers client documents only while they can be fetched, as clients that rely on it do not register."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import time_machine

from auth_service.oauth.document_probe import FAILURES_TO_BELIEVE, INTERVAL_SECONDS, RETRY_SECONDS, DocumentProbe
from auth_service.oauth.safe_fetch import SafeFetcher
from auth_service.settings import DEFAULT_PROBE_URLS, Settings
from tests.conftest import RedisServer
from tests.internet import Internet, internet, respond, respond_json

from .conftest import ISSUER, OAuthTestClient

HOSTS = [urlsplit(url).hostname or "" for url in DEFAULT_PROBE_URLS]
CLIENT = DEFAULT_PROBE_URLS[0]
DOCUMENT: dict[str, Any] = {
    "client_id": CLIENT,
    "client_name": "Claude Code",
    "redirect_uris": ["http://127.0.0.1/callback"],
    "token_endpoint_auth_method": "none",
}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with internet(tmp_path, *HOSTS, "client.example.com") as made:
        for url in DEFAULT_PROBE_URLS:
            made.pages[urlsplit(url).path] = respond_json(DOCUMENT, cache_control="no-store")
        yield made


@pytest.fixture
def fetcher(net: Internet) -> SafeFetcher:
    return net.fetcher(deadline=2)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(1_900_000_000, tick=False) as traveller:
        yield traveller


@pytest.fixture
def make_probe(settings: Settings, oauth: OAuthTestClient, fetcher: SafeFetcher) -> Any:
    def make(*, through: SafeFetcher = fetcher, **changes: Any) -> DocumentProbe:
        changed = Settings.model_validate({**settings.model_dump(), **changes})
        return DocumentProbe(changed, oauth.store.redis, oauth.store.locks, fetcher=through)

    return make


def probe_of(oauth: OAuthTestClient) -> DocumentProbe:
    probe: DocumentProbe = oauth.app.extensions["gateway"].probe
    return probe


def advertised(oauth: OAuthTestClient) -> bool:
    """Return what metadata says, which is the same in each of its documents."""
    paths = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
    documents = [oauth.browser.get(path, base_url=ISSUER).get_json() for path in paths]
    assert documents[0] == documents[1]
    said: bool = documents[0]["client_id_metadata_document_supported"]
    return said


def cut_off(net: Internet) -> None:
    net.addresses.clear()


def connect_again(net: Internet) -> None:
    net.addresses.update(dict.fromkeys(HOSTS, ("93.184.215.14",)))


def test_documents_are_offered_once_each_of_the_known_ones_was_fetched(oauth: OAuthTestClient, net: Internet) -> None:
    assert not advertised(oauth)
    probe_of(oauth).probe_if_due()
    assert advertised(oauth)
    assert sorted(net.resolved) == sorted(HOSTS)
    assert all(address == ("93.184.215.14", 443) for address in net.connected)


@pytest.mark.parametrize("addresses", [(), ("10.0.0.1",), ("64:ff9b::5db8:d70e",), ("198.18.0.7",)])
def test_a_host_that_resolves_no_names_or_only_to_others_addresses_offers_none(
    oauth: OAuthTestClient, net: Internet, addresses: tuple[str, ...]
) -> None:
    net.addresses.update(dict.fromkeys(HOSTS, addresses))
    probe_of(oauth).probe_if_due()
    assert not advertised(oauth)
    assert net.connected == []


@pytest.mark.parametrize("status", ["403 Forbidden", "429 Too Many Requests", "503 Busy", "302 Found"])
def test_a_host_that_one_publisher_refuses_offers_none(oauth: OAuthTestClient, net: Internet, status: str) -> None:
    net.pages[urlsplit(CLIENT).path] = respond(b"{}", status=status)
    probe_of(oauth).probe_if_due()
    assert not advertised(oauth)


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_document_that_has_moved_does_not_count_as_a_failure(
    oauth: OAuthTestClient, net: Internet, status: str
) -> None:
    net.pages[urlsplit(CLIENT).path] = respond(b"", status=status)
    probe_of(oauth).probe_if_due()
    assert advertised(oauth)


def test_an_authority_that_is_not_trusted_on_the_way_offers_none(
    oauth: OAuthTestClient, net: Internet, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with internet(tmp_path / "other", *HOSTS) as other:
        net.tls = other.tls
        probe_of(oauth).probe_if_due()
    assert not advertised(oauth)


def test_one_failed_probe_changes_nothing_and_three_withdraw_the_offer(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    probe = probe_of(oauth)
    probe.probe_if_due()
    cut_off(net)
    clock.shift(INTERVAL_SECONDS)
    for _ in range(FAILURES_TO_BELIEVE - 1):
        probe.probe_if_due()
        assert advertised(oauth)
        clock.shift(RETRY_SECONDS)
    probe.probe_if_due()
    assert not advertised(oauth)
    connect_again(net)
    clock.shift(RETRY_SECONDS)
    probe.probe_if_due()
    assert advertised(oauth)


def test_failures_with_a_success_between_them_do_not_add_up(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    probe = probe_of(oauth)
    probe.probe_if_due()
    for _ in range(2 * FAILURES_TO_BELIEVE):
        clock.shift(INTERVAL_SECONDS)
        cut_off(net)
        probe.probe_if_due()
        clock.shift(RETRY_SECONDS)
        connect_again(net)
        probe.probe_if_due()
        assert advertised(oauth)


def test_each_document_is_asked_for_once_in_ten_minutes_by_however_many_workers(
    oauth: OAuthTestClient, net: Internet, make_probe: Any, clock: time_machine.Traveller
) -> None:
    workers = [probe_of(oauth), make_probe(), make_probe()]
    for _ in range(INTERVAL_SECONDS):
        for worker in workers:
            worker.probe_if_due()
        clock.shift(1)
    assert sorted(net.resolved) == sorted(HOSTS)
    for worker in workers:
        worker.refresh()
    assert all(worker.works for worker in workers)


def test_a_host_that_stays_cut_off_is_asked_less_and_less_often(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    cut_off(net)
    for _ in range(3600):
        probe_of(oauth).probe_if_due()
        clock.shift(1)
    assert 12 <= len(net.resolved) / len(HOSTS) <= 20


def test_a_document_that_a_login_needs_is_proof_for_its_host(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    assert oauth.authorize(CLIENT).status_code == 200
    net.resolved.clear()
    probe_of(oauth).probe_if_due()
    assert sorted(net.resolved) == sorted(HOSTS[1:])
    clock.shift(INTERVAL_SECONDS - 1)
    assert oauth.authorize(CLIENT).status_code == 200
    net.addresses[HOSTS[0]] = ()  # it has just worked, so that it is not asked
    clock.shift(1)
    for _ in range(FAILURES_TO_BELIEVE):
        probe_of(oauth).probe_if_due()
        clock.shift(RETRY_SECONDS)
    assert advertised(oauth)


def test_a_document_of_a_strangers_host_is_no_proof_and_its_absence_no_failure(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    stranger = "https://client.example.com/client.json"
    net.pages["/client.json"] = respond_json({**DOCUMENT, "client_id": stranger}, cache_control="no-store")
    probe_of(oauth).probe_if_due()
    for _ in range(2 * FAILURES_TO_BELIEVE):
        oauth.authorize("https://client.example.com/nothing")
    clock.shift(RETRY_SECONDS)
    probe_of(oauth).probe_if_due()
    assert advertised(oauth)
    for host in HOSTS:
        net.addresses[host] = ()
    clock.shift(INTERVAL_SECONDS)
    for _ in range(FAILURES_TO_BELIEVE):
        assert oauth.authorize(stranger).status_code == 200
        probe_of(oauth).probe_if_due()
        clock.shift(RETRY_SECONDS)
    assert not advertised(oauth)
    assert net.resolved.count("client.example.com") == 3 * FAILURES_TO_BELIEVE


def test_instances_behind_one_name_say_the_same_which_is_no_while_one_is_cut_off(
    oauth: OAuthTestClient, net: Internet, make_probe: Any, clock: time_machine.Traveller
) -> None:
    here, there = probe_of(oauth), make_probe(listen="10.0.0.2:9000")
    here.probe_if_due()
    there.refresh()
    assert there.works  # as `here` has found: it takes part as soon as it has probed itself
    cut_off(net)
    there.probe_if_due()
    here.refresh()
    assert (here.works, there.works) == (False, False)
    connect_again(net)
    clock.shift(RETRY_SECONDS)
    there.probe_if_due()
    here.refresh()
    assert (here.works, there.works) == (True, True)


def test_an_instance_that_is_gone_is_not_waited_for(
    oauth: OAuthTestClient, net: Internet, make_probe: Any, clock: time_machine.Traveller
) -> None:
    cut_off(net)
    make_probe(listen="10.0.0.2:9000").probe_if_due()
    connect_again(net)
    probe_of(oauth).probe_if_due()
    assert not advertised(oauth)
    clock.shift(INTERVAL_SECONDS)
    probe_of(oauth).probe_if_due()
    assert advertised(oauth)


def test_a_restarted_service_continues_with_the_stored_result(
    oauth: OAuthTestClient, net: Internet, make_probe: Any
) -> None:
    probe_of(oauth).probe_if_due()
    net.resolved.clear()
    restarted = make_probe()
    restarted.refresh()
    restarted.probe_if_due()
    assert restarted.works
    assert net.resolved == []


def test_a_service_that_starts_again_or_with_other_settings_probes_at_once_if_it_did_not_work(
    oauth: OAuthTestClient, net: Internet, make_probe: Any
) -> None:
    cut_off(net)
    probe_of(oauth).probe_if_due()
    connect_again(net)
    restarted = make_probe()
    restarted.probe_if_due()
    assert restarted.works
    net.resolved.clear()
    make_probe(client_documents={"probe_urls": [CLIENT]}).probe_if_due()
    assert net.resolved == HOSTS[:1]


def test_a_clock_that_is_set_back_puts_off_no_probe(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller
) -> None:
    probe_of(oauth).probe_if_due()
    net.resolved.clear()
    clock.shift(-7 * 86400)
    probe_of(oauth).probe_if_due()
    assert sorted(net.resolved) == sorted(HOSTS)


def test_metadata_is_answered_as_before_while_redis_does_not(
    oauth: OAuthTestClient, redis_server: RedisServer, net: Internet
) -> None:
    probe_of(oauth).probe_if_due()
    redis_server.stop()
    try:
        assert advertised(oauth)
    finally:
        redis_server.start()


def test_the_log_says_once_that_documents_cannot_be_fetched_and_what_to_do(
    oauth: OAuthTestClient, net: Internet, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cut_off(net)
    for _ in range(10):
        probe_of(oauth).probe_if_due()
        clock.shift(INTERVAL_SECONDS)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert CLIENT in warning
    assert "its host was not found on the public internet (" in warning
    assert "client_documents.proxy" in warning


class TestConfined:
    """A gateway whose operator names the hosts that may describe clients."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        documents = {"allowed_hosts": ["vscode.dev", "client.example.com"]}
        return Settings.model_validate({**settings.model_dump(), "client_documents": documents})

    def test_only_documents_at_these_hosts_are_probed(self, oauth: OAuthTestClient, net: Internet) -> None:
        probe_of(oauth).probe_if_due()
        assert net.resolved == ["vscode.dev"]
        assert advertised(oauth)

    def test_the_page_of_another_client_names_the_list_and_how_to_register(
        self, oauth: OAuthTestClient, net: Internet
    ) -> None:
        page = oauth.authorize(CLIENT).text
        assert "claude.ai is not in clientDocuments.allowedHosts" in page
        assert "codex mcp login NAME --oauth-client-registration dcr" in page
        assert net.resolved == []


class TestConfinedToOthers:
    """One whose list leaves out every document that is known here."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        documents = {"allowed_hosts": ["client.example.com"]}
        return Settings.model_validate({**settings.model_dump(), "client_documents": documents})

    def test_any_answer_of_these_hosts_will_do(self, oauth: OAuthTestClient, net: Internet) -> None:
        net.pages["/"] = respond(b"<html>", content_type="text/html")
        probe_of(oauth).probe_if_due()
        assert net.asked_for == ["/"]
        assert advertised(oauth)

    def test_no_answer_will_not(self, oauth: OAuthTestClient, net: Internet) -> None:
        cut_off(net)
        probe_of(oauth).probe_if_due()
        assert not advertised(oauth)


class TestDisabled:
    """A gateway that fetches nothing for strangers."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings.model_validate({**settings.model_dump(), "client_documents": {"enabled": False}})

    def test_nothing_is_probed_and_none_are_offered(self, oauth: OAuthTestClient, net: Internet) -> None:
        probe_of(oauth).probe_if_due()
        probe_of(oauth).refresh()
        assert not advertised(oauth)
        assert net.resolved == []

    def test_the_page_says_that_they_are_off_and_not_that_a_registration_has_expired(
        self, oauth: OAuthTestClient
    ) -> None:
        page = oauth.authorize(CLIENT)
        assert page.status_code == 400
        assert "This gateway does not accept client documents" in page.text
        assert "registration has expired" not in page.text
        assert "claude mcp logout NAME" in page.text
        assert "codex mcp login NAME --oauth-client-registration dcr" in page.text
        assert "clientDocuments.enable" in page.text

    def test_the_token_endpoint_has_such_a_client_register(self, oauth: OAuthTestClient) -> None:
        answer = oauth.redeem(CLIENT, "code")
        assert (answer.status_code, answer.get_json()["error"]) == (401, "invalid_client")
        assert "register" in answer.get_json()["error_description"]


def test_the_page_of_a_document_that_cannot_be_fetched_names_the_way_out_and_how_to_register(
    oauth: OAuthTestClient, net: Internet
) -> None:
    cut_off(net)
    page = oauth.authorize(CLIENT)
    assert page.status_code == 400
    for text in (
        "claude mcp logout NAME",
        "codex mcp login NAME --oauth-client-registration dcr",
        "outgoing https to claude.ai",
        "clientDocuments.proxy",
        "mcp-gatewayctl doctor",
    ):
        assert text in page.text
    assert "registration has expired" not in page.text


def test_a_worker_that_another_keeps_waiting_probes_nothing(
    oauth: OAuthTestClient, net: Internet, make_probe: Any
) -> None:
    class Nested(SafeFetcher):
        """Lets another worker try while this one is at it."""

        def fetch(self, *arguments: Any, **options: Any) -> Any:
            make_probe().probe_if_due()
            return net.fetcher().fetch(*arguments, **options)

    probe = make_probe(through=Nested())
    probe.probe_if_due()
    assert sorted(net.resolved) == sorted(HOSTS)
    assert probe.works
