"""`mcp-auth-service`: validate the settings, then serve on Gunicorn."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from auth_service.app.asgi import NOTIFY_VARIABLE, Application, notify_service_manager
from auth_service.app.gunicorn_worker import MAX_HEADER_FIELDS, MAX_LINE_BYTES, Worker
from auth_service.app.worker_settings import WorkerSettings
from auth_service.idp.connected_service import CALL_SECONDS
from auth_service.oauth.connections import make_services
from auth_service.oauth.declared_clients import check_clients, make_clients
from auth_service.oauth.workloads import check_issuers
from auth_service.ops import logs
from auth_service.ops.metrics import WorkerSlots, metrics_directory
from auth_service.settings import Credentials, Settings, SettingsError, load_credentials, load_settings

# Traefik keeps two idle connections per host for 90 s. This service must not be the side that closes them.
KEEP_ALIVE_SECONDS = 120
GRACEFUL_SECONDS = CALL_SECONDS + 8
"""How long a worker that ends goes on with requests: an answer not waited for may replace a refresh token."""
UNRESPONSIVE_SECONDS = 5
"""How long a worker may be silent while systemd's watchdog is notified. Gunicorn ends such a worker after 30 s."""


log = logging.getLogger("auth_service")


class _Arbiter(Arbiter):  # type: ignore[misc]  # Gunicorn ships no types
    """Gunicorn's parent process, which notifies systemd's watchdog while every worker answers."""

    def murder_workers(self) -> None:
        """End silent workers, as Gunicorn does once a second, and notify the watchdog."""
        super().murder_workers()
        if "WATCHDOG_USEC" in os.environ and self._every_worker_answers():
            notify_service_manager(b"WATCHDOG=1")

    def _every_worker_answers(self) -> bool:
        # Each worker's event loop touches its file once a second. A worker that has just ended has closed its file.
        try:
            ages = [time.monotonic() - worker.tmp.last_update() for worker in self.WORKERS.values()]
        except (OSError, ValueError):
            return False
        return bool(ages) and max(ages) < UNRESPONSIVE_SECONDS


class _Server(BaseApplication):  # type: ignore[misc]  # Gunicorn ships no types
    """Gunicorn with our settings. On SIGHUP it reads the file again and starts new workers with it."""

    def __init__(self, settings_file: Path, credentials: Credentials, settings: Settings, slots: WorkerSlots) -> None:
        self._settings_file = settings_file
        self._credentials = credentials
        self._settings = settings
        self._slots = slots
        self._slot = 0
        self._worker_settings = WorkerSettings()
        super().__init__()

    def reload(self) -> None:
        """Read the settings again. The last good ones stay in force while the file is not valid."""
        try:
            settings = load_settings(self._settings_file)
            make_clients(settings, self._credentials)
            make_services(settings, self._credentials)
            check_issuers(settings)
            self._credentials.require_backends(settings.resources_with_credential)
            self._settings = settings
        except SettingsError as error:
            log.error("settings.refused: the last good ones stay in force: %s", error)
        self._worker_settings.renew()
        super().reload()

    def load_config(self) -> None:
        """Set what differs from Gunicorn's defaults."""
        options: dict[str, Any] = {
            "bind": [self._settings.listen],
            "workers": self._settings.workers,
            "worker_class": Worker,
            "limit_request_line": MAX_LINE_BYTES,
            "limit_request_field_size": MAX_LINE_BYTES,
            "limit_request_fields": MAX_HEADER_FIELDS,
            "asgi_lifespan": "on",
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            # A SCRIPT_NAME header of a peer would change the path that all rules see.
            "forwarder_headers": "",
            # An upgraded connection would be a tunnel through Traefik that its rules do not check.
            "http2_cleartext": "off",
            # Traefik closes most connections after a request. Gunicorn would keep each of them, of 13 KiB, for seconds:
            # long enough to survive all but full garbage collections.
            "asgi_disconnect_grace_period": 0,
            "control_socket_disable": True,
            "pre_fork": self._prepare_worker,
            "child_exit": self._bury_worker,
            "logger_class": logs.GunicornLog,
            "loglevel": self._settings.log_level,
            "proc_name": "mcp-auth-service",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        """Build a worker's application. Raises SigningKeyError, which ends the worker."""
        return Application(self._settings, self._credentials, slot=self._slot, has_routes=self._has_routes)

    def leave(self) -> None:
        """Note that this worker takes no more requests."""
        self._worker_settings.end(self._slot)

    def _has_routes(self) -> bool:
        return self._worker_settings.are_everywhere(self._slot)

    def run(self) -> None:
        """Serve until a signal ends the process."""
        _Arbiter(self).run()

    def _prepare_worker(self, _arbiter: Any, worker: Any) -> None:
        self._slot = self._slots.take(worker.age)
        self._worker_settings.begin(self._slot)

    def _bury_worker(self, _arbiter: Any, worker: Any) -> None:
        if (slot := self._slots.release(worker.age)) is not None:
            self._worker_settings.end(slot)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service; return the exit status, 2 for invalid settings."""
    parser = argparse.ArgumentParser(prog="mcp-auth-service", description="The gateway's authorization server.")
    parser.add_argument("--settings", required=True, type=Path, metavar="FILE", help="settings.json")
    parser.add_argument(
        "--credentials",
        type=Path,
        metavar="DIRECTORY",
        default=os.environ.get("CREDENTIALS_DIRECTORY"),
        help="the directory with client-secret and master-key (default: $CREDENTIALS_DIRECTORY)",
    )
    parser.add_argument("--check", action="store_true", help="only check whether the settings are valid")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.settings)
        check_clients(settings)
        check_issuers(settings)
        if options.check:
            return 0
        if options.credentials is None:
            raise SettingsError("no credentials: set $CREDENTIALS_DIRECTORY or give --credentials DIRECTORY")
        credentials = load_credentials(Path(options.credentials))
        make_clients(settings, credentials)
        make_services(settings, credentials)
        credentials.require_backends(settings.resources_with_credential)
        if os.environ.get("LISTEN_PID") != str(os.getpid()):  # otherwise systemd listens
            _check_address(settings.listen)
        _make_state_directory(Path(settings.state_directory))
    except SettingsError as error:
        sys.stderr.write(f"mcp-auth-service: {error}\n")
        return 2
    logs.configure(settings.log_level.upper(), audit_socket=settings.audit_socket)
    if address := os.environ.pop("NOTIFY_SOCKET", None):
        os.environ[NOTIFY_VARIABLE] = address
    slots = WorkerSlots(metrics_directory(settings))
    _Server(options.settings, credentials, settings, slots).run()
    return 0


def _make_state_directory(directory: Path) -> None:
    """Make the state directory. Raises SettingsError if that fails or this user may not write there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"state_directory: {error.filename or directory}: {error.strerror}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SettingsError(f"state_directory: {directory}: this user may not write there")


def _check_address(listen: str) -> None:
    """Raise SettingsError if the address is in use. Gunicorn would retry, and then log a traceback."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"listen: {listen}: {getattr(error, 'strerror', None) or error}") from error


if __name__ == "__main__":
    sys.exit(main())
