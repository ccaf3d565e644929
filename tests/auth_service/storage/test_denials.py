"""The file of denied grants: seen by every process, whole after a crash, and written to also on a full disk."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from auth_service.storage.denials import FILE_NAME, RECORD_BYTES, RECORDS, Denials
from tests.disk import small_disk


def read(directory: Path) -> set[str]:
    """Return what another process sees."""
    denials = Denials(directory)
    denials.refresh()
    return set(denials)


@pytest.fixture
def denials(tmp_path: Path) -> Denials:
    denials = Denials(tmp_path)
    denials.prepare()
    return denials


def test_what_one_process_denies_others_see_until_it_is_removed(denials: Denials, tmp_path: Path) -> None:
    denials.add(["a", "b"])
    other = Denials(tmp_path)
    assert "a" not in other
    other.refresh()
    assert set(other) == {"a", "b"}
    other.remove(["a"])
    denials.refresh()
    assert set(denials) == {"b"}
    denials.add(["c", "b"])
    assert read(tmp_path) == {"b", "c"}


def test_each_new_denial_is_reported_once(denials: Denials, tmp_path: Path) -> None:
    told: list[str] = []
    denials.on_new = told.extend
    denials.hear(["a", "not a grant", ""])
    Denials(tmp_path).add(["a", "b"])
    denials.refresh()
    denials.refresh()
    assert told == ["a", "b"]


def test_a_denied_grant_of_another_host_stays_denied_until_it_is_removed(denials: Denials) -> None:
    denials.hear(["a"])
    denials.refresh()
    assert "a" in denials
    denials.remove(["a"])
    assert "a" not in denials


def test_threads_and_processes_write_beside_each_other(denials: Denials, tmp_path: Path) -> None:
    def add(prefix: int) -> None:
        for number in range(50):
            Denials(tmp_path).add([f"{prefix}-{number}"])

    threads = [threading.Thread(target=add, args=[prefix]) for prefix in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    denials.refresh()
    assert len(set(denials)) == 200


def test_more_than_there_is_room_for_makes_the_file_grow_and_room_is_used_again(
    denials: Denials, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    size = path.stat().st_size
    assert size == (1 + RECORDS) * RECORD_BYTES
    many = [f"grant-{number}" for number in range(RECORDS)]
    denials.add(many)
    assert path.stat().st_size == size
    denials.add(["one-more"])
    assert path.stat().st_size == size + RECORD_BYTES
    assert read(tmp_path) == {*many, "one-more"}
    denials.remove(many)
    denials.add(many)
    assert path.stat().st_size == size + RECORD_BYTES


def test_a_full_disk_is_no_obstacle(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        denials = Denials(disk.path)
        denials.prepare()
        disk.fill()
        denials.add(f"grant-{number}" for number in range(RECORDS))
        assert len(read(disk.path)) == RECORDS
        with pytest.raises(OSError, match="No space left"):
            denials.add(f"more-{number}" for number in range(RECORDS))


def test_a_disk_that_was_full_from_the_beginning_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        Denials(disk.path).prepare()
    assert "denials.unprepared" in caplog.text


def test_without_a_file_no_grant_is_kept_and_writing_raises_an_error(tmp_path: Path) -> None:
    denials = Denials(tmp_path)
    denials.refresh()
    assert list(denials) == []
    with pytest.raises(FileNotFoundError):
        denials.add(["a"])
    denials.hear(["a"])
    assert "a" in denials


@pytest.mark.parametrize("sid", ["", "a b", "a\nb", "a" * 64, "ä"])
def test_text_that_is_no_grant_id_is_refused(denials: Denials, sid: str) -> None:
    with pytest.raises(OSError, match="no grant id"):
        denials.add([sid])


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\0" * 100, b"\xff" * 1000, b"a\n" * 500, b"\0" * RECORD_BYTES + b"half-a-rec"]
)
def test_a_damaged_file_denies_nothing_and_can_be_written_to(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert read(tmp_path) == set()
    denials = Denials(tmp_path)
    denials.prepare()
    denials.add(["a"])
    assert read(tmp_path) == {"a"}
