"""Option groups of run files, such as ``[object_options]``, and pty-chi's options made of them."""

import json
import logging
import typing
from types import NoneType
from typing import Any

from ptychi.api.options.base import Options
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.utils import jsonize

from ptychi_neural.options.workable import unworkable
from ptychi_neural.runs.configuration import (
    RunFileError,
    annotations,
    key_names,
    merged,
    validated,
)


def options_from(
    options_class: type[PtychographyTaskOptions], *contents: dict[str, Any], source: str
) -> PtychographyTaskOptions:
    """Make the options of an engine from option groups, and check them.

    Parameters
    ----------
    options_class : type
        Options of an engine.
    *contents : dict
        What differs from the engine's defaults; later ones take the place of earlier ones.
    source : str
        Where they come from, for the error.

    Raises
    ------
    RunFileError
        If there are unknown or ill-typed keys, or options that the engine refuses.
    """
    problems: list[str] = []
    names = list(key_names(options_class))
    options = checked_options(options_class, merged({}, *contents), names, problems)
    if options is None or problems:
        raise RunFileError(source, problems)
    return options


def checked_options(
    options_class: type[PtychographyTaskOptions],
    chosen: dict[str, Any],
    names: list[str],
    problems: list[str],
) -> PtychographyTaskOptions | None:
    """Make the options of an engine, or add a line for each problem, see ``validated``."""
    data_problems: list[str] = []
    values = _over_defaults(options_class(), chosen, data_problems)
    options = validated(options_class, values, names, problems)
    problems.extend(data_problems)
    if options is None or data_problems:
        return None
    logging.disable(logging.WARNING)  # The task checks again, and warns then.
    try:
        options.check()
        problems.extend(unworkable(options))
    except ValueError as error:
        problems.append(str(error))
    finally:
        logging.disable(logging.NOTSET)
    return options


def stated(options: Options, defaults: Options) -> dict[str, Any]:
    """State options as the nested values of a run file.

    TOML has no null: None is left out where it is the default, and ``"none"`` elsewhere.

    Parameters
    ----------
    options : Options
        The options.
    defaults : Options
        Options of the same class with their defaults.
    """
    usual, written = option_values(defaults), options.get_dict()
    return merged(
        {},
        {
            name: "none" if value is None else value
            for name, value in option_values(options).items()
            if (value is not None or usual[name] is not None) and _holds(written, name.split("."))
        },
    )


def changed_values(options: Options) -> dict[str, Any]:
    """Values of options that are not the default, by dotted name.

    Examples
    --------
    >>> from ptychi.api import LSQMLOptions
    >>> options = LSQMLOptions()
    >>> options.object_options.optimization_plan.start = 3
    >>> changed_values(options)
    {'object_options.optimization_plan.start': 3}
    """
    usual = option_values(type(options)())
    return {name: v for name, v in option_values(options).items() if v != usual[name]}


def option_values(options: Options, prefix: str = "") -> dict[str, Any]:
    """Values of options by dotted name, as JSON has them, without those that hold data."""
    values: dict[str, Any] = {}
    for name, value in options.get_non_data_fields().items():
        if isinstance(value, Options):
            values |= option_values(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = _as_json(value)
    return values


def _holds(written: dict[str, Any], names: list[str]) -> bool:
    first, *others = names
    return first in written and (not others or _holds(written[first], others))


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(jsonize(value)))


def _over_defaults(
    defaults: Options, chosen: dict[str, Any], problems: list[str], prefix: str = ""
) -> dict[str, Any]:
    """Put chosen values over the engine's defaults, which are not always its classes'."""
    values: dict[str, Any] = {}
    fields, types = defaults.get_non_data_fields(), annotations(type(defaults))
    for name, value in (fields | chosen).items():
        default = fields.get(name)
        if isinstance(default, Options) and isinstance(value, dict | Options):
            values[name] = _over_defaults(
                default, chosen.get(name, {}), problems, f"{prefix}{name}."
            )
        elif name in types and name not in fields:
            problems.append(f"{prefix}{name}: comes from the scan, not from the run file")
        elif name in chosen:
            optional = NoneType in typing.get_args(types.get(name))
            values[name] = None if optional and value == "none" else value
        elif value is not None:
            values[name] = _as_json(value)
    return values
