"""`mcp-gatewayctl tools`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from auth_service.backends import surveys
from auth_service.backends.assertions import derive_identity_key
from auth_service.backends.surveys import Answer, Change, Survey
from auth_service.ops.logs import escape
from auth_service.settings import load_settings

from .operator import as_json, load_derivable, master_key_option, settings_option
from .output import print_json

P = ParamSpec("P")
_MAX_NAMED = 20
_MARKS = {"new": "+", "missing": "-", "changed": "~", "duplicate": "="}
_MEANINGS = {
    "new": "is not in the lock file: hidden",
    "missing": "is in the lock file alone",
    "changed": "differs from the lock file: hidden",
    "duplicate": "is listed twice: hidden",
}


@click.group()
def tools() -> None:
    """The tools of servers, and lock files that hold servers to them."""


def _with_answers(command: Callable[Concatenate[list[Answer], P], None]) -> Callable[..., None]:
    """Ask all bridges of the server that is named, and say on standard error which have answered."""

    @click.argument("name")
    @settings_option
    @master_key_option
    @wraps(command)
    def run(name: str, settings_file: Path, master_key: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        settings = load_settings(settings_file)
        if name not in settings.resources:
            known = ", ".join(settings.resources)
            raise click.UsageError(f"{name}: no server has that name; known servers: {known}")
        credentials = load_derivable(master_key)
        answers = list(surveys.ask_all(settings, {name: derive_identity_key(credentials, name)}))
        for each in answers:
            if isinstance(each.survey, Survey):
                click.echo(f"asked {each.endpoint}: {each.survey.tools} tools", err=True)
            else:
                click.echo(f"asked {each.endpoint}: {escape(str(each.survey))}", err=True)
        command(answers, *args, **kwargs)

    return run


@tools.command(short_help="Print a lock file of a server's tools.")
@_with_answers
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there instead."
)
def lock(answers: list[Answer], *, output: Path | None) -> None:
    """Print a lock file of the tools that server NAME lists now, to be reviewed and kept in git.

    It starts the server once more on each host and replica, and fails if they do not agree.
    """
    found = [each.survey for each in answers if isinstance(each.survey, Survey)]
    if not found:
        raise click.ClickException("no bridge has told which tools the server has")
    if problem := next((each.problem for each in found if each.problem is not None), None):
        raise click.ClickException(escape(problem))
    texts = {each.lock for each in found}
    if len(texts) > 1:
        raise click.ClickException("the bridges do not list the same tools: their servers differ")
    text = str(texts.pop())
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@tools.command(short_help="Show what differs from the lock file.")
@_with_answers
@as_json
@click.pass_context
def diff(context: click.Context, answers: list[Answer], *, as_json: bool) -> None:
    """Show what server NAME lists otherwise than its lock file says."""
    if as_json:
        print_json([_as_document(each) for each in answers])
    else:
        for each in answers:
            if isinstance(each.survey, Survey):
                _print_differences(each.endpoint, each.survey)
    context.exit(int(not all(isinstance(each.survey, Survey) for each in answers)))


@tools.command(short_help="Say whether tools are as locked.")
@_with_answers
@click.pass_context
def check(context: click.Context, answers: list[Answer]) -> None:
    """Exit with 1 if server NAME has no lock file, has tools that the lock file hides, or does not tell."""
    is_well = True
    for each in answers:
        if isinstance(each.survey, Survey):
            hidden = [difference for difference in each.survey.differences if difference.hides]
            is_well = is_well and each.survey.locked and not hidden
            click.echo(f"{each.endpoint}: {summary_of(each.survey)}")
        else:
            is_well = False
    context.exit(int(not is_well))


def summary_of(survey: Survey) -> str:
    """Say in one line whether a server has a lock file, and what differs."""
    if not survey.locked:
        return f"{survey.tools} tools, and no lock file"
    if not survey.differences:
        return f"{survey.tools} tools, all as in the lock file"
    named = ", ".join(f"{escape(each.tool)} ({each.reason})" for each in survey.differences[:_MAX_NAMED])
    more = len(survey.differences) - _MAX_NAMED
    return f"{survey.tools} tools; differ from the lock file: {named}" + (f" and {more} more" if more > 0 else "")


def _print_differences(endpoint: str, survey: Survey) -> None:
    click.echo(f"{endpoint}: {survey.tools} tools" + ("" if survey.locked else ", and no lock file"))
    for difference in survey.differences:
        mark = _MARKS[difference.reason]
        click.echo(f"{mark} {escape(difference.tool)} {_MEANINGS[difference.reason]}")
        for change in difference.changes:
            click.echo(f"    {escape(change.path)}")
            _print_sides(change)


def _print_sides(change: Change) -> None:
    for mark, value in (("-", change.locked), ("+", change.listed)):
        if value is not None:
            click.echo(f"    {mark} {escape(value)}")


def _as_document(answer: Answer) -> dict[str, Any]:
    survey = answer.survey
    if not isinstance(survey, Survey):
        return {"endpoint": answer.endpoint, "problem": str(survey)}
    return {
        "endpoint": answer.endpoint,
        "problem": None,
        "tools": survey.tools,
        "locked": survey.locked,
        "differences": [each.model_dump() for each in survey.differences],
    }
