"""Sums that are the same bits in whatever order their terms come.

Numbers that are multiples of one power of two add up without rounding in double precision, as long
as no sum exceeds 2^53 of it. Terms that are first rounded to such multiples may come in any order,
one by one or in batches.
"""

import math

import torch
from torch import Tensor

TERMS = 17
"""Exponent of two of the number of terms of the largest size that add up exactly."""

DOUBLE_BITS = 53
"""Bits of the significand in double precision."""


def exactly_added(terms: Tensor, largest: float = 1.0) -> Tensor:
    """Terms in double precision, rounded so that the sum of many has no rounding.

    Parameters
    ----------
    terms : Tensor
        Real or complex numbers.
    largest : float
        Size of the largest terms to be expected. Sums are exact up to 2^17 times this, and each
        term is rounded by at most 2^-37 of it.

    Examples
    --------
    >>> terms = exactly_added(torch.tensor([0.1, 1 / 3, 0.7]))
    >>> bool((terms[0] + terms[1]) + terms[2] == terms[0] + (terms[1] + terms[2]))
    True
    """
    unit = 2.0 ** (math.ceil(math.log2(largest)) + TERMS - DOUBLE_BITS)
    parts = torch.view_as_real(terms) if terms.is_complex() else terms
    # A number in double precision between 2^52 and 2^53 units has no room for parts of one.
    anchor = 1.5 * 2.0 ** (DOUBLE_BITS - 1) * unit
    rounded = parts.double().add(anchor).sub_(anchor)
    return torch.view_as_complex(rounded) if terms.is_complex() else rounded
