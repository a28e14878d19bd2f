"""The engine inside ptychodus 1.7: a ``TrainableReconstructor``, and its reconstruction subprocess.

ptychodus finds the options of an engine by their name in ``ptychi.api``, where importing
``ptychi_neural`` puts ours. Its subprocess then runs the engine as it is:

    python -m ptychi_neural.integrations.ptychodus --print-neural-options > ptychi_options.yaml
    python -m ptychi_neural.integrations.ptychodus -i INPUT_FOLDER -o OUTPUT_FOLDER \\
        --ptychi-options ptychi_options.yaml

Arguments, events and exit codes are those of ``ptychodus.cli.reconstruct_subprocess``.
"""

import copy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor
from ptychodus.api.diffraction import Polarization
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import LossValue, Product, ProductMetadata
from ptychodus.api.reconstruct import (
    ReconstructInput,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)
from scipy.constants import c, e, h

from ptychi_neural.counted import counted
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.generators.files import load_generator
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.run_scan import reconstructed
from ptychi_neural.scans import Scan, load_scan, write_scan
from ptychi_neural.scans.formats.ptychodus import array_center_m, magnification, origin_m
from ptychi_neural.training import MultiscanTrainingWorkflow, TrainingScan

GENERATOR = ".safetensors"

TRAINING_DATA = (".h5", ".hdf5")
"""Suffixes of the scans that ``export_training_data`` writes and ``train`` reads."""

KEPT_AS_THEY_ARE = (
    "probe_photon_count",
    "exposure_time_s",
    "tomography_angle_deg",
    "focus_object_distance_m",
    "tilt_angle_deg",
)
"""Metadata whose names are those of ``Scan.attributes``."""


class NeuralReconstructor(TrainableReconstructor):
    """The neural engine as ptychodus sees a reconstructor.

    Parameters
    ----------
    options : NeuralPtychographyOptions, optional
        Options of the engine. The geometry comes from the product. With a loaded generator and
        ``num_epochs = 0`` a scan is predicted without a fit.
    num_sync_epochs : int
        Epochs between two outputs.
    """

    def __init__(
        self, options: NeuralPtychographyOptions | None = None, num_sync_epochs: int = 1
    ) -> None:
        self.options = options or NeuralPtychographyOptions()
        self.num_sync_epochs = num_sync_epochs
        self._generator: Path | None = None

    @property
    def name(self) -> str:
        return "Neural"

    def get_progress_goal(self) -> int:
        return self.options.reconstructor_options.num_epochs

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Reconstruct a scan, starting from the loaded generator if there is one.

        Parameters
        ----------
        parameters : ReconstructInput
            Patterns with DC at the image centre, bad pixels, and the product to start from.

        Yields
        ------
        ReconstructOutput
            The best product so far, every ``num_sync_epochs`` epochs and at the end.

        Raises
        ------
        ValueError
            If the engine refuses options or data.
        FloatingPointError
            If the loss is not finite.
        """
        options = copy.deepcopy(self.options)
        if self._generator is not None:
            options.reconstructor_options.generator.checkpoint = str(self._generator)
        scan = scan_of(parameters)
        n_epochs, epoch = options.reconstructor_options.num_epochs, 0
        task = build_task(options, scan)
        with task:
            while True:
                task.run(min(self.num_sync_epochs, n_epochs - epoch))
                reached = min(epoch + self.num_sync_epochs, n_epochs)
                ended = reached == n_epochs or _epoch(task) < reached
                epoch = n_epochs if ended else reached
                yield ReconstructOutput(_product(scan, task), progress=epoch)
                if ended:
                    return

    def is_model_loaded(self) -> bool:
        return self._generator is not None

    def get_model_file_filter(self) -> str:
        return f"Trained Generators (*{GENERATOR})"

    def load_model_from_file(self, file_path: Path) -> None:
        """Start reconstructions to come from a trained generator.

        Parameters
        ----------
        file_path : Path
            A generator from ``train``, ``ptychi-neural train`` or a results folder.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is no generator.
        """
        load_generator(file_path)
        self._generator = Path(file_path)

    def get_model_file_extension(self) -> str:
        return GENERATOR

    def save_model(self, file_path: Path) -> None:
        """Copy the generator that is loaded or was trained last."""
        if self._generator is None:
            raise ValueError("There is no generator to save; load or train one first.")
        shutil.copyfile(self._generator, file_path)

    def get_training_data_file_filter(self) -> str:
        return f"Scans ({' '.join(f'*{suffix}' for suffix in TRAINING_DATA)})"

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """Write patterns and product into one HDF5 file, which ptychodus opens as either."""
        write_scan(file_path, scan_of(parameters), "ptychodus", overwrite=True)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Train one generator on exported scans, and load it.

        Parameters
        ----------
        input_path : Path
            Folder of two or more exported scans. The last by name judges and is not trained on.
        output_path : Path
            The file of the generator, or a folder for ``generator.safetensors``. It holds the
            best generator so far after every epoch.

        Yields
        ------
        TrainOutput
            Losses of the scans that are trained on and of the one that is not, after each epoch.

        Raises
        ------
        ValueError
            If there are fewer than two scans, or they cannot share a generator.
        """
        files = sorted(p for p in Path(input_path).glob("*") if p.suffix in TRAINING_DATA)
        if len(files) < 2:
            raise ValueError(
                f"{input_path} holds {len(files)} exported scans; train needs two or more, of "
                "which the last by name judges."
            )
        options = copy.deepcopy(self.options)
        options.reconstructor_options.validation.held_out = 0.0
        if self._generator is not None:
            options.reconstructor_options.generator.checkpoint = str(self._generator)
        path = Path(output_path)
        path = path if path.suffix == GENERATOR else path / f"generator{GENERATOR}"
        path.parent.mkdir(parents=True, exist_ok=True)
        *trained_on, judging = (TrainingScan(load_scan(file)) for file in files)
        workflow = MultiscanTrainingWorkflow(trained_on, judging, options)
        while workflow.epoch < self.get_progress_goal() and not workflow.out_of_patience:
            workflow.run(1)
            workflow.save_generator(path, overwrite=True)
            self._generator = path
            table = workflow.table[workflow.table.epoch > 0]
            yield TrainOutput(
                training_loss=_losses(table.epoch, table.loss),
                validation_loss=_losses(table.epoch, table.score),
                progress=workflow.epoch,
            )


