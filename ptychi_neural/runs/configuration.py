"""Contents of TOML, YAML and JSON files: reading, merging, comparing, and checking by models.

Contents are nested dictionaries, and a key is named by the dotted path to it, such as
``reconstructor_options.num_epochs``.
"""

import difflib
import json
import re
import sys
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ptychi_neural.counted import uncountable
from ptychi_neural.scans.hdf5 import damage_told

YAML = (".yaml", ".yml", ".json")
"""Endings of files that are read as YAML, of which JSON is a part."""

STDIN = Path("-")
"""What stands for standard input, which is read as YAML."""


class RunFileError(ValueError):
    """Everything that is wrong with a run file.

    Attributes
    ----------
    problems : list of str
        One line each, led by the dotted name of the key.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n  - ".join([f"{source} cannot be run:", *problems]))
        self.problems = problems


def has_keys(path: str | Path) -> bool:
    """Whether a file is one of keys, as run files are, by its ending."""
    return Path(path).suffix.lower() in (".toml", *YAML)


def read_keys(path: Path) -> dict[str, Any]:
    """Read the contents of a TOML file, of a YAML file, which its ending tells, or of ``STDIN``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the file is not valid, or no table of keys.
    """
    language = "YAML" if path == STDIN or path.suffix.lower() in YAML else "TOML"
    try:
        # Some editors add a mark.
        text = sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8-sig")
        return _of_yaml(text) if language == "YAML" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file; check the name.") from error
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    except UnicodeDecodeError as error:
        problem = "no text file; ptychi-neural init writes a run file for the files of a scan"
        raise RunFileError(str(path), [problem]) from error
    except (ValueError, yaml.YAMLError) as error:  # of numbers of thousands of digits, too
        raise RunFileError(str(path), [f"not valid {language}: {error}"]) from error
    except RecursionError as error:
        raise RunFileError(str(path), ["nested too deeply; make it flatter"]) from error


class _Loader(yaml.SafeLoader):
    """It takes 1e5 for a number, as YAML 1.2 does, and no aliases, which make small files huge."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("write values out instead of an alias (*name)")
        return super().compose_node(parent, index)


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _of_yaml(text: str) -> dict[str, Any]:
    contents = yaml.load(text, _Loader)
    if not isinstance(contents, dict):
        raise ValueError("a table of keys is expected (key: value)")
    return contents


def read_json(path: Path) -> dict[str, Any]:
    """Read the names and values in a JSON file.

    Raises
    ------
    ValueError
        Naming the file, if it holds something else.
    """
    with damage_told(path):
        return dict(json.loads(path.read_text(encoding="utf-8")))


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Read contents of a run file from ``dotted.key=value``, the value as in TOML or a bare word.

    Raises
    ------
    RunFileError
        If a change is not of that form.

    Examples
    --------
    >>> parse_changes(["engine=rpie", "reconstructor_options.num_epochs=5"])
    {'engine': 'rpie', 'reconstructor_options': {'num_epochs': 5}}
    """
    contents: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        for text in (change, f"{key}{equals}{json.dumps(value)}"):
            try:
                changed = tomllib.loads(text)
            except ValueError:  # It is no TOML, or a number of thousands of digits.
                continue
            if changed:  # and not empty, or a comment
                contents = merged(contents, changed)
                break
        else:
            raise RunFileError("--set", [f"{change!r} is not dotted.key=value"])
    return contents


def data_changes(changes: Sequence[str], *also: str) -> dict[str, Any]:
    """Read changes of the scan's sections: ``[data]`` and those in ``also``.

    Raises
    ------
    RunFileError
        If a change is not of that form, or of another section, which would have no effect.
    """
    contents = parse_changes(changes)
    if others := sorted(contents.keys() - {"data", *also}):
        sections = " and ".join(f"[{name}]" for name in ("data", *also))
        problem = f"has no effect here: --set takes keys of {sections}"
        raise RunFileError("--set", [f"{name}: {problem}" for name in others])
    return contents


def merged(contents: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes into contents; keys may be dotted, and later changes replace earlier ones.

    Examples
    --------
    >>> merged({"a": {"b": 1, "c": 2}}, {"a.b": 3}, {"d": {"e": 4}})
    {'a': {'b': 3, 'c': 2}, 'd': {'e': 4}}
    """
    result = dict(contents)
    for change in changes:
        for dotted, value in change.items():
            key, _, rest = dotted.partition(".")
            value = {rest: value} if rest else value
            if isinstance(value, dict):
                before = result.get(key)
                value = merged(before if isinstance(before, dict) else {}, value)
            result[key] = value
    return result


