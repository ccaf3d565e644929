"""Look-ups of names: bounded in time and number, and left behind where they do not end."""

from __future__ import annotations

import threading

import pytest

from auth_service.oauth.name_lookup import NameLookups


def fail() -> str:
    raise OSError("no such name")


def test_what_a_look_up_returns_or_raises_comes_back() -> None:
    lookups = NameLookups[str](1)
    assert lookups.run(lambda: "192.0.2.1", timeout=60) == "192.0.2.1"
    with pytest.raises(OSError, match="no such name"):
        lookups.run(fail, timeout=60)
    assert lookups.run(lambda: "192.0.2.2", timeout=60) == "192.0.2.2", "a failure takes no place"


def test_a_look_up_that_does_not_end_is_left_behind_and_keeps_its_place() -> None:
    lookups, release = NameLookups[bool](1), threading.Event()
    with pytest.raises(TimeoutError):
        lookups.run(lambda: release.wait(60), timeout=0.01)
    (thread,) = (each for each in threading.enumerate() if each.name == "look-up-name")
    assert thread.daemon, "it keeps no process from ending"
    with pytest.raises(TimeoutError):
        lookups.run(lambda: True, timeout=0.01)
    release.set()
    assert lookups.run(lambda: True, timeout=60)
