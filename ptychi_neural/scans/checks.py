"""Checks of what a reconstruction starts from, for files and for arrays handed to a task."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.scan import UNKNOWN_PIXEL_M, Scan, position_origin

SMALLEST_EXTENT_PX = 1e-2
"""Extent in pixels below which positions that differ are taken for metres."""

SMALLEST_DISTANCE_PX = 0.1
"""Usual distance of positions from their ``N_AROUND`` nearest below which they hardly move the
beam."""

SMALLEST_SHARE = 0.1
"""Area of all frames, over that which they are spread over, below which they do not overlap."""

N_AROUND = 8
"""Number of positions around one, of which some may be its repetitions."""

AMPLITUDES = (1e-8, 1e12)
"""Bounds of the largest amplitude of object and probe. Beyond them squares, times the ratio of
measured to predicted counts of 1e-16 to 1e20, leave what single precision holds."""

LENGTHS_M = (1e-15, 1e9)
"""Bounds in metres of pixel sizes, wavelengths and distances."""

LARGEST_M = {"pixel_size_m": 1e-2, "wavelength_m": 1e-2}
"""Bounds of lengths that are small, in metres; a pixel of ``UNKNOWN_PIXEL_M`` is none."""

LENGTH_UNITS = {"millimetres": 1e3, "micrometres": 1e6, "nanometres": 1e9}
"""Units that are taken for metres by mistake, and how many of each make a metre."""


def check_positions(
    positions_px: NDArray[np.floating],
    probe_shape: tuple[int, ...],
    object_shape: tuple[int, ...],
    pixel_size_m: float | None = None,
    *,
    origin: NDArray[np.floating] | None = None,
) -> None:
    """Check that every position is a finite number of pixels and lies inside the object.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels.
    probe_shape : tuple
        Shape of the probe, of which the last two are (h, w).
    object_shape : tuple
        Shape of the object, of which the last two are (H, W).
    pixel_size_m : float, optional
        Size of an object pixel, with which positions in other units are recognised better.
    origin : ndarray, optional
        (2,) array indices of position 0, 0 in the object; None: pty-chi's default, see
        ``position_origin``.

    Raises
    ------
    ValueError
        Naming the unit in which the positions seem to be, or the size of object that they need.

    Examples
    --------
    >>> check_positions(np.array([[-20.0, 0.0], [20.0, 0.0]]), (64, 64), (1, 108, 78))
    """
    positions = np.asarray(positions_px, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or len(positions) == 0:
        raise ValueError(
            f"positions have shape {positions.shape}; give (n, 2) numbers, (y, x) in pixels."
        )
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {len(positions)} positions are NaN or Inf; leave out these "
            "frames, or give their positions."
        )
    size, probe_size = (np.asarray(shape[-2:]) for shape in (object_shape, probe_shape))
    if 0 < np.ptp(positions, axis=0).max() < SMALLEST_EXTENT_PX:
        raise ValueError(
            f"the {len(positions)} positions are within {np.ptp(positions, axis=0).max():.2g} "
            "pixels of each other: they look like metres; divide them by the pixel size."
        )
    origin = position_origin(object_shape) if origin is None else np.asarray(origin)
    centers = positions + origin + 0.5
    half = probe_size / 2.0
    outside = ((centers - half < -0.5) | (centers + half > size + 0.5)).any(axis=1)
    if not outside.any():
        return
    what = f"{outside.sum()} of {len(positions)} positions lie outside the object of "
    what += f"{tuple(size.tolist())} pixels"
    unit = _unit(positions, size - probe_size, pixel_size_m)
    if unit is not None:
        raise ValueError(f"{what}: {unit}")
    needed = np.ceil(2 * np.abs(positions).max(axis=0) + probe_size + 20)
    needed += needed % 2
    raise ValueError(
        f"{what}; enlarge 'object' to {tuple(needed.astype(int).tolist())} (see empty_object), or "
        "correct center_y_m, center_x_m and the pixel size."
    )


def check_lengths(**lengths_m: float | None) -> None:
    """Refuse lengths that no measurement has, with which others become infinite or zero.

    Examples
    --------
    >>> check_lengths(pixel_size_m=1e-8, wavelength_m=None)
    >>> check_lengths(pixel_size_m=1e308)
    Traceback (most recent call last):
    ValueError: pixel_size_m = 1e+308: give metres, from 1e-15 to 1e-02.
    """
    least, most_of_all = LENGTHS_M
    for name, length in lengths_m.items():
        is_unknown = length is None or (name == "pixel_size_m" and length == UNKNOWN_PIXEL_M)
        most = LARGEST_M.get(name, most_of_all)
        if length is not None and not is_unknown and not least <= length <= most:
            raise ValueError(f"{name} = {length:.4g}: give metres, from {least} to {most:.0e}.")


def closeness(
    positions_px: NDArray[np.floating],
    probe_shape: tuple[int, ...],
    object_shape: tuple[int, ...],
    pixel_size_m: float | None = None,
) -> str | None:
    """Tell that positions hardly move the beam, and the unit that they may have; None if they do.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels.
    probe_shape : tuple
        Shape of the probe, of which the last two are (h, w).
    object_shape : tuple
        Shape of the object, of which the last two are (H, W), where the positions have room.
    pixel_size_m : float, optional
        Size of an object pixel.

    Examples
    --------
    >>> closeness(np.array([[0.0, 0.0], [0.0, 0.04], [0.05, 0.0]]), (64, 64), (1, 90, 90), 1e-8)
    'the 3 positions are 0.064 pixels apart: they look like micrometres; multiply them by 100.'
    """
    from scipy.spatial import cKDTree

    places = np.unique(np.asarray(positions_px, dtype=np.float64), axis=0)
    if len(places) < 2:
        return None
    distances, _ = cKDTree(places).query(places, k=min(N_AROUND + 1, len(places)))
    distance, extent = float(np.median(distances[:, -1])), np.ptp(places, axis=0)
    room = np.asarray(object_shape[-2:]) - np.asarray(probe_shape[-2:])
    if distance >= (1 if room.max() > 10 * extent.max() else SMALLEST_DISTANCE_PX):
        return None
    told = f"the {len(positions_px)} positions are {distance:.2g} pixels apart"
    units = {} if pixel_size_m is None else {"metres": 1.0} | LENGTH_UNITS
    for unit, of_a_metre in units.items():
        factor = 1 / (of_a_metre * (pixel_size_m or 1.0))
        if factor > 1 and _fill(extent * factor, room):
            return f"{told}: they look like {unit}; multiply them by {factor:.4g}."
    if distance >= SMALLEST_DISTANCE_PX:
        return None
    return f"{told}: pty-chi takes pixels; if they are lengths, divide them by the pixel size."


def sparseness(positions_px: NDArray[np.floating], frame_shape: tuple[int, ...]) -> str | None:
    """Tell that frames are too far apart to overlap; None where they may.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels.
    frame_shape : tuple
        Shape of frames or of the probe, of which the last two are (h, w).

    Examples
    --------
    >>> sparseness(np.array([[0.0, 0.0], [9e3, 0.0]]), (8, 8))
    'the 2 frames of 8 x 8 pixels lie in 9008 x 8, of which they cover 0.0018: they do not overlap'
    """
    frame, n = np.asarray(frame_shape[-2:]), len(positions_px)
    extent = np.ptp(np.asarray(positions_px, dtype=np.float64), axis=0) + frame
    share = float(n * frame.prod() / extent.prod())
    if n < 2 or share >= SMALLEST_SHARE:
        return None
    return (
        f"the {n} frames of {frame[0]} x {frame[1]} pixels lie in {extent[0]:.4g} x "
        f"{extent[1]:.4g}, of which they cover {share:.2g}: they do not overlap"
    )


def check_start(
    object: NDArray[np.generic],
    probe: NDArray[np.generic],
    *,
    names: tuple[str, str] = ("object", "probe"),
) -> None:
    """Check that object and probe are complex, finite, and let light through.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) object guess.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe.
    names : tuple of str
        What the two are called in messages.

    Raises
    ------
    ValueError
        Naming what is wrong and the remedy.
    """
    for array, name, shape in (
        (object, names[0], "(n_slices, H, W)"),
        (probe, names[1], "(n_opr_modes, n_modes, h, w)"),
    ):
        if array.ndim != shape.count(",") + 1 or array.size == 0:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}.")
        if array.dtype.kind != "c":
            raise ValueError(
                f"{name} is {array.dtype}; store it as complex numbers, amplitude times "
                "exp(i phase)."
            )
        n_bad = int((~np.isfinite(array)).sum())
        if n_bad:
            raise ValueError(
                f"{name} holds {n_bad} NaN or Inf; replace them, or start from another guess."
            )
        largest = float(np.abs(array).max())
        if largest > 0 and not AMPLITUDES[0] <= largest <= AMPLITUDES[1]:
            raise ValueError(
                f"{name} has amplitudes of up to {largest:.2g}, whose squares single precision "
                f"does not hold; multiply it by {1 / largest:.2g}."
            )
    dark = [i for i, piece in enumerate(object) if not piece.any()]
    if dark:
        where = "is zero everywhere" if len(dark) == len(object) else f"is zero in slice {dark[0]}"
        raise ValueError(
            f"{names[0]} {where}: no light passes it; start from 1 + 0i (see empty_object)."
        )
    if not probe[0].any():
        raise ValueError(
            f"{names[1]} carries no light: it is zero in all modes of the first OPR mode; write a "
            "probe guess into it."
        )


def check_extent(scan: Scan, most_px: int) -> None:
    """Refuse positions that no object of so many pixels has room for, where a file has none."""
    finite = scan.positions_px[np.isfinite(scan.positions_px).all(axis=1)]
    extent = float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0
    if extent > most_px:
        size = "" if scan.known_pixel_size_m is None else f" of {scan.pixel_size_m:.3g} m"
        raise ValueError(
            f"the positions spread over {extent:.3g} pixels{size}: set position_units of [data], "
            'such as "um", or what the size of a pixel follows from: photon_energy_eV, '
            "detector_distance_m, detector_pixel_size_m, or pixel_size_m itself."
        )


def check_told(scan: Scan, replaced: Collection[str] = ()) -> None:
    """Check what a file tells of each frame, and its lengths.

    Parameters
    ----------
    scan : Scan
        As its file has it: sizes and shapes may be unknown, which are NaN, None or 0.
    replaced : collection of str
        Names of lengths that a run file tells in place of the file's, which do not matter then.

    Raises
    ------
    ValueError
        Naming what is wrong and the remedy.
    """
    n, n_opr_modes = len(scan.positions_px), len(scan.probe)
    weights = scan.opr_mode_weights
    if n_opr_modes > 1 and weights is None:
        raise ValueError(
            f"'probe' has {n_opr_modes} OPR modes without 'opr_weights'; write ({n}, "
            f"{n_opr_modes}) weights, or the first mode alone."
        )
    if n_opr_modes == 0 and weights is not None:
        n_opr_modes = weights.shape[-1]
    for name, array, shape in (
        ("frame numbers", scan.frame_indexes, (n,)),
        ("opr_weights", weights, (n, n_opr_modes)),
        ("probe_photon_counts", scan.probe_photon_counts, (n,)),
    ):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name!r} has shape {array.shape}; {n} positions need {shape}.")
    if weights is not None and not np.isfinite(weights).all():
        raise ValueError("'opr_weights' has NaN or Inf; write finite numbers, or leave them out.")
    if scan.frame_indexes is not None and len(np.unique(scan.frame_indexes)) != n:
        raise ValueError(
            "the list of frame numbers names a frame twice; average the positions of each frame."
        )
    lengths_m = {
        "pixel_size_m": None if np.isnan(scan.pixel_size_m) else scan.pixel_size_m,
        "wavelength_m": scan.wavelength_m,
        "detector_distance_m": scan.detector_distance_m,
    }
    check_lengths(**{name: m for name, m in lengths_m.items() if name not in replaced})
    near_m = scan.free_space_propagation_distance_m
    is_replaced = near_m is None or "free_space_propagation_distance_m" in replaced
    if not is_replaced and not (near_m and np.isfinite(near_m)):
        raise ValueError(f"the distance of a near field is {near_m:g}; write it, in metres.")


def check_geometry(
    n_slices: int, wavelength_m: float | None, free_space_propagation_distance_m: float | None
) -> None:
    """Refuse a multislice or near-field scan without a wavelength.

    pty-chi would take 1 nm for it.

    Parameters
    ----------
    n_slices : int
        Slices of the object.
    wavelength_m : float, optional
        Wavelength in metres; None where nobody told it.
    free_space_propagation_distance_m : float, optional
        Distance of near-field propagation in metres; None or infinite in the far field.
    """
    distance_m = free_space_propagation_distance_m
    near_field = distance_m is not None and np.isfinite(distance_m)
    if wavelength_m is None and (n_slices > 1 or near_field):
        what = "a near-field scan" if near_field else f"an object of {n_slices} slices"
        raise ValueError(
            f"{what} needs a wavelength; write photon_energy_eV into the product, or set "
            "data_options.wavelength_m."
        )


def _unit(
    positions: NDArray[np.float64], room: NDArray[np.generic], pixel_size_m: float | None
) -> str | None:
    """Tell the unit in which positions outside the object would just fit into it."""
    extent = np.ptp(positions, axis=0)
    if not extent.max() > 20 * max(float(room.max()), 1.0):
        return None
    pixels = {} if pixel_size_m is None else {"pixels": 1 / pixel_size_m}
    factors = pixels | LENGTH_UNITS
    for unit, factor in factors.items():
        if _fill(extent / factor, room):
            return f"they look like {unit}; files hold metres, scripts give pixels."
    return (
        f"they spread over {extent.max():.3g} pixels; check their unit (files hold metres, scripts "
        "give pixels) and the pixel size."
    )


def _fill(extent: NDArray[np.float64], room: NDArray[np.generic]) -> bool:
    """Whether positions of an extent in pixels fit into their room, and take some of it."""
    return bool(np.less_equal(extent, np.add(room, 1)).all() and extent.max() > 0.05 * room.max())
