"""Numbers of things: in messages, and those that no computer counts to."""

import re
from collections.abc import Iterator
from typing import Any

MOST = 2**31 - 1
"""The largest whole number of an option: a run would not count to it in a lifetime."""

MOST_OF_SEEDS = 2**63 - 1
"""The largest seed: files and generators of random numbers keep no more than 64 bits."""


def counted(n: int, things: str) -> str:
    """A number of things, with their name in the singular where it is one.

    Parameters
    ----------
    n : int
        How many.
    things : str
        Their name, whose first word that ends in s is a plural.

    Examples
    --------
    >>> counted(2, "epochs"), counted(1, "epochs"), counted(1, "dead pixels in two frames")
    ('2 epochs', '1 epoch', '1 dead pixel in two frames')
    """
    return f"{n} " + (re.sub(r"s\b", "", things, count=1) if n == 1 else things)


def uncountable(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Tell which whole numbers in nested contents are beyond ``MOST``.

    Parameters
    ----------
    value : dict, list or other
        Contents, of which dictionaries and sequences are gone through.
    name : str
        Their dotted name.

    Yields
    ------
    tuple of str
        The dotted name of the number, and what is wrong with it.

    Examples
    --------
    >>> list(uncountable({"training": {"num_epochs": 10**12, "seed": 10**12}}))
    [('training.num_epochs', 'at most 2147483647, not 1000000000000; choose a smaller number')]
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from uncountable(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from uncountable(item, name)
    elif isinstance(value, int):
        most = MOST_OF_SEEDS if name.endswith("seed") else MOST
        if abs(value) > most:
            told = value if abs(value) < 10**30 else f"a number of {value.bit_length()} bits"
            yield name, f"at most {most}, not {told}; choose a smaller number"
