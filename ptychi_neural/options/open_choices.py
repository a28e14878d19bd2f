"""Choices and option groups that new files may add to, such as the architectures of generators.

pty-chi's options are pydantic dataclasses, whose fields are fixed when the class is made. An open
class keeps the body that it was written with, so that it can be made anew, in place, with one more
field. Whoever holds the class, or a class that contains it, sees the new field.
"""

from dataclasses import field
from enum import StrEnum
from keyword import iskeyword
from typing import Any, TypeVar

from ptychi.api.options.base import Options
from pydantic.dataclasses import dataclass, rebuild_dataclass

Class = TypeVar("Class", bound=type)

_BODIES: dict[type, dict[str, Any]] = {}
_CONTAINING: dict[type, list[type]] = {}


def open_dataclass(cls: Class) -> Class:
    """Decorate an options class that ``add_group`` may extend."""
    _BODIES[cls] = {**vars(cls), "__annotations__": dict(cls.__annotations__)}
    dataclass(cls)  # It changes the class in place.
    return cls


def contains(open_class: type) -> Any:
    """Decorate an options class that holds an open one, so that it follows its changes.

    The decorator of the innermost class comes first: classes are made anew in this order.
    """

    def noted(cls: Class) -> Class:
        _CONTAINING.setdefault(open_class, []).append(cls)
        return cls

    return noted


def add_group(open_class: type, name: str, group: type[Options]) -> None:
    """Give an open options class one more group of options, with its defaults.

    Raises
    ------
    ValueError
        If the class has a field of that name already.
    """
    body = _BODIES[open_class]
    if name in body["__annotations__"]:
        raise ValueError(
            f"{open_class.__name__} has a field {name!r} already: choose another name."
        )
    body["__annotations__"][name] = group
    body[name] = field(default_factory=group)
    if group in _BODIES:
        _CONTAINING.setdefault(group, []).extend([open_class, *_CONTAINING.get(open_class, [])])
    make_anew(open_class)


def make_anew(open_class: type) -> None:
    """Make an open class, and those that contain it, anew from the bodies that were written."""
    body = _BODIES[open_class]
    for name in [name for name in vars(open_class) if name not in body]:
        delattr(open_class, name)
    for name, value in body.items():
        if name not in ("__dict__", "__weakref__"):
            setattr(open_class, name, value)
    open_class.__annotations__ = dict(body["__annotations__"])
    dataclass(open_class)
    for containing in _CONTAINING.get(open_class, ()):
        rebuild_dataclass(containing, force=True)  # type: ignore[arg-type]


def add_choice(choices: type[StrEnum], value: str) -> None:
    """Give an enumeration one more member, unless it has it: ``"mine"`` becomes ``MINE``.

    Python closes an enumeration when its class statement ends; this does what the statement does
    for each of its members.

    Raises
    ------
    ValueError
        If the value cannot be a name in lower case, in options and in capitals in the enumeration.
    """
    if value in choices._value2member_map_:
        return
    is_name = value.isidentifier() and value.islower() and not iskeyword(value)
    if not is_name or hasattr(choices, value.upper()):
        raise ValueError(
            f"{value!r} cannot be one of {choices.__name__}: choose a name in lower case, of "
            "letters, digits and underscores, such as 'my_network'."
        )
    member = str.__new__(choices, value)
    member._name_, member._value_ = value.upper(), value
    member.__objclass__ = choices  # type: ignore[attr-defined]
    member._sort_order_ = len(choices._member_names_)  # type: ignore[attr-defined]
    choices._member_names_.append(member._name_)
    choices._member_map_[member._name_] = member
    choices._value2member_map_[value] = member
    type.__setattr__(choices, member._name_, member)
