import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import load_recipe, recipe_schema
from pipeline.recipe.losses import OfFeatures
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.schema import Dataset, Images, Table
from pipeline.recipe.training import Evaluation

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "data/recipes").glob("*.toml"))
TEMPLATES = sorted((ROOT / "pipeline/starters/templates").glob("*/*.toml"))
# These only hand on what their kinds share.
SHARED = {table.__name__ for table in (Dataset, Images, Evaluation, OfFeatures)}
SCHEMA = recipe_schema()


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from nodes(each)


def names_of(parent: type[Table]) -> set[str]:
    return {
        name for table in parent.__subclasses__() for name in {table.__name__, *names_of(table)}
    }


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Follow the schema as far as it names keys, kinds and choices."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "discriminator" in schema:
        return accepts({"$ref": schema["discriminator"]["mapping"][value["kind"]]}, value)
    if "anyOf" in schema:
        return any(accepts(option, value) for option in schema["anyOf"])
    if isinstance(value, dict):
        fields, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        return (
            schema.get("type") == "object"
            and set(schema.get("required", [])) <= set(value)
            and (more is not False or set(value) <= set(fields))
            and all(
                accepts(fields.get(key, more) or {}, each)
                for key, each in value.items()
                if key in fields or isinstance(more, dict)
            )
        )
    if isinstance(value, list):
        kinds = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        return schema.get("type") == "array" and all(map(accepts, kinds, value))
    types = {str: "string", bool: "boolean", int: "integer", float: "number"}
    fits = schema.get("type") in (types[type(value)], "number" if type(value) is int else None)
    return (fits or "type" not in schema) and value in schema.get("enum", [value])


@pytest.mark.parametrize("path", SHIPPED + TEMPLATES, ids=lambda path: path.name)
def test_shipped_recipes_load_and_fit_their_schema(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert accepts(SCHEMA, tomllib.loads(path.read_text()))


def test_the_schema_follows_what_the_loader_refuses() -> None:
    text = (ROOT / "data/recipes/digits-teacher.toml").read_text()
    assert not accepts(SCHEMA, tomllib.loads(f"nmae = 1\n{text}"))
    assert not accepts(SCHEMA, tomllib.loads(text.replace("batch_size = 64", "batch_sise = 64")))
    assert not accepts(SCHEMA, tomllib.loads(text.replace("1e-3", '"1e-3"').replace("2e-3", '"2"')))


def test_the_schema_knows_every_table_and_no_unknown_key() -> None:
    assert names_of(Table) - SHARED - {Recipe.__name__} == set(SCHEMA["$defs"])
    objects = [node for node in (SCHEMA, *SCHEMA["$defs"].values()) if "properties" in node]
    assert all(node["additionalProperties"] is False for node in objects)
    assert all(set(node.get("required", [])) <= set(node["properties"]) for node in objects)


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    references = [node["$ref"] for node in nodes(SCHEMA) if isinstance(node.get("$ref"), str)]
    chosen = [
        reference
        for node in nodes(SCHEMA)
        if "discriminator" in node
        for reference in node["discriminator"]["mapping"].values()
    ]
    known = {f"#/$defs/{name}" for name in SCHEMA["$defs"]}
    assert chosen
    assert set(references + chosen) == known
