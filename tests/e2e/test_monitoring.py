"""A real Prometheus scrapes the local stack: what alerts and dashboard ask for is there, and every rule evaluates."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from auth_service import cli
from local.options import require_program
from local.ports import free_port
from tests.stdio_bridge.running import Bridge

from .conftest import RunningStack
from .flow import MCP_HEADERS, initialize, log_in

PROJECT = Path(__file__).parents[2]
ALERTS = PROJECT / "monitoring/alerts.yaml"
DASHBOARD = PROJECT / "monitoring/dashboards/mcp-gateway.json"
EVALUATED = PROJECT / "tests/systemd/evaluated/github.json"
WAIT_SECONDS = 60
NEEDED = ("prometheus", "prometheus-node-exporter")

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)), reason="Debian's prometheus or prometheus-node-exporter is not installed"
    ),
    # The first test starts everything.
    pytest.mark.timeout(300),
]


def eventually(condition: Callable[[], object], explain: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


class Prometheus:
    """A Prometheus with the jobs that the module writes, whose targets are those of the local stack."""

    def __init__(self, folder: Path, targets: dict[str, list[dict[str, Any]]]) -> None:
        files = json.loads(EVALUATED.read_text())["files"]
        (written,) = (json.loads(text) for name, text in files.items() if name.endswith("-prometheus.yml"))
        jobs = written["scrape_configs"]
        assert [job["job_name"] for job in jobs] == list(targets)
        for job in jobs:
            job["static_configs"] = targets[job["job_name"]]
        # A container has no systemd to ask.
        jobs[1]["params"]["collect[]"].remove("systemd")
        document = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(json.dumps(document))
        self._url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("w+")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer, or None while Prometheus does not answer."""
        try:
            answer = requests.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=WAIT_SECONDS)
        except requests.ConnectionError:
            assert self._process.poll() is None, self.log()
            return None
        if answer.status_code == 503:
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        data = self.ask("query", query=expression)
        return [] if data is None else list(data["result"])

    def targets(self) -> dict[str, str]:
        """Return the health of each target, with the error if there is one."""
        data = self.ask("targets")
        active = [] if data is None else data["activeTargets"]
        return {target["scrapeUrl"]: f"{target['health']} {target['lastError']}".strip() for target in active}

    def rules(self) -> list[dict[str, Any]]:
        data = self.ask("rules")
        return [] if data is None else [rule for group in data["groups"] for rule in group["rules"]]

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)
        self._log.close()


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and end it in the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that expires in two days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mcp.example.com")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mcp.example.com")]), critical=False)
        .sign(key, SHA256())
    )
    files = folder / "server.crt", folder / "server.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def start_router(
    folder: Path, backend: str, metrics_port: int
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a Traefik with metrics, a certificate, and a backend whose health it checks."""
    certificate, key = make_certificate(folder)
    dynamic = {
        "tls": {"certificates": [{"certFile": str(certificate), "keyFile": str(key)}]},
        "http": {
            "routers": {"mcp-time": {"rule": "PathPrefix(`/`)", "service": "mcp-time", "tls": {}}},
            "services": {
                "mcp-time": {
                    "loadBalancer": {
                        "servers": [{"url": backend}],
                        "healthCheck": {"path": "/healthz", "interval": "1s", "timeout": "10s"},
                    }
                }
            },
        },
    }
    static = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": {
            "websecure": {"address": f"127.0.0.1:{free_port()}"},
            "mcp-metrics": {"address": f"127.0.0.1:{metrics_port}"},
        },
        "metrics": {"prometheus": {"entryPoint": "mcp-metrics"}},
        "providers": {"file": {"filename": str(folder / "dynamic.yaml")}},
    }
    (folder / "dynamic.yaml").write_text(json.dumps(dynamic))
    (folder / "static.json").write_text(json.dumps(static))
    return started(require_program("traefik", needed_by="this test"), f"--configFile={folder / 'static.json'}")


def use(stack: RunningStack) -> None:
    """Log in, call a tool with success and one that does not exist, and be refused without a token."""
    resource = stack.resource("time")
    tokens = log_in(stack.issuer, resource)
    opened = initialize(resource, tokens.access_token)
    assert opened.status_code == 200
    session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "Authorization": f"Bearer {tokens.access_token}"}
    for tool in ("get_current_time", "invented"):
        call = {"name": tool, "arguments": {"timezone": "UTC"}}
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        assert requests.post(resource, json=body, headers={**MCP_HEADERS, **session}, timeout=60).status_code == 200
    assert initialize(resource, None).status_code == 401


@pytest.fixture(scope="module")
def router_and_prometheus(
    stack: RunningStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], Prometheus]]:
    folder = tmp_path_factory.mktemp("monitoring")
    settings = json.loads((stack.state_directory / "settings.json").read_text())
    addresses = {
        name: resource["backends"][0].split("/")[2]
        for name, resource in settings["resources"].items()
        if name != "echo"  # speaks HTTP and has no bridge
    }
    use(stack)
    health = ["health", "--metrics-file", str(folder / "mcp-gateway.prom"), "time"]
    files = stack.state_directory / "settings.json", stack.state_directory / "credentials/master-key"
    assert cli.main([*health, "--settings", str(files[0]), "--master-key", str(files[1])]) == 0
    (folder / "tools.json").write_text('{"tools": {}, "version": 1}')
    router_port, node_port = free_port(), free_port()
    with contextlib.ExitStack() as running:
        # One with a lock file and records, which no bridge of the stack has.
        options = ("--tools-lock", str(folder / "tools.json"), "--call-records", str(folder / "calls.jsonl"))
        locked = running.enter_context(Bridge("--no-identity", *options))
        addresses["locked"] = f"127.0.0.1:{locked.port}"
        running.enter_context(
            started(
                "prometheus-node-exporter",
                f"--web.listen-address=127.0.0.1:{node_port}",
                f"--collector.textfile.directory={folder}",
            )
        )
        router = running.enter_context(start_router(folder, f"http://{addresses['time']}", router_port))
        targets: dict[str, list[dict[str, Any]]] = {
            "mcp-gateway": [
                {"targets": [settings["listen"]], "labels": {"part": "auth"}},
                {"targets": [f"127.0.0.1:{router_port}"], "labels": {"part": "router"}},
                *(
                    {"targets": [address], "labels": {"part": "bridge", "server": name}}
                    for name, address in addresses.items()
                ),
            ],
            "mcp-gateway-host": [{"targets": [f"127.0.0.1:{node_port}"]}],
        }
        prometheus = Prometheus(folder, targets)
        running.callback(prometheus.stop)
        eventually(
            lambda: [*prometheus.targets().values()] == ["up"] * (len(addresses) + 3),
            lambda: f"{prometheus.targets()}\n{prometheus.log()}",
        )
        yield router, prometheus


@pytest.fixture(scope="module")
def prometheus(router_and_prometheus: tuple[subprocess.Popen[bytes], Prometheus]) -> Prometheus:
    return router_and_prometheus[1]


def named_metrics() -> set[str]:
    """Return every metric that an alert or a panel asks for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    rules = re.sub(r"^\s*(?:#|summary|description|runbook).*$", "", ALERTS.read_text(), flags=re.MULTILINE)
    without_strings = re.sub(r'"[^"]*"', "", " ".join([*queries, rules]))
    return set(re.findall(r"\b(?:mcp|traefik|node)_\w+", without_strings))


