"""Grafana's dashboard, as code: `make dashboard` writes monitoring/dashboards/mcp-gateway.json."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.timeseries import Panel as TimeseriesPanel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FILE: Final = Path(__file__).parent / "dashboards/mcp-gateway.json"

_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_PROGRAMS: Final = 'job="mcp-gateway"'
_SERVERS: Final = f'{_PROGRAMS}, server=~"$server"'
_HOSTS: Final = 'job="mcp-gateway-host"'
_TOOLS: Final = f'{_SERVERS}, tool!=""'
_FAILURES: Final = "tool_error|error|timeout|server_exit"
_HIGHEST: Final = 10
"""How many tools or endpoints one panel shows."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A panel with one number, which is red from `bad` on."""

    title: str
    text: str
    query: str
    bad: float | None = None
    unit: str = "short"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A panel with lines over time, or with areas on top of each other."""

    title: str
    text: str
    queries: dict[str, str]
    """The text of the legend, with labels in braces, and the query."""
    unit: str = "short"
    stacked: bool = False


@dataclass(frozen=True)
class Section:
    """A row of the dashboard with its panels."""

    title: str
    panels: tuple[Number | Graph, ...]


def _per_second(metric: str, by: str, where: str = _SERVERS) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def _within(metric: str, by: str, where: str = _SERVERS) -> str:
    return f"sum by ({by}) (increase({metric}{{{where}}}[$__rate_interval]))"


def _now(metric: str, by: str, where: str = _SERVERS) -> str:
    return f"sum by ({by}) ({metric}{{{where}}})"


def _percentile(histogram: str, by: str, where: str = _SERVERS) -> str:
    """Return the time that 95 % take at most."""
    return f"histogram_quantile(0.95, {_per_second(f'{histogram}_bucket', f'{by}, le', where)})"


def _highest(query: str) -> str:
    return f"topk({_HIGHEST}, {query})"


SECTIONS: Final = (
    Section(
        "At a glance",
        (
            Number(
                title="Alerts",
                text="Alerts of the gateway that are firing.",
                query='count(ALERTS{alertname=~"Mcp.+", alertstate="firing"}) or vector(0)',
                bad=1,
            ),
            Number(
                title="Parts that do not answer",
                text="Auth services, bridges and routers that Prometheus cannot scrape.",
                query=f"count(up{{{_PROGRAMS}}} == 0) or vector(0)",
                bad=1,
            ),
            Number(
                title="Servers that do not answer",
                text="Backends with which the health check could open no session.",
                query="count(mcp_gateway_server_up == 0) or vector(0)",
                bad=1,
            ),
            Number(
                title="Calls per second",
                text="Requests of clients that have ended, whatever their outcome is.",
                query=f"sum(rate(mcp_bridge_calls_total{{{_SERVERS}}}[$__rate_interval]))",
                unit="reqps",
            ),
            Number(
                title="Open sessions",
                text="Sessions of legacy clients. Modern clients have none.",
                query=f"sum(mcp_bridge_sessions{{{_SERVERS}}})",
            ),
            Number(
                title="Live grants",
                text="What users allow clients at this time.",
                query="max(mcp_gateway_grants)",
            ),
        ),
    ),
    Section(
        "Calls",
        (
            Graph(
                title="Calls by server",
                text="Requests of clients, whatever their method is.",
                queries={"{{server}}": _per_second("mcp_bridge_calls_total", "server")},
                unit="reqps",
                stacked=True,
            ),
            Graph(
                title="Calls by outcome",
                text="Everything but ok: errors of tools and servers, denials, time-outs, clients that left.",
                queries={"{{outcome}}": _per_second("mcp_bridge_calls_total", "outcome", f'{_SERVERS}, outcome!="ok"')},
                unit="reqps",
                stacked=True,
            ),
            Graph(
                title="Most used tools",
                text=f"The {_HIGHEST} tools with most calls.",
                queries={
                    "{{server}} {{tool}}": _highest(_per_second("mcp_bridge_calls_total", "server, tool", _TOOLS))
                },
                unit="reqps",
            ),
            Graph(
                title="Slowest tools",
                text=f"How long 95 % of the calls of a tool take at most; the {_HIGHEST} slowest tools.",
                queries={"{{server}} {{tool}}": _highest(_percentile("mcp_bridge_tool_seconds", "server, tool"))},
                unit="s",
            ),
            Graph(
                title="Tools that fail",
                text="The share of calls that ended with an error of the tool or of the server, or too late.",
                queries={
                    "{{server}} {{tool}}": _highest(
                        _per_second("mcp_bridge_calls_total", "server, tool", f'{_TOOLS}, outcome=~"{_FAILURES}"')
                        + " / "
                        + _per_second("mcp_bridge_calls_total", "server, tool", _TOOLS)
                    )
                },
                unit="percentunit",
            ),
            Graph(
                title="Denials by reason",
                text="Calls that rules, missing scopes or quotas kept from the server.",
                queries={"{{server}} {{reason}}": _per_second("mcp_bridge_denied_total", "server, reason")},
                unit="reqps",
                stacked=True,
            ),
        ),
    ),
    Section(
        "Access",
        (
            Graph(
                title="Requests that the auth service refuses",
                text="What /verify says of requests to servers that do not pass.",
                queries={
                    "{{resource}} {{outcome}}": _per_second(
                        "mcp_gateway_verify_total",
                        "resource, outcome",
                        f'{_PROGRAMS}, resource=~"$server", outcome!="passed"',
                    )
                },
                unit="reqps",
                stacked=True,
            ),
            Graph(
                title="Logins",
                text="Users who came back from the identity provider.",
                queries={
                    "{{event}}": _within("mcp_gateway_events_total", "event", f'{_PROGRAMS}, event=~"login[.].+"')
                },
                stacked=True,
            ),
            Graph(
                title="Other decisions",
                text="Audit events other than logins, as far as there are any.",
                queries={
                    "{{event}}": _within(
                        "mcp_gateway_events_total", "event", f'{_PROGRAMS}, event!~"login[.].+|verify[.]refused"'
                    )
                    + " > 0"
                },
                stacked=True,
            ),
            Graph(
                title="Pages and endpoints",
                text=f"How long 95 % of the requests take at most; the {_HIGHEST} slowest endpoints but /verify.",
                queries={
                    "{{endpoint}}": _highest(_percentile("mcp_gateway_http_request_seconds", "endpoint", _PROGRAMS))
                },
                unit="s",
            ),
        ),
    ),
    Section(
        "Servers",
        (
            Graph(
                title="Server processes",
                text="Running ones and those of the warm pool, and those that wait to be started.",
                queries={
                    "{{server}} running": _now("mcp_bridge_processes", "server"),
                    "{{server}} spare": _now("mcp_bridge_spare_processes", "server"),
                    "{{server}} waiting": _now("mcp_bridge_start_queue", "server"),
                },
            ),
            Graph(
                title="Bridges that sleep",
                text="1: the bridge has exited because nobody uses it, and the next request starts it.",
                queries={"{{server}}": _now("mcp_bridge_asleep", "server")},
            ),
            Graph(
                title="Starts and crashes",
                text="A crash is an end that the bridge did not ask for, such as that of a process that was killed.",
                queries={
                    "{{server}} starts": _within("mcp_bridge_spawns_total", "server"),
                    "{{server}} crashes": _within("mcp_bridge_crashes_total", "server"),
                },
            ),
            Graph(
                title="Time to start",
                text="From asking for a process until it first answered, for 95 % of the starts.",
                queries={"{{server}}": _percentile("mcp_bridge_start_seconds", "server")},
                unit="s",
            ),
            Graph(
                title="Calls in flight, streams and sessions",
                text="Calls that are not answered yet, those that wait for their client, event streams and sessions.",
                queries={
                    "{{server}} calls": _now("mcp_bridge_calls_in_flight", "server"),
                    "{{server}} suspended": _now("mcp_bridge_parked_calls", "server"),
                    "{{server}} streams": _now("mcp_bridge_open_streams", "server"),
                    "{{server}} sessions": _now("mcp_bridge_sessions", "server"),
                },
            ),
            Graph(
                title="Traffic with servers",
                text="Bytes on the servers' pipes.",
                queries={
                    "{{server}} to": _per_second("mcp_bridge_to_server_bytes_total", "server"),
                    "{{server}} from": _per_second("mcp_bridge_from_server_bytes_total", "server"),
                },
                unit="Bps",
            ),
            Graph(
                title="Limits that were reached",
                text="Evicted sessions and processes, requests that the bridge refused, calls that took too long.",
                queries={
                    "{{server}} evicted": _within("mcp_bridge_evicted_total", "server"),
                    "{{server}} refused": _within("mcp_bridge_refused_total", "server"),
                    "{{server}} too late": _within("mcp_bridge_call_timeouts_total", "server"),
                },
            ),
            Graph(
                title="Non-JSON output",
                text="Lines of servers that are no messages, and messages without a recipient.",
                queries={
                    "{{server}} lines": _within("mcp_bridge_skipped_lines_total", "server"),
                    "{{server}} dropped": _within("mcp_bridge_dropped_messages_total", "server"),
                },
            ),
            Graph(
                title="Tools that the lock file hides",
                text="Tools that are new, changed or listed twice, of servers with a lock file.",
                queries={"{{server}} {{reason}}": f"max by (server, reason) (mcp_bridge_hidden_tools{{{_SERVERS}}})"},
            ),
            Graph(
                title="Health check",
                text="How long the health check's last session took to open.",
                queries={
                    "{{server}} {{endpoint}}": _now(
                        "mcp_gateway_server_handshake_seconds", "server, endpoint", 'server=~"$server"'
                    )
                },
                unit="s",
            ),
        ),
    ),
    Section(
        "Hosts",
        (
            Graph(
                title="Redis",
                text="1: every worker of the auth service hears from Redis, and Redis takes writes.",
                queries={
                    "{{instance}} answers": f"min by (instance) (mcp_gateway_redis_up{{{_PROGRAMS}}})",
                    "{{instance}} takes writes": f"min by (instance) (mcp_gateway_redis_writable{{{_PROGRAMS}}})",
                },
            ),
            Graph(
                title="Backends as Traefik finds them",
                text="1: ready. There are values with several hosts, or several bridges of a server.",
                queries={"{{url}}": f"min by (url) (traefik_service_server_up{{{_PROGRAMS}}})"},
            ),
            Graph(
                title="Revocation notices and warnings",
                text="Notices that no bridge took, and warnings and errors in the log of the auth service.",
                queries={
                    "{{outcome}}": _within(
                        "mcp_gateway_revocation_notices_total", "outcome", f'{_PROGRAMS}, outcome="undelivered"'
                    ),
                    "{{level}}": _within("mcp_gateway_log_messages_total", "level", _PROGRAMS),
                },
            ),
            Graph(
                title="Certificates",
                text="How long each certificate of Traefik is still good.",
                queries={"{{cn}}": f"min by (cn) (traefik_tls_certs_not_after{{{_PROGRAMS}}}) - time()"},
                unit="s",
            ),
            Graph(
                title="Free space",
                text="The share of each file system that is free.",
                queries={
                    "{{instance}} {{mountpoint}}": (
                        f'node_filesystem_avail_bytes{{{_HOSTS}, fstype!~"tmpfs|ramfs"}} / node_filesystem_size_bytes'
                    )
                },
                unit="percentunit",
            ),
            Graph(
                title="Failed units",
                text="Units of the gateway that systemd has given up on.",
                queries={"{{instance}} {{name}}": f'node_systemd_unit_state{{{_HOSTS}, state="failed"}} == 1'},
            ),
        ),
    ),
)


def render() -> str:
    """Return the dashboard as JSON."""
    dashboard = (
        Dashboard("MCP OAuth Gateway")
        .uid("mcp-oauth-gateway")
        .description("Calls, access, servers and hosts of an MCP OAuth Gateway.")
        .tags(["mcp"])
        .readonly()
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("server")
            .label("Server")
            .datasource(_SOURCE)
            .query(f'label_values(up{{{_PROGRAMS}, part="bridge"}}, server)')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    numbers = itertools.count(1)
    for section in SECTIONS:
        dashboard = dashboard.with_row(Row(section.title).id(next(numbers)))
        for panel in section.panels:
            built = _number(panel) if isinstance(panel, Number) else _graph(panel)
            dashboard = dashboard.with_panel(built.id(next(numbers)))
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard.build()) + "\n"


def _number(panel: Number) -> StatPanel:
    steps = [Threshold(value=None, color="green")]
    if panel.bad is not None:
        steps.append(Threshold(value=panel.bad, color="red"))
    return (
        StatPanel()
        .title(panel.title)
        .description(panel.text)
        .datasource(_SOURCE)
        .span(4)
        .height(4)
        .unit(panel.unit)
        .color_mode(BigValueColorMode.VALUE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_query("A", panel.query, legend=""))
    )


def _graph(panel: Graph) -> TimeseriesPanel:
    built = (
        TimeseriesPanel()
        .title(panel.title)
        .description(panel.text)
        .datasource(_SOURCE)
        .span(12)
        .height(8)
        .unit(panel.unit)
        .min(0)
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(30 if panel.stacked else 0)
        .stacking(StackingConfig().mode(StackingMode.NORMAL if panel.stacked else StackingMode.NONE))
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for letter, (legend, query) in zip("ABCDE", panel.queries.items(), strict=False):
        built = built.with_target(_query(letter, query, legend=legend))
    return built


def _query(letter: str, query: str, *, legend: str) -> Dataquery:
    return Dataquery().ref_id(letter).datasource(_SOURCE).expr(query).legend_format(legend).range()


if __name__ == "__main__":
    FILE.write_text(render())
