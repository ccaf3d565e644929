"""Clients' documents on hosts of all kinds: with no route, with an internet, and with a proxy as the only way out.

Each test has a network namespace of its own. Names come from its hosts file, by the system's own resolver; what has a
public address there is a server inside.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from auth_service.settings import DEFAULT_PROBE_URLS
from tests.internet import PUBLIC_ADDRESS, Authority
from tests.systemd.network import NetworkNamespace

from .conftest import PROJECT, Place, Service, eventually

HOSTS = [urlsplit(url).hostname or "" for url in DEFAULT_PROBE_URLS]
PROXY_PORT = 3128
INTERNAL_ADDRESS = "127.0.0.2"
"""Where the server really is that the proxy leads to, while no route leads to its public address."""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))),
    reason="network namespaces need root, and iproute2",
)


class Host:
    """A host without a route to anywhere, and the service on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exit = ExitStack()
        self._network = NetworkNamespace()
        self._exit.callback(self._network.close)
        self._hosts = folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        authority = Authority(folder)
        (folder / "authority.pem").write_bytes(authority.certificate)
        authority.server_context(*HOSTS)
        self._certificate = str(next(folder.glob("*-*.pem")))
        # Bound onto itself first: what is written to the file later is seen inside.
        script = 'mount --make-rprivate / && mount --bind "$0" /etc/hosts && exec "$@"'
        inside = ("nsenter", f"--net={self._network.path}", "--")
        self._within = (*inside, "unshare", "--mount", "/bin/sh", "-c", script, str(self._hosts))

    def start(self, place: Place, **changes: Any) -> Service:
        """Start the service here."""
        environment = {"SSL_CERT_FILE": str(self._folder / "authority.pem")}
        return place.start(ready=False, within=self._within, environment=environment, **changes)

    def serve_documents(self, address: str) -> None:
        """Have a server at an address of this host."""
        self._run("tests.service.document_server", self._certificate, address)

    def run_proxy(self) -> None:
        """Have a proxy on loopback, which leads to the server at INTERNAL_ADDRESS whatever it is told."""
        self._run("tests.connect_proxy", str(PROXY_PORT), f"{INTERNAL_ADDRESS}:443")

    def own(self, address: str) -> None:
        """Make a public address lead to this host itself."""
        self._network.run("ip", "address", "add", f"{address}/32", "dev", "lo")

    def name(self, address: str) -> None:
        """Let the names of all probed documents mean an address."""
        self._hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host in HOSTS))

    def get(self, service: Service, path: str) -> str:
        """Return what the service answers on this host, also with an error."""
        script = (
            "import requests, sys\n"
            "answer = requests.get(sys.argv[1], timeout=60)\n"
            "print(answer.text if answer.status_code < 500 else '')"
        )
        return self._output(sys.executable, "-c", script, f"{service.issuer}{path}")

    def offers_documents(self, service: Service) -> list[bool]:
        """Return what several connections, and so all workers, say of documents."""
        path = "/.well-known/oauth-authorization-server"
        answers = [json.loads(self.get(service, path)) for _ in range(4)]
        return sorted({answer["client_id_metadata_document_supported"] for answer in answers})

    def examine(self) -> dict[str, str]:
        """Return what the doctor finds about documents, on this host."""
        command = (sys.executable, "-m", "auth_service.cli", "doctor", "--json")
        files = ("--settings", str(self._folder / "settings.json"), "--credentials", str(self._folder))
        environment = {"SSL_CERT_FILE": str(self._folder / "authority.pem")}
        done = subprocess.run(
            (*self._within, *command, *files),
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            check=False,
        )
        found: list[dict[str, str]] = json.loads(done.stdout)
        return next(finding for finding in found if finding["check"] == "client documents")

    def _output(self, *command: str) -> str:
        done = subprocess.run((*self._within, *command), capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else "null"

    def _run(self, module: str, *arguments: str) -> None:
        process = subprocess.Popen(
            (*self._within, sys.executable, "-m", module, *arguments), cwd=PROJECT, stdout=subprocess.PIPE
        )
        self._exit.enter_context(process)
        self._exit.callback(process.terminate)
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"

    def close(self) -> None:
        """End everything on it, and the host."""
        self._exit.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def waits_for(host: Host, service: Service, text: str) -> None:
    eventually(lambda: text in service.log.read_text(), service.log.read_text)
    eventually(lambda: host.get(service, "/readyz") == '{"redis":true}\n', service.log.read_text)


def test_a_host_without_a_route_offers_no_documents_and_clients_can_register(host: Host, place: Place) -> None:
    service = host.start(place)
    waits_for(host, service, "documents cannot be fetched")
    assert host.offers_documents(service) == [False]
    assert "its host was not found on the public internet (" in service.log.read_text()
    page = host.get(service, f"/authorize?client_id={DEFAULT_PROBE_URLS[0]}")
    assert "codex mcp login NAME --oauth-client-registration dcr" in page
    found = host.examine()
    assert found["status"] == "warning"
    assert DEFAULT_PROBE_URLS[0] in found["text"]


def test_a_host_that_gets_a_way_out_offers_documents_after_a_reload(host: Host, place: Place) -> None:
    service = host.start(place)
    waits_for(host, service, "documents cannot be fetched")
    host.own(PUBLIC_ADDRESS)
    host.serve_documents(PUBLIC_ADDRESS)
    host.name(PUBLIC_ADDRESS)
    service.process.send_signal(signal.SIGHUP)
    waits_for(host, service, "documents can be fetched")
    eventually(lambda: host.offers_documents(service) == [True], service.log.read_text)
    assert host.examine()["status"] == "ok"


def test_names_that_mean_internal_addresses_offer_no_documents(host: Host, place: Place) -> None:
    host.serve_documents(INTERNAL_ADDRESS)
    host.name(INTERNAL_ADDRESS)
    service = host.start(place)
    waits_for(host, service, "documents cannot be fetched")
    assert host.offers_documents(service) == [False]


def test_a_proxy_is_a_way_out_for_a_host_that_can_resolve_names(host: Host, place: Place) -> None:
    host.serve_documents(INTERNAL_ADDRESS)
    host.run_proxy()
    host.name(PUBLIC_ADDRESS)  # to which no route leads
    service = host.start(place, client_documents={"proxy": f"http://127.0.0.1:{PROXY_PORT}"})
    waits_for(host, service, "documents can be fetched")
    eventually(lambda: host.offers_documents(service) == [True], service.log.read_text)
    found = host.examine()
    assert (found["status"], found["text"]) == ("ok", f"can be fetched through http://127.0.0.1:{PROXY_PORT}")


def test_a_proxy_is_no_way_out_for_names_that_this_host_cannot_check(host: Host, place: Place) -> None:
    host.serve_documents(INTERNAL_ADDRESS)
    host.run_proxy()
    service = host.start(place, client_documents={"proxy": f"http://127.0.0.1:{PROXY_PORT}"})
    waits_for(host, service, "documents cannot be fetched")
    assert host.offers_documents(service) == [False]


def test_a_proxy_that_resolves_names_is_a_way_out_for_a_host_that_cannot(host: Host, place: Place) -> None:
    host.serve_documents(INTERNAL_ADDRESS)
    host.run_proxy()
    proxy = {"proxy": f"http://127.0.0.1:{PROXY_PORT}", "proxy_resolves_names": True}
    service = host.start(place, client_documents=proxy)
    waits_for(host, service, "documents can be fetched")
    eventually(lambda: host.offers_documents(service) == [True], service.log.read_text)
