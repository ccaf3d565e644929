"""`mcp-gatewayctl`: the operator's commands. docs/gatewayctl.md says what each prints as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from auth_service.keys.signing_keys import SigningKeyError
from auth_service.protocol.errors import ServiceUnavailable, WritesRefused
from auth_service.settings import SettingsError

from . import calls, clients, configuration, credentials, diagnosis, grants, keys, tokens, tools, users

PROGRAM = "mcp-gatewayctl"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def gatewayctl() -> None:
    """Operate the MCP OAuth Gateway.

    It needs the gateway's settings, and for most commands its credentials. As root on the gateway's host it finds both
    without options.
    """


for command in (
    calls.calls,
    clients.clients,
    grants.grants,
    users.users,
    credentials.credentials,
    keys.keys,
    tokens.token,
    tools.tools,
    diagnosis.doctor,
    diagnosis.health,
    diagnosis.stats,
    configuration.check_settings,
    configuration.settings_schema,
):
    gatewayctl.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 1 if something is wrong or missing, 2 for unusable input."""
    try:
        status = gatewayctl.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except (SettingsError, SigningKeyError) as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return 2
    except WritesRefused as error:
        click.echo(
            f"{PROGRAM}: Redis answers, but takes no writes: {error.reason}. `{PROGRAM} doctor` says what to do.",
            err=True,
        )
        return 1
    except ServiceUnavailable as error:
        click.echo(f"{PROGRAM}: {error}: see that it runs and that this user may reach it, or try as root.", err=True)
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