def scan_of(parameters: ReconstructInput) -> Scan:
    """The scan that ptychodus hands to a reconstructor.

    Parameters
    ----------
    parameters : ReconstructInput
        Patterns, bad pixels and product.

    Returns
    -------
    Scan
        With the distance of the equivalent parallel beam where the product is of the near field.

    Raises
    ------
    ValueError
        If pixels are not square, or differ between probe and object.
    """
    product = parameters.product
    metadata, positions, object_ = product.metadata, product.probe_positions, product.object_
    pixel = object_.get_pixel_geometry()
    sizes_m = {pixel.height_m, pixel.width_m}
    sizes_m |= {product.probes.get_pixel_geometry().width_m}
    if not np.allclose(list(sizes_m), pixel.width_m, rtol=1e-6, atol=0):
        raise ValueError(
            f"probe and object have pixels of {sorted(sizes_m)} m; only square pixels of one size "
            "are supported."
        )
    array, probe = object_.get_array(), product.probes.get_array()
    center = object_.get_center()
    object_center_m = origin_m((center.y_m, center.x_m), array.shape, pixel.width_m)
    positions_m = np.stack(
        [positions.get_coordinates_y_m(), positions.get_coordinates_x_m()], axis=1
    )
    weights = product.probes.get_opr_weights_or_none()
    if weights is None and len(probe) > 1:
        weights = np.zeros((len(positions), len(probe)))
        weights[:, 0] = 1.0
    distance_m = metadata.detector_distance_m
    near_m = distance_m / magnification(distance_m, metadata.focus_object_distance_m)
    attributes: dict[str, float | str] = {
        name: getattr(metadata, name) for name in KEPT_AS_THEY_ARE
    }
    attributes["mass_attenuation_m2_kg"] = metadata.mass_attenuation_m2_per_kg
    if metadata.polarization is not None:
        attributes["polarization"] = metadata.polarization.value
    energy_eV = metadata.photon_energy_eV
    bad = parameters.bad_pixels
    return Scan(
        patterns=parameters.diffraction_patterns,
        positions_px=(positions_m - object_center_m) / pixel.width_m,
        probe=probe,
        object=array,
        pixel_size_m=pixel.width_m,
        wavelength_m=h * c / (e * energy_eV) if energy_eV > 0 else None,
        detector_distance_m=distance_m or None,
        free_space_propagation_distance_m=None if metadata.far_field else near_m,
        valid_pixel_mask=None if bad is None else ~np.asarray(bad, dtype=bool),
        slice_spacings_m=np.asarray(object_.layer_spacing_m) if len(array) > 1 else None,
        opr_mode_weights=weights,
        frame_indexes=positions.get_indexes().astype(np.int64),
        object_center_m=object_center_m,
        probe_photon_counts=positions.get_probe_photon_counts(),
        attributes=attributes,
        name=metadata.name,
        comments=metadata.comments,
    )


