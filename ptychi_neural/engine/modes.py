"""Probe modes beside the first, to begin with: Hermite modes of little energy."""

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.utils import orthogonalize_initial_probe

ENERGY = 0.02
"""Energy of each further mode relative to all."""

MOST_ENERGY = 0.5
"""Energy of all further modes relative to all: however many they are, the first has the rest."""


def with_modes(probe: NDArray[np.complexfloating], n_modes: int) -> NDArray[np.complexfloating]:
    """Make a probe with further modes from its first.

    Parameters
    ----------
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe, of which the first mode is used.
    n_modes : int
        Number of modes.

    Returns
    -------
    ndarray
        (n_opr_modes, n_modes, h, w) probe of the same energy.
    """
    modes = torch.zeros(
        len(probe), n_modes, *probe.shape[-2:], dtype=torch.complex128, device="cpu"
    )
    modes[:, 0] = torch.from_numpy(probe[:, 0].astype(np.complex128))
    if n_modes == 1:
        return modes.numpy().astype(probe.dtype)
    energy = min(ENERGY, MOST_ENERGY / (n_modes - 1))
    with torch.device("cpu"):
        found = orthogonalize_initial_probe(modes, energy)
    return found.numpy().astype(probe.dtype)


def with_filled_modes(
    probe: NDArray[np.complexfloating],
) -> tuple[NDArray[np.complexfloating], list[int]]:
    """Fill modes of zeros, which no gradient would ever change.

    Parameters
    ----------
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe.

    Returns
    -------
    ndarray
        The probe, of the same energy for each mode that was not zero.
    list of int
        The modes that were filled.
    """
    is_lit = probe[0].any(axis=(-2, -1))
    dark = np.flatnonzero(~is_lit)
    if len(dark) == 0:
        return probe, []
    lit = int(np.flatnonzero(is_lit)[0])
    modes = with_modes(probe[:1, lit : lit + 1], len(dark) + 1)
    filled = probe.copy()
    first = np.linalg.norm(modes[0, 0]) or 1.0
    filled[0, dark] = modes[0, 1:] * (np.linalg.norm(probe[0, lit]) / first)
    return filled, dark.tolist()
