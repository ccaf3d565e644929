"""JSON Schemas of the documents that we serve, written from their specifications; `$comment` names the section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator


def check(document: Any, name: str) -> None:
    """Check a document against a schema of this folder. Raises AssertionError that names every fault."""
    schema = json.loads((Path(__file__).parent / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    faults = [f"{fault.json_path}: {fault.message}" for fault in Draft202012Validator(schema).iter_errors(document)]
    assert not faults, (name, faults)
