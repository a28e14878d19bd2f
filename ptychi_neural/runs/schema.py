"""The JSON schema of run files, with which editors complete and check them."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ptychi_neural.runs.configuration import annotations
from ptychi_neural.runs.run_file import ENGINES, Sections


class _OfRunFiles(GenerateJsonSchema):
    """Arrays and tensors, which no run file holds, may be anything; TOML has ``"none"``."""

    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        return {}

    def null_schema(self, schema: core_schema.NoneSchema) -> JsonSchemaValue:
        return {"const": "none"}


def run_file_schema() -> dict[str, Any]:
    """The schema of a run file (JSON Schema 2020-12): sections, and the options of every engine.

    Examples
    --------
    >>> sorted(run_file_schema()["properties"])[:4]
    ['data', 'data_options', 'engine', 'object_options']
    """
    schema = TypeAdapter(Sections).json_schema(schema_generator=_OfRunFiles)
    definitions = schema.setdefault("$defs", {})
    rules = []
    for name, options_class in ENGINES.items():
        groups = {}
        for group, kind in annotations(options_class).items():
            groups[group] = TypeAdapter(kind).json_schema(
                schema_generator=_OfRunFiles, ref_template=f"#/$defs/{name}.{{model}}"
            )
            for model, definition in groups[group].pop("$defs", {}).items():
                definitions[f"{name}.{model}"] = _strict(definition)
            groups[group] = _strict(groups[group])
            schema["properties"].setdefault(group, {})
        rules.append(
            {
                "if": {"properties": {"engine": {"const": name}}},
                "then": {"properties": groups},
            }
        )
    refinement = {"type": "object", "properties": {"engine": {"enum": list(ENGINES)}}}
    schema["properties"]["refine"] = refinement | {"required": ["engine"]}
    schema |= {"title": "Run file of ptychi-neural", "allOf": rules}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option group, in which keys must be known."""
    return schema | ({"additionalProperties": False} if "properties" in schema else {})
