"""Every problem of a recipe at once: dotted key, value given, what is allowed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pipeline.errors import near_miss

Schema = Mapping[str, Any]
Key = str | int

# Where a value may be any of these, pydantic finds one problem for each, and names it in the key.
SCALARS = ("str", "int", "float", "bool")
# pydantic's type of a problem -> what is allowed, where its own words are not a user's.
ALLOWED = {
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "tuple_type": "a list",
    "string_type": "text",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} character",
    "string_pattern_mismatch": "a name that matches {pattern}",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "less_than": "less than {lt:g}",
}


def describe(error: ValidationError, written: Mapping[str, Any], schema: Schema) -> list[str]:
    """Turn pydantic's findings into lines such as `training.epochs: must be at least 1; got 0`."""
    found = [each for each in error.errors(include_url=False) if not _follows(each)]
    return list(dict.fromkeys(_line(each, written, schema) for each in found))


def _follows(found: Mapping[str, Any]) -> bool:
    """Whether a list is only called too short because a value in it is wrong."""
    return found["type"] == "too_short" and bool(found["input"])


def _line(found: Mapping[str, Any], written: Mapping[str, Any], schema: Schema) -> str:
    path = list(_without_tags(found["loc"], written))
    key = ".".join(map(str, path))
    if found["type"] == "extra_forbidden":
        allowed = sorted(_properties(schema, path[:-1], written))
        return f"{key}: unknown key{near_miss(str(path[-1]), allowed)}"
    if found["type"] == "missing":
        return f"{key}: is missing"
    if len(path) < len(found["loc"]) and found["loc"][-1] in SCALARS:
        return f"{key}: must be text, a number, true or false; got {found['input']!r}"
    return f"{key}: {_expectation(found)}"


def _expectation(found: Mapping[str, Any]) -> str:
    context = found.get("ctx", {})
    if found["type"] == "union_tag_not_found":
        return 'kind is missing; give kind = "..."'
    if found["type"] == "union_tag_invalid":
        tags = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
        return f"unknown kind '{context['tag']}'{near_miss(context['tag'], tags)}"
    allowed = found["msg"].removeprefix("Input should be ")
    if found["type"] in ALLOWED:
        allowed = ALLOWED[found["type"]].format(**context)
    return f"must be {allowed}; got {found['input']!r}"


def _without_tags(loc: Sequence[Key], written: Any) -> Iterator[Key]:
    """Drop the kinds that pydantic puts between the keys of a discriminated choice."""
    for step in loc:
        if isinstance(written, Mapping) and step not in written and step == written.get("kind"):
            continue
        if isinstance(step, str) and not isinstance(written, Mapping):
            continue  # which of several things a value may be, such as a list or a name
        if step in SCALARS and step not in written:
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
            found: Schema = node
            return found
