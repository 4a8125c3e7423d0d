"""OpenAPI description of the requests, and a page of it that loads nothing from other hosts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pydantic import TypeAdapter

from hipie.serve.bodies import Upload
from hipie.serve.fields import Fields

PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid;vertical-align:top}"
    "h2 code{font-size:1.1rem}"
)
_ERRORS = {
    "400": "malformed request",
    "401": "without the token, or with another one",
    "408": "the request arrives too slowly",
    "413": "the request is too large, or an image has too many pixels",
    "415": "neither multipart/form-data nor application/json",
    "422": "a field, an image or a name that cannot be used",
    "429": "too many requests at a time",
    "503": "the model is loading or does not answer in time",
}


def describe_request(fields: type[Fields]) -> dict[str, Any]:
    """Return the OpenAPI description of an endpoint's request body and refusals.

    Args:
        fields: the fields of the request. In JSON, files are strings in base64.
    """
    text: dict[str, Any] = {"type": "string", "description": "an image file in base64"}
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    in_json, in_form = {}, {}
    for name, field in fields.model_fields.items():
        description = {"description": field.description} if field.description else {}
        if field.annotation is Upload:
            in_json[name], in_form[name] = text, file
        elif field.annotation == list[Upload]:
            in_json[name] = {"type": "array", "items": text, **description}
            in_form[name] = {"type": "array", "items": file, **description}
        else:
            schema = _schema(fields, name)
            in_json[name] = schema
            repeated = field.annotation == list[str]
            in_form[name] = schema if repeated else {"type": "string", **description}
    required = [name for name, field in fields.model_fields.items() if field.is_required()]
    common = {"type": "object", "required": required, "additionalProperties": False}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {**common, "properties": in_form}},
                "application/json": {"schema": {**common, "properties": in_json}},
            },
        },
        "responses": {
            "200": {
                "description": "the segments; a drawing if the Accept header prefers image/png",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "image/png": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **{
                status: {"description": description, "content": error}
                for status, description in _ERRORS.items()
            },
        },
    }


def _schema(fields: type[Fields], name: str) -> dict[str, Any]:
    """JSON schema of one field that is no file."""
    field = fields.model_fields[name]
    annotation: Any = field.annotation
    schema = TypeAdapter(annotation).json_schema()
    return {**schema, "description": field.description} if field.description else schema


def page(description: Mapping[str, Any]) -> str:
    """Return the HTML page of an OpenAPI description.

    Args:
        description: the content of /openapi.json.
    """
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    sections = [
        _section(method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
        f"<p>{escape(description['info'].get('description', ''))} The description for programs is "
        '<a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}</main></body></html>"
    )


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("multipart/form-data", {}).get("schema", {})
    rows = [
        f"<tr><td><code>{escape(name)}</code></td>"
        f"<td>{'required' if name in schema['required'] else 'optional'}</td>"
        f"<td>{escape(_kind(field))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    ]
    table = (
        "<table><thead><tr><th>field</th><th></th><th>value</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        if rows
        else ""
    )
    answers = "; ".join(
        f"{status}: {answer['description']}" for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>{table}"
        f"<p>{escape(answers)}</p>"
    )


def _kind(field: Mapping[str, Any]) -> str:
    is_file = "binary" in (field.get("format"), field.get("items", {}).get("format"))
    kind = "a file" if is_file else "text"
    return f"{kind}; {field['description']}" if "description" in field else kind