def product_of(scan: Scan, losses: list[LossValue]) -> Product:
    """What ``scan_of`` makes a scan of, made of the scan again.

    Parameters
    ----------
    scan : Scan
        The scan.
    losses : list of LossValue
        Losses of the reconstruction.
    """
    attributes = dict(scan.attributes)
    polarization = attributes.pop("polarization", None)
    kept = {name: float(attributes.get(name, 0.0)) for name in KEPT_AS_THEY_ARE}
    metadata = ProductMetadata(
        name=scan.name,
        comments=scan.comments,
        detector_distance_m=scan.detector_distance_m or 0.0,
        photon_energy_eV=h * c / (e * scan.wavelength_m) if scan.wavelength_m else 0.0,
        mass_attenuation_m2_per_kg=float(attributes.get("mass_attenuation_m2_kg", 0.0)),
        polarization=None if polarization is None else Polarization(str(polarization)),
        far_field=scan.free_space_propagation_distance_m is None,
        **kept,
    )
    pixel = PixelGeometry(width_m=scan.pixel_size_m, height_m=scan.pixel_size_m)
    positions_m = scan.positions_px * scan.pixel_size_m + scan.object_center_m
    n = len(positions_m)
    indexes = np.arange(n) if scan.frame_indexes is None else scan.frame_indexes
    photons = [None] * n if scan.probe_photon_counts is None else scan.probe_photon_counts.tolist()
    center_y_m, center_x_m = array_center_m(scan)
    return Product(
        metadata=metadata,
        probe_positions=ProbePositionSequence(
            [
                ProbePosition(int(index), float(x_m), float(y_m), count)
                for index, (y_m, x_m), count in zip(indexes, positions_m, photons)
            ]
        ),
        probes=ProbeSequence(scan.probe, scan.opr_mode_weights, pixel),
        object_=Object(
            array=scan.object,
            pixel_geometry=pixel,
            center=ObjectCenter(x_m=center_x_m, y_m=center_y_m),
            layer_spacing_m=[] if scan.slice_spacings_m is None else scan.slice_spacings_m,
        ),
        losses=losses,
    )


def _product(scan: Scan, task: PtychographyTask) -> Product:
    reconstructor = task.reconstructor
    assert isinstance(reconstructor, IterativeReconstructor)
    table = reconstructor.loss_tracker.table
    n_epochs = len(table)
    found = reconstructed(scan, task, f"neural, {counted(n_epochs, 'epochs')}")
    return product_of(found, _losses(table.epoch, table.loss))


def _losses(epochs: "np.typing.ArrayLike", values: "np.typing.ArrayLike") -> list[LossValue]:
    pairs = zip(np.asarray(epochs), np.asarray(values))
    return [LossValue(epoch=int(epoch), value=float(value)) for epoch, value in pairs]


def _epoch(task: PtychographyTask) -> int:
    """Number of epochs that a task has run."""
    reconstructor = task.reconstructor
    assert isinstance(reconstructor, IterativeReconstructor)
    return int(reconstructor.current_epoch)


def main() -> int:
    """Run ptychodus's reconstruction subprocess, which knows the engine once we are imported."""
    from ptychodus.cli.reconstruct_subprocess import main as subprocess_main
    from ptychodus.model.ptychi.task import dump_task_options_yaml

    if sys.argv[1:] == ["--print-neural-options"]:
        print(dump_task_options_yaml(NeuralPtychographyOptions()), end="")
        return 0
    return int(subprocess_main())


if __name__ == "__main__":
    sys.exit(main())
