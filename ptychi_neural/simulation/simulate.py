"""Simulation of a scan: pty-chi's forward model gives the expected counts, a detector adds noise.

    Y = Poisson(s |F(P O)|^2),    s such that the mean expected counts per frame are the dose,

with patch placement, sub-pixel shifts, probe modes, slices and propagation F all pty-chi's own. As
in pty-chi, the sub-pixel rest of a position shifts the first incoherent probe mode, and OPR modes
belong to it. A beam that varies scales all modes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.data_structures.object import PlanarObject
from ptychi.data_structures.opr_mode_weights import OPRModeWeights
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.data_structures.probe import Probe
from ptychi.data_structures.probe_positions import ProbePositions
from ptychi.forward_models import PlanarPtychographyForwardModel
from ptychi.utils import get_suggested_object_size, to_tensor
from tqdm import tqdm

from ptychi_neural.scans import write_diffraction, write_product
from ptychi_neural.scans.beamline import detector_pixel_sizes
from ptychi_neural.scans.checks import check_lengths, sparseness
from ptychi_neural.scans.hdf5 import available_memory
from ptychi_neural.scans.scan import Scan
from ptychi_neural.simulation.options import SimulationOptions
from ptychi_neural.simulation.precision import double_precision_on_cpu

CHUNK_SIZE = 64

MOST_AT_ONCE = 2**24
"""Pixels of all modes of a chunk, 256 MiB each time that they are written down."""

OBJECT_MARGIN_PX = 4


@dataclass
class SimulatedScan:
    """The data that an experimenter has, and the truth behind them."""

    scan: Scan
    """Noisy patterns, nominal positions, the probe guess and an empty object of ones."""

    truth: Scan
    """Expected counts without noise, true positions, the true probe scaled to the dose with the
    weights of its OPR modes, the photons of each frame where the beam varies, and the true object,
    of the same shape as the empty one."""


def _no_bar(total: int, desc: str) -> tqdm:
    return tqdm(total=total, desc=desc, disable=True)


def simulate(
    options: SimulationOptions, bar: Callable[[int, str], tqdm] = _no_bar
) -> SimulatedScan:
    """Simulate a scan.

    Parameters
    ----------
    options : SimulationOptions
        What to simulate. The same options give the same data.
    bar : callable
        Makes a progress bar of a number of frames and a name; by default there is none.

    Returns
    -------
    SimulatedScan
        Scan and ground truth. Patterns have their DC at the image centre.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If a probe or image file is missing or unfit.
    """
    lengths_m = ("pixel_size_m", "wavelength_m", "detector_distance_m", "slice_spacing_m")
    check_lengths(**{name: getattr(options, name) for name in lengths_m})
    object_rng, scan_rng, error_rng, detector_rng, beam_rng, probe_rng = np.random.default_rng(
        options.seed
    ).spawn(6)
    _check_room(options, options.scan.n_points, *options.frame_shape)
    true_positions = options.build_positions(scan_rng)
    errors = error_rng.normal(0, options.position_error_px, true_positions.shape)
    nominal_positions = true_positions + errors

    # The extent is symmetric because pty-chi puts position (0, 0) in the middle of the object.
    reached = np.concatenate([true_positions, nominal_positions])
    _check_size(options, reached)
    object_shape = get_suggested_object_size(
        np.concatenate([reached, -reached]), options.frame_shape, extra=OBJECT_MARGIN_PX
    )
    true_object = options.build_object(object_shape, object_rng)
    _check_finite("object", true_object)

    n, n_pixels = len(true_positions), np.prod(options.frame_shape)
    probe, weights = options.build_probe()[None], np.ones((n, 1))
    _check_finite("probe", probe)
    if options.probe_variation is not None:
        probe, weights = options.probe_variation.build(probe[0], n, probe_rng)
    spacings = np.full(options.n_slices - 1, options.slice_spacing_m)
    geometry = PtychographyTaskOptions()
    if len(spacings):
        geometry.object_options.slice_spacings_m = spacings.tolist()
        geometry.object_options.pixel_size_m = options.pixel_size_m
        geometry.data_options.wavelength_m = options.wavelength_m
    with bar(n, "simulated frames") as progress:
        expected = predict_intensities(
            *(true_object, probe, true_positions, weights, geometry), progress.update
        )
    beam = options.build_beam(n, beam_rng)
    expected *= beam[:, None, None]
    scale = options.photons_per_frame / expected.sum(axis=(-2, -1)).mean()
    expected *= scale
    # Only the main OPR mode and the weights of the others grow with the dose.
    probe[0] *= np.sqrt(scale)
    weights[:, 1:] *= np.sqrt(scale)
    photons = beam * (np.linalg.norm(probe[0]) ** 2 + n_pixels * (weights[:, 1:] ** 2).sum(axis=1))

    mask = _draw_mask(options, detector_rng)
    if options.noise_seed is not None:
        detector_rng = np.random.default_rng((options.seed, options.noise_seed))
    patterns = _detect(expected, mask, options, detector_rng)

    guess, guessed_weights = options.build_probe_guess(patterns, mask)[None] * np.sqrt(scale), None
    if options.probe_variation is not None:
        guess, guessed_weights = options.probe_variation.guess(guess[0], n, probe_rng)

    truth = Scan(
        patterns=expected,
        positions_px=true_positions,
        probe=probe,
        object=true_object,
        slice_spacings_m=spacings if len(spacings) else None,
        opr_mode_weights=None if options.probe_variation is None else weights,
        probe_photon_counts=photons * n_pixels if options.beam_variation else None,
        pixel_size_m=options.pixel_size_m,
        wavelength_m=options.wavelength_m,
        detector_distance_m=options.detector_distance_m,
        name=options.name,
        comments="Ground truth of a simulation with pty-chi's forward model.",
    )
    scan = replace(
        truth,
        patterns=patterns,
        positions_px=nominal_positions,
        probe=guess,
        object=np.ones_like(true_object),
        opr_mode_weights=guessed_weights,
        probe_photon_counts=None,
        valid_pixel_mask=mask,
        comments="Simulated with pty-chi's forward model.",
    )
    return SimulatedScan(scan=scan, truth=truth)


def predict_intensities(
    object: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    opr_mode_weights: NDArray[np.floating] | None = None,
    options: PtychographyTaskOptions | None = None,
    done: Callable[[int], object] = lambda n: None,
) -> NDArray[np.float64]:
    """Compute far-field intensities by pty-chi's forward model in double precision.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) complex object.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) complex probe.
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels from pty-chi's origin.
    opr_mode_weights : ndarray, optional
        (n, n_opr_modes) weights; None: ones, for a probe of one OPR mode.
    options : PtychographyTaskOptions, optional
        Geometry, which an object of several slices needs.
    done : callable
        Takes the number of frames that have just been computed.

    Returns
    -------
    ndarray
        (n, h, w) intensities, DC at the image centre.
    """
    n = len(positions_px)
    chunk_size = max(1, min(CHUNK_SIZE, MOST_AT_ONCE // probe.size))
    chunks = []
    with double_precision_on_cpu(), torch.no_grad():
        model = build_forward_model(
            object, probe, positions_px, options or PtychographyTaskOptions(), opr_mode_weights
        )
        for indices in torch.arange(n).split(chunk_size):
            chunks.append(model(indices))
            done(len(indices))
        return torch.fft.fftshift(torch.cat(chunks), dim=(-2, -1)).numpy()


def build_forward_model(
    object: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    options: PtychographyTaskOptions,
    opr_mode_weights: NDArray[np.floating] | None = None,
    detector_shape: tuple[int, int] | None = None,
    model: type[PlanarPtychographyForwardModel] = PlanarPtychographyForwardModel,
) -> PlanarPtychographyForwardModel:
    """Build pty-chi's forward model in the present default precision, on the default device.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) complex object.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) complex probe.
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels from pty-chi's origin.
    options : PtychographyTaskOptions
        Geometry and propagation.
    opr_mode_weights : ndarray, optional
        (n, n_opr_modes) weights; None: ones, for a probe of one OPR mode.
    detector_shape : tuple, optional
        (h, w) of the patterns; None: that of the probe.
    model : type
        The class of the model.

    Returns
    -------
    PlanarPtychographyForwardModel
        Maps (batch,) indices of positions to (batch, h, w) intensities.
    """
    weights = np.ones((len(positions_px), 1)) if opr_mode_weights is None else opr_mode_weights
    data, forward = options.data_options, options.reconstructor_options.forward_model_options
    return model(
        PlanarPtychographyParameterGroup(
            object=PlanarObject(data=to_tensor(object), options=options.object_options),
            probe=Probe(data=to_tensor(probe), options=options.probe_options),
            probe_positions=ProbePositions(
                data=to_tensor(positions_px), options=options.probe_position_options
            ),
            opr_mode_weights=OPRModeWeights(
                data=to_tensor(weights), options=options.opr_mode_weight_options
            ),
        ),
        detector_size=detector_shape,
        wavelength_m=data.wavelength_m,
        free_space_propagation_distance_m=data.free_space_propagation_distance_m,
        pad_for_shift=forward.pad_for_shift,
        low_memory_mode=forward.low_memory_mode,
        diffraction_pattern_blur_sigma=forward.diffraction_pattern_blur_sigma,
    )


def write_simulation(simulated: SimulatedScan, folder: str | Path, overwrite: bool = False) -> None:
    """Write ``diffraction.h5``, ``product.h5`` (the starting point) and ``truth.h5``.

    Parameters
    ----------
    simulated : SimulatedScan
        From :func:`simulate`.
    folder : path
        Folder for the files, made if it does not exist.
    overwrite : bool
        Whether files of these names may be replaced.

    Raises
    ------
    FileExistsError
        If one of the files exists and ``overwrite`` is False; nothing is written then.
    """
    diffraction, product, truth = simulation_files(folder, overwrite)
    write_diffraction(
        diffraction,
        simulated.scan.patterns,
        simulated.scan.valid_pixel_mask,
        overwrite=overwrite,
        detector_pixel_sizes_m=detector_pixel_sizes(simulated.scan),
    )
    write_product(product, simulated.scan, overwrite=overwrite)
    write_product(truth, simulated.truth, overwrite=overwrite)


def simulation_files(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Files of counts, scan and ground truth in a folder, which is tried.

    Raises
    ------
    FileExistsError
        If one of the files exists and ``overwrite`` is False.
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    paths = [folder / name for name in ("diffraction.h5", "product.h5", "truth.h5")]
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(
            f"{folder} holds {', '.join(existing)}: --overwrite (overwrite=True) replaces them, "
            "--output FOLDER writes elsewhere."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        return paths


def _check_size(options: SimulationOptions, reached: NDArray[np.float64]) -> None:
    """Refuse a recipe that is larger than the free memory, or whose frames lie far apart."""
    n, shape = len(reached) // 2, np.array(options.frame_shape)
    _check_room(options, n, *(2 * np.abs(reached).max(axis=0) + shape).tolist())
    for where, what in (
        (reached[:n], "scan.step_px or scan.jitter_px"),
        (reached[n:], "position_error_px"),
    ):
        if told := sparseness(where, options.frame_shape):
            raise ValueError(f"simulation: {told}; lower {what}.")


def _check_room(options: SimulationOptions, n: int, height: float, width: float) -> None:
    """Refuse a recipe whose expected counts, counts and object are larger than the free memory."""
    size = 16 * (n * float(np.prod(options.frame_shape)) + options.n_slices * height * width)
    if not size <= (memory := available_memory()):
        raise ValueError(
            f"simulation: {n} frames of {options.frame_shape} pixels on an object of {height:.4g} "
            f"x {width:.4g} pixels take {size / 2**30:.3g} GiB, more than the "
            f"{memory / 2**30:.3g} GiB of memory that are free; lower frame_shape, scan or "
            "position_error_px."
        )


def _check_finite(what: str, wave: NDArray[np.complexfloating]) -> None:
    if not np.isfinite(wave).all():
        raise ValueError(
            f"simulation.{what}: becomes NaN or infinite; choose lengths of some pixels and "
            "amplitudes near 1."
        )


def _draw_mask(options: SimulationOptions, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """(h, w), True where the detector works; None if it works everywhere."""
    mask = np.ones(options.frame_shape, dtype=bool)
    n_dead = round(options.dead_pixel_fraction * mask.size)
    if n_dead == 0:
        return None
    mask.flat[rng.choice(mask.size, n_dead, replace=False)] = False
    return mask


def _detect(
    expected: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    options: SimulationOptions,
    rng: np.random.Generator,
) -> NDArray[np.generic]:
    """(n, h, w) measured counts: integers, or floats if there is read noise."""
    counts = rng.poisson(expected)
    if mask is not None:
        counts = counts * mask
    if not options.read_noise_counts:
        return counts.astype(np.uint64 if counts.max() > np.iinfo(np.uint32).max else np.uint32)
    noise = rng.normal(0, options.read_noise_counts, counts.shape)
    noisy = np.clip(counts + noise, 0, None)
    return (noisy if mask is None else noisy * mask).astype(np.float32)
