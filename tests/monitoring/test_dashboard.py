"""Grafana's dashboard: what is committed is what its generator writes, and its queries are PromQL."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .test_alerts import needs_promtool

dashboard = pytest.importorskip("monitoring.dashboard")


def panels() -> list[dict[str, Any]]:
    document: dict[str, Any] = json.loads(dashboard.FILE.read_text())
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def queries() -> Iterator[str]:
    """Yield every query, with values in place of Grafana's variables."""
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$server", ".*")
            assert "$" not in query
            yield query


def test_the_committed_dashboard_is_what_its_generator_writes() -> None:
    assert dashboard.FILE.read_text() == dashboard.render(), "run: make dashboard"


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABCDE")[: len(panel["targets"])]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & places
        places |= cells
    assert len({panel["id"] for panel in json.loads(dashboard.FILE.read_text())["panels"]}) == len(panels()) + 5


@needs_promtool
def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:query:{number}", "expr": query} for number, query in enumerate(queries())]
    assert len(rules) >= len(panels())
    document = {"groups": [{"name": "dashboard", "rules": rules}]}
    (tmp_path / "rules.yaml").write_text(json.dumps(document))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_legend_names_labels_that_its_query_leaves() -> None:
    for panel in panels():
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.search(r"by \(([^)]*)\)", target["expr"])
            if grouped is not None:
                assert labels <= {label.strip() for label in grouped[1].split(",")}, panel["title"]