def test_every_metric_that_an_alert_or_a_panel_names_is_there(prometheus: Prometheus) -> None:
    # What systemd knows of units, and of bridges that sleep, nobody can ask without it.
    named = named_metrics() - {"node_systemd_unit_state", "mcp_bridge_asleep"}
    assert len(named) > 30

    def missing() -> list[str]:
        return [name for name in sorted(named) if not prometheus.query(f"count({name})")]

    eventually(lambda: missing() == [], missing)


def test_every_alert_is_evaluated_and_a_certificate_that_soon_expires_raises_one(prometheus: Prometheus) -> None:
    eventually(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, prometheus.rules)
    assert len(prometheus.rules()) == ALERTS.read_text().count("- alert: ")
    eventually(
        lambda: "McpCertificateExpires" in {rule["name"] for rule in prometheus.rules() if rule["alerts"]},
        prometheus.rules,
    )


def test_calls_are_counted_by_the_tool_of_the_server(prometheus: Prometheus) -> None:
    calls = prometheus.query('mcp_bridge_calls_total{server="time", method="tools/call"}')
    found = {(each["metric"]["tool"], each["metric"]["outcome"]): float(each["value"][1]) for each in calls}
    assert found["get_current_time", "ok"] >= 1
    assert "invented" not in {tool for tool, _ in found}


def test_every_panel_can_be_drawn(prometheus: Prometheus) -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "5m").replace("$server", ".*")
            assert prometheus.ask("query", query=query) is not None, panel["title"]


def test_a_router_that_ends_raises_an_alert(router_and_prometheus: tuple[subprocess.Popen[bytes], Prometheus]) -> None:
    router, prometheus = router_and_prometheus
    router.terminate()
    router.wait(WAIT_SECONDS)

    def find_alert() -> list[dict[str, Any]]:
        return [alert for rule in prometheus.rules() if rule["name"] == "McpRouterDown" for alert in rule["alerts"]]

    eventually(find_alert, prometheus.rules)
    (alert,) = find_alert()
    assert alert["labels"]["part"] == "router"
    assert alert["annotations"]["summary"] == f"Traefik at {alert['labels']['instance']} does not answer"
