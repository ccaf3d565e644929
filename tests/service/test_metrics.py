"""What Prometheus and the service manager are told of a service with several workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from auth_service.ops.audit import Event
from tests.disk import small_disk

from .conftest import WORKERS, Place, Service, eventually


def read(service: Service) -> dict[tuple[str, ...], float]:
    """Return every value by its name and its labels' values."""
    answer = requests.get(f"http://127.0.0.1:{service.port}/metrics", timeout=60)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def replace_workers(service: Service) -> None:
    before = set(service.workers())
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: not before & set(service.workers()) and len(service.workers()) == WORKERS)
    eventually(service.is_ready)


def test_any_worker_answers_for_all_of_them_and_for_those_that_are_gone(place: Place) -> None:
    service = place.start()
    tokens = service.log_in()
    for connection in service.connect_to_all():
        assert [connection.verify(tokens.access_token), connection.verify("bad")] == [200, 401]
        connection.close()
    expected: dict[tuple[str, ...], float] = {
        ("mcp_gateway_verify_total", "passed", "time"): float(WORKERS),
        ("mcp_gateway_verify_total", "time", "unknown_key"): float(WORKERS),
        ("mcp_gateway_events_total", "client.registered"): 1.0,
        ("mcp_gateway_events_total", "login.accepted"): 1.0,
        ("mcp_gateway_events_total", "token.issued"): 1.0,
        ("mcp_gateway_http_request_seconds_count", "200", "token"): 1.0,
        ("mcp_gateway_grants",): 1.0,
        **{("mcp_gateway_redis_up", str(slot)): 1.0 for slot in range(WORKERS)},
    }
    eventually(lambda: expected.items() <= read(service).items(), lambda: read(service))
    replace_workers(service)
    counters = {key: value for key, value in expected.items() if key[0] != "mcp_gateway_redis_up"}
    eventually(lambda: counters.items() <= read(service).items(), lambda: read(service))
    replace_workers(service)
    files = list((service.log.parent / "state/metrics").glob("counter_*.db"))
    assert len(files) <= 2 * WORKERS, "files do not pile up: a worker takes over the numbers of one that is gone"


def test_events_and_messages_count_from_zero_so_that_the_first_is_an_increase(place: Place) -> None:
    service = place.start(workers=1)
    values = read(service)
    counted = {event: values[("mcp_gateway_events_total", event)] for event in Event}
    # The service makes its first signing key by itself.
    assert {event for event, count in counted.items() if count} <= {Event.KEY_ADDED}
    assert values[("mcp_gateway_revocation_notices_total", "undelivered")] == 0
    assert ("mcp_gateway_log_messages_total", "error") in values


def test_a_revocation_notice_that_no_bridge_takes_is_counted(place: Place) -> None:
    service = place.start(workers=1)
    tokens = service.log_in()
    form = {"token": tokens.refresh_token, "client_id": tokens.client_id}
    assert service.post("/revoke", form).status_code == 200
    eventually(lambda: read(service)[("mcp_gateway_revocation_notices_total", "undelivered")] == 1)
    assert read(service)[("mcp_gateway_revocation_notices_total", "delivered")] == 0


def test_a_worker_without_redis_says_so(place: Place) -> None:
    service = place.start(workers=1)
    eventually(lambda: read(service)[("mcp_gateway_redis_up", "0")] == 1)
    place.redis.stop()
    eventually(lambda: read(service)[("mcp_gateway_redis_up", "0")] == 0)
    assert ("mcp_gateway_log_messages_total", "warning") in read(service)


def test_the_watchdog_hears_from_the_service_only_while_every_worker_answers(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        service = place.start(workers=2)
        manager.settimeout(60)
        messages = {manager.recv(100) for _ in range(5)}
        assert messages == {b"READY=1", b"WATCHDOG=1"}
        os.kill(service.workers()[0], signal.SIGSTOP)
        manager.settimeout(3)
        with contextlib.suppress(TimeoutError):
            for _ in range(20):
                manager.recv(100)
            pytest.fail("the watchdog still hears from it")
        os.kill(service.workers()[0], signal.SIGCONT)
        manager.settimeout(60)
        assert manager.recv(100) == b"WATCHDOG=1"


def values_by(service: Service, names: set[str]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in read(service).items() if key[0] in names}


@pytest.mark.parametrize("is_full_from_the_start", [True, False])
def test_a_full_disk_below_the_metrics_stops_no_worker(
    place: Place, tmp_path: Path, is_full_from_the_start: bool
) -> None:
    passed = ("mcp_gateway_verify_total", "passed", "time")
    with small_disk(tmp_path / "run") as disk:
        if is_full_from_the_start:
            disk.fill()
        service = place.start(environment={"RUNTIME_DIRECTORY": str(disk.path)})
        workers = service.workers()
        tokens = service.log_in()
        connections = service.connect_to_all()
        assert [connection.verify(tokens.access_token) for connection in connections] == [200] * WORKERS
        if not is_full_from_the_start:
            eventually(lambda: read(service).get(passed) == WORKERS)
            disk.fill()
        for connection in connections:
            # Each endpoint and status has values of its own: what was allocated is used up, and more is asked for.
            for path in ("/jwks", "/account", "/style.css", "/authorize", "/callback", "/none", "/register", "/token"):
                assert connection.get(path) < 500
            assert connection.get("/metrics") == 200
            assert connection.verify(tokens.access_token) == 200
            connection.close()
        assert service.workers() == workers, service.log.read_text()
        assert "Traceback" not in service.log.read_text()
        if is_full_from_the_start:
            assert service.log.read_text().count("metrics.incomplete") <= 4 * WORKERS
            assert "No space left on device" in service.log.read_text()
        else:
            eventually(lambda: read(service)[passed] == 2 * WORKERS)
        disk.free()
        replace_workers(service)
        eventually(lambda: set(redis_up(service)) == {1.0})
        service.stop()


def redis_up(service: Service) -> list[float]:
    return [value for key, value in read(service).items() if key[0] == "mcp_gateway_redis_up"]
