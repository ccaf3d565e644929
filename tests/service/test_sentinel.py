"""A Redis that Sentinel watches: a replica takes over, and nobody passes who should not meanwhile or after."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from local.ports import free_port
from local.stack import find_redis
from tests.e2e.flow import refresh

from .conftest import Place, eventually

PASSWORD = "the password"
SERVICE = "gateway"
ATTEMPTS = 5


class PortTakenError(Exception):
    """A server has ended, as another program has taken its port meanwhile."""


class Sentinels:
    """A master, a replica, and three Sentinels, all with short patience."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = find_redis()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.sentinels: list[subprocess.Popen[bytes]] = []
        for _ in range(ATTEMPTS):
            try:
                self._start_all()
            except PortTakenError:
                self.stop()
            except BaseException:
                self.stop()
                raise
            else:
                return
        raise AssertionError("a port was taken each time")

    def _start_all(self) -> None:
        self.ports = [free_port(), free_port()]
        master, replica = self.ports
        security = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        self.master = self._start("master", "--port", str(master), *security)
        self.replica = self._start("replica", "--port", str(replica), "--replicaof", f"127.0.0.1 {master}", *security)
        self._wait_until(lambda: self._role(replica).get("master_link_status") == "up")
        self.sentinel_ports = [free_port() for _ in range(3)]
        for number, port in enumerate(self.sentinel_ports):
            file = self._folder / f"sentinel-{number}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2\n"
                f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
                f"sentinel down-after-milliseconds {SERVICE} 2000\n"
                f"sentinel failover-timeout {SERVICE} 3000\n"
            )
            self.sentinels.append(self._start(f"sentinel-{number}", str(file), "--sentinel"))
        self._wait_until(lambda: all(self._knows_all(port) for port in self.sentinel_ports))
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait while all processes live. Raises PortTakenError if one has ended."""

        def holds() -> bool:
            if any(process.poll() is not None for process in self._processes):
                raise PortTakenError
            return condition()

        eventually(holds)

    def client(self, port: int) -> redis.Redis:
        """Return a client of one server."""
        return redis.Redis(port=port, password=PASSWORD, decode_responses=True)

    def has_taken_over(self) -> bool:
        """Whether the replica is the master."""
        return self._role(self.ports[1]).get("role") == "master"

    def stop(self) -> None:
        """Stop everything."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(60)
        self._processes.clear()
        self.sentinels.clear()

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                *(self._program, *arguments, "--dir", str(self._folder)),
                *("--logfile", str(self._folder / f"{name}.log"), "--save", ""),
            ]
        )
        self._processes.append(process)
        return process

    def _role(self, port: int) -> dict[str, str]:
        try:
            with self.client(port) as client:
                found: dict[str, str] = client.info("replication")
                return found
        except redis.RedisError:
            return {}

    def _knows_all(self, port: int) -> bool:
        try:
            with redis.Redis(port=port, decode_responses=True) as client:
                state = client.sentinel_master(SERVICE)
        except redis.RedisError:
            return False
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 and state["flags"] == "master")


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    running = Sentinels(tmp_path)
    yield running
    running.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_when_the_master_fails_its_replica_serves_and_what_was_revoked_stays_so(
    place: Place, sentinels: Sentinels, number: signal.Signals
) -> None:
    place.redis_password = PASSWORD
    service = place.start(workers=1, redis_url=sentinels.url)
    kept, revoked = service.log_in(), service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(kept.access_token) == 200
    assert connection.verify(revoked.access_token) == 200
    assert service.post("/revoke", {"token": revoked.refresh_token, "client_id": revoked.client_id}).status_code == 200
    sentinels.master.send_signal(number)
    # Requests are not refused at all if the replica takes over while they still wait for an answer.
    eventually(lambda: connection.get("/readyz") == 503 or sentinels.has_taken_over())
    if not sentinels.has_taken_over():
        assert connection.verify(kept.access_token) in {200, 503}  # 200 only if the replica was faster
    eventually(sentinels.has_taken_over)
    eventually(lambda: connection.get("/readyz") == 200)
    assert connection.verify(revoked.access_token) == 401
    eventually(lambda: connection.verify(kept.access_token) == 200)
    # A connection that still leads to one that hangs costs one attempt.
    eventually(lambda: refresh(service.issuer, kept).status_code == 200)
    assert connection.verify(service.log_in().access_token) == 200
    if number == signal.SIGSTOP:  # it is back, and believes for a while that it is still the master
        sentinels.master.send_signal(signal.SIGCONT)
        assert service.post("/revoke", {"token": kept.refresh_token, "client_id": kept.client_id}).status_code == 200
        assert connection.verify(kept.access_token) == 401
    connection.close()


def test_a_master_that_sentinel_has_replaced_is_believed_no_more_though_it_answers(
    place: Place, sentinels: Sentinels
) -> None:
    place.redis_password = PASSWORD
    service = place.start(workers=1, redis_url=sentinels.url)
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(tokens.access_token) == 200
    with redis.Redis(port=sentinels.sentinel_ports[0], decode_responses=True) as sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
    eventually(sentinels.has_taken_over)
    with sentinels.client(sentinels.ports[1]) as successor:
        for key in successor.scan_iter("grant:*"):
            successor.delete(key)
    eventually(lambda: connection.verify(tokens.access_token) == 401)
    connection.close()


def test_a_sentinel_that_is_silent_costs_no_request_its_answer(place: Place, sentinels: Sentinels) -> None:
    place.redis_password = PASSWORD
    service = place.start(workers=1, redis_url=sentinels.url)
    tokens = service.log_in()
    (connection,) = service.connect_to_all()
    assert connection.verify(tokens.access_token) == 200
    sentinels.sentinels[0].send_signal(signal.SIGSTOP)  # the one that is asked first
    with sentinels.client(sentinels.ports[0]) as master:
        for kind in ("normal", "pubsub"):
            master.execute_command("CLIENT", "KILL", "TYPE", kind)
    assert connection.verify(tokens.access_token) == 200
    assert refresh(service.issuer, tokens).status_code == 200
    for sentinel in sentinels.sentinels[1:]:
        sentinel.send_signal(signal.SIGSTOP)
    eventually(lambda: connection.verify(tokens.access_token) == 503)
    connection.close()


def test_a_wrong_password_lets_nobody_in(place: Place, sentinels: Sentinels) -> None:
    place.redis_password = "another"
    service = place.start(workers=1, redis_url=sentinels.url, ready=False)
    eventually(lambda: service.get("/healthz") == 200)
    assert service.get("/readyz") == 503
    assert service.get("/authorize?client_id=x") == 503
