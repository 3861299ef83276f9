"""Every problem of a recipe at once: dotted key, value given, what is allowed."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

Schema = Mapping[str, Any]
Key = str | int


def describe(error: ValidationError, written: Mapping[str, Any], schema: Schema) -> list[str]:
    """Turn pydantic's findings into lines such as `training.epochs: must be at least 1; got 0`."""
    return [_line(each, written, schema) for each in error.errors(include_url=False)]


def _line(found: Mapping[str, Any], written: Mapping[str, Any], schema: Schema) -> str:
    path = list(_without_tags(found["loc"], written))
    key = ".".join(map(str, path))
    if found["type"] == "extra_forbidden":
        allowed = sorted(_properties(schema, path[:-1], written))
        return f"{key}: unknown key{near_miss(str(path[-1]), allowed)}"
    if found["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {_expectation(found)}"


def near_miss(word: str, allowed: Sequence[str]) -> str:
    """Name the closest allowed word, or all of them where none is close."""
    close = get_close_matches(word, allowed, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; allowed: {', '.join(allowed)}" if allowed else ""


def _expectation(found: Mapping[str, Any]) -> str:
    context = found.get("ctx", {})
    value = found["input"]
    match found["type"]:
        case "union_tag_not_found":
            return 'kind is missing; give kind = "..."'
        case "union_tag_invalid":
            tags = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
            return f"unknown kind '{context['tag']}'{near_miss(context['tag'], tags)}"
        case "literal_error":
            return f"must be {context['expected']}; got {value!r}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}; got {value!r}"
        case "greater_than":
            return f"must be greater than {context['gt']}; got {value!r}"
        case "less_than":
            return f"must be less than {context['lt']}; got {value!r}"
        case _:
            message = found["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
            return f"must be {message}; got {value!r}"


def _without_tags(loc: Sequence[Key], written: Any) -> Iterator[Key]:
    """Drop the kinds that pydantic puts between the keys of a discriminated choice."""
    for step in loc:
        if isinstance(written, Mapping) and step not in written and step == written.get("kind"):
            continue
        yield step
        written = _child(written, step)


def _child(written: Any, step: Key) -> Any:
    if isinstance(written, Mapping):
        return written.get(step)
    if isinstance(written, list) and isinstance(step, int) and step < len(written):
        return written[step]
    return None


def _properties(schema: Schema, path: Sequence[Key], written: Any) -> list[str]:
    """List the keys a table of the JSON Schema allows, following the kinds that were written."""
    node = _resolve(schema, schema, written)
    for step in path:
        written = _child(written, step)
        if isinstance(step, int):
            node = node["items"]
        else:
            node = node.get("properties", {}).get(step) or node.get("additionalProperties", {})
        node = _resolve(schema, node, written)
    return list(node.get("properties", {}))


def _resolve(schema: Schema, node: Any, written: Any) -> Schema:
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        elif "discriminator" in node:
            kind = written.get("kind") if isinstance(written, Mapping) else None
            node = {"$ref": node["discriminator"]["mapping"][kind]}
        elif "anyOf" in node:
            node = next(option for option in node["anyOf"] if option.get("type") != "null")
        else:
            return node  # type: ignore[no-any-return]  # JSON
