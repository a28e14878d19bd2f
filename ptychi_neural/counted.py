"""Numbers of things in messages."""

import re


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
