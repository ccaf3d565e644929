from __future__ import annotations

from stdio_bridge.servers.start_limiter import Slots


def test_no_more_start_at_once_than_may_and_the_rest_in_order() -> None:
    slots, started = Slots(2), list[int]()
    held = [slots.ask(lambda number=number: started.append(number)) for number in range(5)]  # type: ignore[misc]
    assert (started, slots.waiting) == ([0, 1], 3)
    held[1].release()
    held[1].release()
    assert started == [0, 1, 2]
    held[3].release()
    held[0].release()
    assert (started, slots.waiting) == ([0, 1, 2, 4], 0)


def test_the_patient_start_after_all_others() -> None:
    slots, started = Slots(1), list[str]()
    first = slots.ask(lambda: started.append("first"))
    patient = slots.ask(lambda: started.append("patient"), patient=True)
    urgent = slots.ask(lambda: started.append("urgent"))
    assert slots.waiting == 1
    first.release()
    urgent.release()
    assert started == ["first", "urgent", "patient"]
    patient.release()
    assert slots.ask(lambda: started.append("next")) is not None
    assert started[-1] == "next"
