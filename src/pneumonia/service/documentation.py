"""The page `/docs`: the routes of the service from its OpenAPI description, without anything from another server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any


def page(description: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    info = description["info"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])}: routes</title>",
            '<link rel="stylesheet" href="/page.css">',
            f'<body class="routes"><header><h1>{escape(info["title"])}</h1></header>',
            f"<main><p>{escape(info['description'])}</p>",
            '<p>For programs: <a href="/openapi.json">/openapi.json</a>. For people: <a href="/">the page</a>.</p>',
            *(
                part
                for path, operations in description["paths"].items()
                for method, operation in operations.items()
                for part in _route(method, path, operation)
            ),
            "</main></body></html>",
        ]
    )


def _route(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
    if text := operation.get("description"):
        yield f"<p>{escape(text)}</p>"
    rows = [("query", one["name"], one.get("description", "")) for one in operation.get("parameters", [])]
    body = operation.get("requestBody", {})
    rows += [("body", ", ".join(body["content"]), body.get("description", ""))] if body else []
    rows += [("status", status, answer["description"]) for status, answer in operation["responses"].items()]
    yield "<table><tbody>"
    yield from (
        f'<tr><th scope="row">{kind}<td><code>{escape(name)}</code><td>{escape(text)}' for kind, name, text in rows
    )
    yield "</table></section>"
