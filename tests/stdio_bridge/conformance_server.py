"""A stdio server with the fixed names that the conformance suite expects: both eras, on the `mcp` package."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp import MCPDeprecationWarning, MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged

warnings.simplefilter("ignore", MCPDeprecationWarning)

Context = ServerRequestContext[Any, Any]
Result = dict[str, Any]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
PAUSE_SECONDS = 0.05

bus = InMemorySubscriptionBus()


def text(value: str, **members: Any) -> Result:
    return {"content": [{"type": "text", "text": value}], **members}


def content(*blocks: Result) -> Result:
    return {"content": list(blocks)}


def resource(uri: str, mime_type: str, value: str) -> Result:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


def form(message: str, **properties: Any) -> Result:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sampling(prompt: str) -> Result:
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 100}}


STRING = {"type": "string"}
ROOTS: Result = {"method": "roots/list", "params": {}}
IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}

FIXED = {
    "test_simple_text": text("This is a simple text response for testing."),
    "test_image_content": content(IMAGE),
    "test_audio_content": content({"type": "audio", "data": WAV, "mimeType": "audio/wav"}),
    "test_embedded_resource": content(
        resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ),
    "test_multiple_content_types": content(
        {"type": "text", "text": "Multiple content types test:"},
        IMAGE,
        resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ),
    "test_mirrored_parameter": text("here"),
    "json_schema_2020_12_tool": text("valid"),
    "test_error_handling": text("This tool intentionally returns an error for testing", isError=True),
}

# What each asks for in turn; the last answer completes it.
ROUNDS: dict[str, list[Result]] = {
    "test_input_required_result_elicitation": [{"user_name": form("What is your name?", name=STRING)}],
    "test_input_required_result_sampling": [{"capital_question": sampling("What is the capital of France?")}],
    "test_input_required_result_list_roots": [{"client_roots": ROOTS}],
    "test_input_required_result_request_state": [{"confirm": form("Please confirm", ok={"type": "boolean"})}],
    "test_input_required_result_tampered_state": [{"confirm": form("Please confirm", ok={"type": "boolean"})}],
    "test_input_required_result_multiple_inputs": [
        {
            "user_name": form("What is your name?", name=STRING),
            "greeting": sampling("Generate a greeting"),
            "client_roots": ROOTS,
        }
    ],
    "test_input_required_result_multi_round": [
        {"step1": form("Step 1: What is your name?", name=STRING)},
        {"step2": form("Step 2: What is your favorite color?", color=STRING)},
    ],
    "test_input_required_result_prompt": [{"user_context": form("What context?", context=STRING)}],
    "test_streaming_elicitation": [{"user_name": form("What is your name?", name=STRING)}],
}


def next_round(name: str, params: Any) -> types.InputRequiredResult | None:
    """Ask for what is missing, or tell that nothing is."""
    number = int(params.request_state or 0)
    given = params.input_responses or {}
    if all(key in given for key in ROUNDS[name][number]):
        number += 1
    if number == len(ROUNDS[name]):
        return None
    return types.InputRequiredResult.model_validate(
        {"inputRequests": ROUNDS[name][number], "requestState": str(number)}
    )


async def with_logging(ctx: Context, arguments: Result) -> Result:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", line, related_request_id=ctx.request_id)
        await asyncio.sleep(PAUSE_SECONDS)
    return text("logged")


async def with_progress(ctx: Context, arguments: Result) -> Result:
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100)
        await asyncio.sleep(PAUSE_SECONDS)
    return text("done")


async def ask_model(ctx: Context, arguments: Result) -> Result:
    prompt = types.TextContent(type="text", text=arguments["prompt"])
    answer = await ctx.session.create_message([types.SamplingMessage(role="user", content=prompt)], max_tokens=100)
    said = answer.content.text if isinstance(answer.content, types.TextContent) else ""
    return text(f"LLM response: {said}")


async def elicit(ctx: Context, message: str, properties: Result) -> types.ElicitResult:
    return await ctx.session.elicit_form(message, form(message, **properties)["params"]["requestedSchema"])


async def ask_user(ctx: Context, arguments: Result) -> Result:
    answer = await elicit(ctx, arguments["message"], {"username": STRING, "email": STRING})
    return text(f"User response: action={answer.action}, content={answer.content}")


def asking(properties: Result) -> Callable[[Context, Result], Awaitable[Result]]:
    async def tool(ctx: Context, arguments: Result) -> Result:
        answer = await elicit(ctx, "Please choose", properties)
        return text(f"Elicitation completed: action={answer.action}, content={answer.content}")

    return tool


def titled(key: str, names: dict[str, str]) -> Result:
    return {key: [{"const": value, "title": title} for value, title in names.items()]}


DEFAULTS: Result = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
OPTIONS = ["option1", "option2", "option3"]
ENUMS: Result = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {"type": "string", **titled("oneOf", {"value1": "First Option", "value2": "Second Option"})},
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": titled("anyOf", {"value1": "First Choice", "value2": "Second Choice"})},
}


async def need_sampling(ctx: Context, arguments: Result) -> Result:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        data: Result = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is required", data)
    return text("sampling is there")


async def ask_as_declared(ctx: Context, arguments: Result) -> types.InputRequiredResult | Result:
    declared = ctx.session.client_capabilities
    requests: Result = {}
    if declared is not None and declared.sampling is not None:
        requests["question"] = sampling("What is the capital of France?")
    if declared is not None and declared.elicitation is not None:
        requests["name"] = form("What is your name?", name=STRING)
    return types.InputRequiredResult.model_validate({"inputRequests": requests}) if requests else text("nothing to ask")


def changing(event: Any) -> Callable[[Context, Result], Awaitable[Result]]:
    async def tool(ctx: Context, arguments: Result) -> Result:
        await bus.publish(event)
        return text("changed")

    return tool


ACTIVE: dict[str, Callable[[Context, Result], Awaitable[Any]]] = {
    "test_tool_with_logging": with_logging,
    "test_logging_tool": with_logging,
    "test_tool_with_progress": with_progress,
    "test_sampling": ask_model,
    "test_elicitation": ask_user,
    "test_elicitation_sep1034_defaults": asking(DEFAULTS),
    "test_elicitation_sep1330_enums": asking(ENUMS),
    "test_missing_capability": need_sampling,
    "test_input_required_result_capabilities": ask_as_declared,
    "test_trigger_tool_change": changing(ToolsListChanged()),
    "test_trigger_prompt_change": changing(PromptsListChanged()),
}
EMPTY: Result = {"type": "object", "properties": {}}
SCHEMAS: dict[str, Result] = {
    "test_sampling": {"type": "object", "properties": {"prompt": STRING}},
    "test_elicitation": {"type": "object", "properties": {"message": STRING}},
    "test_mirrored_parameter": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
        "required": ["region"],
    },
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": STRING}}},
        "properties": {"address": {"$ref": "#/$defs/address"}, "contactMethod": {"enum": ["phone", "email"]}},
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
}
TOOLS = sorted({*FIXED, *ACTIVE, *ROUNDS} - {"test_input_required_result_prompt"})


async def list_tools(ctx: Context, params: Any) -> types.ListToolsResult:
    tools = [{"name": name, "description": name, "inputSchema": SCHEMAS.get(name, EMPTY)} for name in TOOLS]
    return types.ListToolsResult.model_validate({"tools": tools})


async def call_tool(
    ctx: Context, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    result: Any
    if params.name in ROUNDS:
        result = next_round(params.name, params) or text(f"state-ok: {sorted(params.input_responses or {})}")
    elif params.name in FIXED:
        result = FIXED[params.name]
    elif params.name in ACTIVE:
        result = await ACTIVE[params.name](ctx, params.arguments or {})
    else:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    return types.CallToolResult.model_validate(result) if isinstance(result, dict) else result


RESOURCES = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched"},
}


async def list_resources(ctx: Context, params: Any) -> types.ListResourcesResult:
    listed = [{"uri": uri, "name": uri, "description": uri, "mimeType": r["mimeType"]} for uri, r in RESOURCES.items()]
    return types.ListResourcesResult.model_validate({"resources": listed})


async def list_templates(ctx: Context, params: Any) -> types.ListResourceTemplatesResult:
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    found = RESOURCES.get(uri)
    if uri.startswith("test://template/"):
        number = uri.split("/")[3]
        body = f'{{"id":"{number}","templateTest":true,"data":"Data for ID: {number}"}}'
        found = {"mimeType": "application/json", "text": body}
    if found is None:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri, **found}]})


def user(block: Result) -> Result:
    return {"role": "user", "content": block}


PROMPTS: dict[str, list[str]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(ctx: Context, params: Any) -> types.ListPromptsResult:
    prompts = [
        {"name": name, "description": name, "arguments": [{"name": a, "required": True} for a in arguments]}
        for name, arguments in PROMPTS.items()
    ]
    return types.ListPromptsResult.model_validate({"prompts": prompts})


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given = params.arguments or {}
    if params.name == "test_input_required_result_prompt" and (asked := next_round(params.name, params)):
        return asked
    said = {
        "test_simple_prompt": ["This is a simple prompt for testing."],
        "test_prompt_with_arguments": [
            f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"
        ],
        "test_prompt_with_embedded_resource": ["Please process the embedded resource above."],
        "test_prompt_with_image": ["Please analyze the image above."],
        "test_input_required_result_prompt": ["Here is your prompt."],
    }[params.name]
    messages = [user({"type": "text", "text": line}) for line in said]
    if params.name == "test_prompt_with_image":
        messages.insert(0, user(IMAGE))
    if params.name == "test_prompt_with_embedded_resource":
        embedded = resource(given["resourceUri"], "text/plain", "Embedded resource content for testing.")
        messages.insert(0, user(embedded))
    return types.GetPromptResult.model_validate({"messages": messages})


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    return types.CompleteResult.model_validate({"completion": {"values": ["paris", "park"], "total": 2}})


async def done(ctx: Context, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


async def main() -> None:
    server: Server[Any] = Server(
        "conformance",
        version="1.0.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=done,
        on_unsubscribe_resource=done,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=done,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="conformance"))
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