def flattened(contents: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested contents to values by their dotted names.

    Examples
    --------
    >>> flattened({"a": {"b": 3, "c": [2]}, "d": 4})
    {'a.b': 3, 'a.c': [2], 'd': 4}
    """
    values: dict[str, Any] = {}
    for name, value in contents.items():
        if isinstance(value, dict):
            values |= flattened(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def differing(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """List the dotted names that differ between two contents; items of lists are named by index.

    Examples
    --------
    >>> differing({"a": {"b": 1, "c": [1, 2]}, "d": 4}, {"a": {"b": 1, "c": [1, 3]}, "e": 5})
    ['a.c.1', 'd', 'e']
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        pairs = {key: (ours.get(key), theirs.get(key)) for key in [*ours, *theirs]}
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = {str(i): pair for i, pair in enumerate(zip(ours, theirs))}
    else:
        return [] if ours == theirs else [name]
    prefix = f"{name}." if name else ""
    return [
        line for key, (one, other) in pairs.items() for line in differing(one, other, prefix + key)
    ]


def validated(model: type, values: dict[str, Any], names: list[str], problems: list[str]) -> Any:
    """Make an instance of a pydantic model or dataclass, or add a line for each problem.

    Validation is that of JSON in strict mode: ``"3"`` or ``true`` is no integer, while the name
    of an enum's member is one.

    Parameters
    ----------
    model : type
        The model or dataclass.
    values : dict
        Contents that it is made of.
    names : list of str
        Dotted names of all keys that may be given, which unknown keys are compared with.
    problems : list of str
        Lines are added to it, each led by the dotted name of a key.

    Returns
    -------
    object or None
        None where there is a problem.
    """
    text = json.dumps(values, default=str)  # Dates and times become text, which no option takes.
    described: dict[str, list[str]] = {}
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    try:
        made = adapter.validate_json(text, strict=True)
        # As they were taken: whole numbers of counts, as 4294967295, have become real ones.
        described = {key: [told] for key, told in uncountable(adapter.dump_python(made))}
    except ValidationError as error:
        for detail in error.errors():
            unknown = detail["type"] in ("unexpected_keyword_argument", "extra_forbidden")
            key = _key(detail["loc"], names)
            if unknown:
                key = ".".join(filter(None, (key, str(detail["loc"][-1]))))
                message = "unknown key" + _suggestion(key, names)
            elif detail["type"].startswith("union_tag"):
                tag = detail.get("ctx", {}).get("tag")
                told = "required, one of" if tag is None else f"no {tag!r}, choose from"
                message = f"{told} {', '.join(_kinds(model, key))}"
                key = f"{key}.kind"
            elif detail["type"].startswith("missing"):
                last = detail["loc"][-1]
                is_key = isinstance(last, str)
                message = "required" if is_key else f"{detail['input']} lacks item {int(last) + 1}"
            else:
                message = detail["msg"].removeprefix("Value error, ")
                if not isinstance(detail["input"], dict):
                    message += f", not {detail['input']!r}"
            # There is a message for each member of a union.
            described.setdefault(key, []).append(message)
    problems.extend(f"{key}: {'; or: '.join(lines)}" for key, lines in described.items())
    return None if described else made


def key_names(model: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a pydantic model or dataclass."""
    for name, annotation in annotations(model).items():
        yield prefix + name
        for group in _members(annotation):
            yield from key_names(group, f"{prefix}{name}.")


def annotations(model: Any) -> dict[str, Any]:
    """Names and types of the fields of a pydantic model or dataclass; empty for other types."""
    fields = getattr(model, "__pydantic_fields__", {})
    return {name: info.annotation for name, info in fields.items()}


def without_none(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Contents of a section without the keys whose value ``"none"`` stands for None.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> class Section(BaseModel):
    ...     size: int | None = None
    ...     name: str = ""
    >>> without_none(Section, {"size": "none", "name": "none"})
    {'name': 'none'}
    """
    kept = {}
    for name, value in values.items():
        members = list(_members(annotations(model).get(name)))
        if isinstance(value, dict):
            group = next((member for member in members if annotations(member)), None)
            value = without_none(group, value)
        if value != "none" or NoneType not in members:
            kept[name] = value
    return kept


def _members(annotation: Any) -> Iterator[Any]:
    """A type and, of a union or an annotated type, all types in it."""
    yield annotation
    for member in typing.get_args(annotation):
        yield from _members(member)


def _kinds(model: type, key: str) -> list[str]:
    """Names of the kinds among which a section of a run file chooses."""
    annotation: Any = model
    for part in key.split("."):
        group = next(g for g in _members(annotation) if part in annotations(g))
        annotation = annotations(group)[part]
    kinds = (annotations(member).get("kind") for member in _members(annotation))
    return [name for kind in kinds for name in typing.get_args(kind)]


def _key(location: tuple[int | str, ...], names: list[str]) -> str:
    """Dotted name of the innermost known key of a location in pydantic's error.

    Besides keys, locations name members of unions and indexes.
    """
    key = ""
    for part in location:
        longer = f"{key}.{part}" if key else str(part)
        if longer in names:
            key = longer
    return key


def _suggestion(key: str, names: list[str]) -> str:
    """Suggest the nearest key of the same group, or else one of that very name elsewhere."""
    parent, _, name = key.rpartition(".")
    siblings = [n.rpartition(".")[2] for n in names if n.rpartition(".")[0] == parent]
    elsewhere = [n for n in names if n.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.75)
    close = close or elsewhere[:1] or difflib.get_close_matches(name, siblings, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
