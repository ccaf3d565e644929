"""That tests which leave something running are found out."""

from __future__ import annotations

import subprocess
import threading

import pytest

from tests import leftovers
from tests.leftovers import Leftovers


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.1)


def test_what_ended_in_time_or_ran_before_is_no_leftover() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as before:
        watched = Leftovers()
        subprocess.run(["true"], check=True)
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        assert watched.end() == []
        assert before.poll() is None


def test_a_process_is_named_and_killed() -> None:
    watched = Leftovers()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert watched.end() == [f"process {process.pid}: cat"]
        assert process.wait() != 0


def test_a_thread_that_would_keep_the_interpreter_running_is_named() -> None:
    watched = Leftovers()
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, name=name, daemon=name == "daemon") for name in ("kept", "daemon")]
    for thread in threads:
        thread.start()
    assert watched.end() == ["thread kept"]
    done.set()
    for thread in threads:
        thread.join()
