"""The reference of the engine's options in Markdown.

    python -m ptychi_neural.options.reference > docs/options.md

Types, bounds and defaults come from the option classes, meanings from the docstrings below their
fields in the source.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from ptychi.api.options.base import Options

from ptychi_neural.options.task import NeuralPtychographyOptions

INTRODUCTION = """\
# Options of the neural engine

The command `python -m ptychi_neural.options.reference > docs/options.md` writes this page from the
option classes. Names are those of a run file: `momentum = 0.9` below
`[reconstructor_options.start]` is `options.reconstructor_options.start.momentum = 0.9` in a script.
The value `none` stands for `None`, and a choice is given by its name.

The page lists the options that the engine adds to pty-chi's, and those of pty-chi's that have
another default here. All others are pty-chi's and keep pty-chi's meaning and default: data, object,
probe, positions, OPR modes, seed, device, and the plan of whatever is optimised. An option that the
engine cannot honour is refused when the task is built, with its name and what to do instead.
[Measured results](measured.md#why-the-defaults-are-what-they-are) tell why the defaults are what
they are.
"""

HEADER = "| option | type | default | meaning |\n|---|---|---|---|"
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class Entry(NamedTuple):
    """What the source of a class says of one of its names."""

    annotation: str
    meaning: str


def entries(cls: type) -> dict[str, Entry]:
    """The names that the body of a class assigns, with their annotations and docstrings."""
    found = {}
    for node, below in pairwise([*_definition(cls).body, ast.Pass()]):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = node.targets[0] if isinstance(node, ast.Assign) else node.target
            annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            meaning = ast.literal_eval(below.value) if isinstance(below, ast.Expr) else ""
            found[ast.unparse(name)] = Entry(annotation, _paragraph(meaning))
    return found


def markdown() -> str:
    """The whole page."""
    kinds: set[type[StrEnum]] = set()
    sections = [INTRODUCTION, *_sections(NeuralPtychographyOptions(), "", kinds), "## Choices\n"]
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        known = entries(kind)
        members = [f"- `{member}`: {known[member.name].meaning}" for member in kind]
        lines = "\n".join(line.removesuffix(": ") for line in members)
        sections.append("\n\n".join([f"### {kind.__name__}", *_meaning(kind), f"{lines}\n"]))
    return "\n".join(sections)


def _sections(group: Options, path: str, kinds: set[type[StrEnum]]) -> Iterator[str]:
    """Sections of a group and of the groups in it. The choices that they offer go to ``kinds``."""
    cls = type(group)
    own, rows, values = (
        entries(cls),
        [HEADER],
        {f.name: getattr(group, f.name) for f in fields(group)},
    )
    for name, value in values.items():
        if name in own and not isinstance(value, Options):
            rows.append(_row(name, value, own[name], cls))
            if _is_ours(value) and isinstance(value, StrEnum):
                kinds.add(type(value))
    if path:
        table = ["\n".join(rows)] if len(rows) > 1 else []
        yield "\n\n".join([f"## {path}", *_meaning(cls), *table]) + "\n"
    for name, value in values.items():
        if isinstance(value, Options) and _is_ours(value):
            yield from _sections(value, f"{path}.{name}".lstrip("."), kinds)


def _row(name: str, default: Any, entry: Entry, cls: Any) -> str:
    """A row of a group's table; a field that only changes a default has pty-chi's meaning."""
    bounds = [
        f", {words} {getattr(bound, key):g}"
        for bound in cls.__pydantic_fields__[name].metadata
        for key, words in BOUNDS.items()
        if hasattr(bound, key)
    ]
    annotation = re.sub(r"\b[a-z_]+\.(?=[A-Z])", "", entry.annotation)
    annotation = annotation.replace(" | ", " or ").replace("None", "none")
    if isinstance(default, StrEnum) and _is_ours(default):
        annotation = f"[{annotation}](#{annotation.lower()})"
    above = (entries(base)[name].meaning for base in cls.__mro__[1:-1] if name in entries(base))
    meaning = entry.meaning or next(above, "One of the choices below.")
    shown = "none" if default is None else json.dumps(default)
    return f"| `{name}` | {annotation}{''.join(bounds)} | `{shown}` | {meaning} |"


def _is_ours(value: Any) -> bool:
    return not type(value).__module__.startswith("ptychi.")


def _definition(cls: type) -> ast.ClassDef:
    definition = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition


def _meaning(cls: type) -> list[str]:
    """The paragraphs of the docstring of a class."""
    text = ast.get_docstring(_definition(cls)) or ""
    return [_paragraph(part) for part in text.split("\n\n") if part]


def _paragraph(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


if __name__ == "__main__":
    # Importing the package has registered the architectures, whose groups are in the options.
    print(markdown(), end="")
