"""`mcp-gatewayctl check-settings` and `settings-schema`."""

from __future__ import annotations

from pathlib import Path

import click

from auth_service.settings import Settings, load_settings

from .output import print_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check_settings(*, file: Path) -> None:
    """Say whether the settings in FILE are valid."""
    settings = load_settings(file)
    click.echo(f"{file}: valid, {len(settings.resources)} servers behind {settings.issuer}")


@click.command()
def settings_schema() -> None:
    """Print the JSON Schema of settings.json."""
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()})
