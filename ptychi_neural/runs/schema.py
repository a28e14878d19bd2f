"""The JSON schema of run files, with which editors complete and check them."""

import math
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ptychi_neural.runs.configuration import annotations
from ptychi_neural.runs.run_file import ENGINES, Sections

DEFAULT_ENGINE = Sections.model_fields["engine"].default


class _OfRunFiles(GenerateJsonSchema):
    """Arrays and tensors, which no run file holds, may be anything; TOML has ``"none"``."""

    ignored_warning_kinds = set(("skipped-choice", "non-serializable-default"))  # noqa: C405, RUF012

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
    for name, section in schema["properties"].items():  # A mistake is told of a key inside it.
        schema["properties"][name] = section.get("anyOf", [section])[0]
    for definition in schema["$defs"].values():  # Kinds are told by name, defaults or not.
        if "const" in definition.get("properties", {}).get("kind", {}):
            definition["required"] = sorted({*definition.get("required", []), "kind"})
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
        condition: dict[str, Any] = {"properties": {"engine": {"const": name}}}
        if name != DEFAULT_ENGINE:
            condition["required"] = ["engine"]
        rules.append({"if": condition, "then": {"properties": groups}})
    refinement = {"type": "object", "properties": {"engine": {"enum": list(ENGINES)}}}
    schema["properties"]["refine"] = refinement | {"required": ["engine"]}
    schema |= {"title": "Run file of ptychi-neural", "allOf": rules}
    return _plain({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


def _plain(part: Any) -> Any:
    """The schema without defaults that JSON or TOML cannot tell: None, infinity."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    default = part.get("default", 0)
    untold = default is None or (isinstance(default, float) and not math.isfinite(default))
    return {key: _plain(value) for key, value in part.items() if key != "default" or not untold}


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option group, in which keys must be known."""
    return schema | ({"additionalProperties": False} if "properties" in schema else {})
