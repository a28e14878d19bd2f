"""The published ptychodus package: its files, its reconstructor interface, its subprocess."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

io = pytest.importorskip("ptychodus.api.io")

from ptychodus.api.diffraction import Polarization  # noqa: E402
from ptychodus.api.geometry import PixelGeometry  # noqa: E402
from ptychodus.api.object import Object, ObjectCenter  # noqa: E402
from ptychodus.api.probe import ProbeSequence  # noqa: E402
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence  # noqa: E402
from ptychodus.api.product import LossValue, Product, ProductMetadata  # noqa: E402
from ptychodus.api.reconstruct import ReconstructInput, prepare_reconstruct_input  # noqa: E402
from ptychodus.model.ptychi.task import align_task_options_with_product  # noqa: E402

from ptychi_neural.integrations.ptychodus import (  # noqa: E402
    NeuralReconstructor,
    product_of,
    scan_of,
)
from ptychi_neural.runs.output_formats import write_npz  # noqa: E402
from ptychi_neural.scans import (  # noqa: E402
    load_scan,
    position_origin,
    read_product,
    write_product,
    write_scan,
)
from ptychi_neural.simulation import write_simulation  # noqa: E402
from small_tasks import neural_options  # noqa: E402

N, SIZE, PIXEL_M = 7, 16, 3e-8


def noise(rng, *shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.fixture(params=["far field", "parallel near field", "cone near field"])
def product(request):
    """A product in which every field is set, of an object with an odd side."""
    rng = np.random.default_rng(0)
    focus_m = -0.004 if request.param == "cone near field" else 0.0
    numbers = [3, 4, 6, 7, 8, 11, 12]
    return Product(
        metadata=ProductMetadata(
            name="gold",
            comments="all set",
            detector_distance_m=1.3,
            photon_energy_eV=9000.0,
            probe_photon_count=1e6,
            exposure_time_s=0.2,
            mass_attenuation_m2_per_kg=0.3,
            tomography_angle_deg=12.0,
            focus_object_distance_m=focus_m,
            tilt_angle_deg=3.0,
            polarization=Polarization.LEFT_CIRCULAR,
            far_field=request.param == "far field",
        ),
        probe_positions=ProbePositionSequence(
            [
                ProbePosition(i, *rng.uniform(-3e-7, 3e-7, 2), probe_photon_count=1e5 + i)
                for i in numbers
            ]
        ),
        probes=ProbeSequence(
            noise(rng, 2, 3, SIZE, SIZE), rng.random((N, 2)), PixelGeometry(PIXEL_M, PIXEL_M)
        ),
        object_=Object(
            array=noise(rng, 3, 46, 49),
            pixel_geometry=PixelGeometry(PIXEL_M, PIXEL_M),
            center=ObjectCenter(x_m=1e-7, y_m=-2e-7),
            layer_spacing_m=np.array([1e-6, 2e-6]),
        ),
        losses=[LossValue(0, 2.0), LossValue(1, 0.5)],
    )


def assert_same(a, b):
    for field in dataclasses.fields(ProductMetadata):
        ours, theirs = getattr(a.metadata, field.name), getattr(b.metadata, field.name)
        assert ours == (pytest.approx(theirs) if isinstance(theirs, float) else theirs), field.name
    for positions in ("get_coordinates_x_m", "get_coordinates_y_m"):
        np.testing.assert_allclose(
            getattr(a.probe_positions, positions)(), getattr(b.probe_positions, positions)()
        )
    np.testing.assert_array_equal(a.probe_positions.get_indexes(), b.probe_positions.get_indexes())
    np.testing.assert_array_equal(
        a.probe_positions.get_probe_photon_counts(), b.probe_positions.get_probe_photon_counts()
    )
    np.testing.assert_array_equal(a.probes.get_array(), b.probes.get_array())
    np.testing.assert_array_equal(a.probes.get_opr_weights(), b.probes.get_opr_weights())
    assert a.probes.get_pixel_geometry() == b.probes.get_pixel_geometry()
    np.testing.assert_array_equal(a.object_.get_array(), b.object_.get_array())
    np.testing.assert_allclose(a.object_.layer_spacing_m, b.object_.layer_spacing_m)
    ours, theirs = a.object_.get_geometry(), b.object_.get_geometry()
    for field in dataclasses.fields(theirs):
        assert getattr(ours, field.name) == pytest.approx(getattr(theirs, field.name)), field.name
    assert list(a.losses) == list(b.losses)


def inputs_of(product):
    patterns = np.random.default_rng(1).poisson(9, (N, SIZE, SIZE)).astype(np.uint16)
    bad = np.zeros((SIZE, SIZE), bool)
    bad[1, 2] = True
    return ReconstructInput(patterns, bad, product)


class TestFiles:
    def test_a_product_survives_our_files_in_every_field(self, product, tmp_path):
        io.save_product(tmp_path / "theirs.h5", product)
        losses = [(loss.epoch, loss.value) for loss in product.losses]
        write_product(tmp_path / "ours.h5", read_product(tmp_path / "theirs.h5"), losses)
        assert_same(io.load_product(tmp_path / "ours.h5"), product)

    def test_a_product_survives_an_archive_both_ways(self, product, tmp_path):
        from ptychodus.plugins.npz_product_file import NPZProductFileIO

        NPZProductFileIO().write(tmp_path / "theirs.npz", product)
        losses = [(loss.epoch, loss.value) for loss in product.losses]
        write_product(tmp_path / "ours.h5", read_product(tmp_path / "theirs.npz"), losses)
        assert_same(io.load_product(tmp_path / "ours.h5"), product)
        write_npz(tmp_path / "ours.h5", tmp_path / "ours.npz")
        assert_same(NPZProductFileIO().read(tmp_path / "ours.npz"), product)

    def test_a_product_survives_our_scan_in_memory(self, product):
        scan = scan_of(inputs_of(product))
        assert_same(product_of(scan, list(product.losses)), product)

    def test_file_and_memory_give_the_same_scan(self, product, tmp_path):
        io.save_product(tmp_path / "theirs.h5", product)
        from_file, in_memory = read_product(tmp_path / "theirs.h5"), scan_of(inputs_of(product))
        for field in dataclasses.fields(from_file):
            if field.name not in ("patterns", "valid_pixel_mask"):
                ours, theirs = getattr(from_file, field.name), getattr(in_memory, field.name)
                if isinstance(theirs, float | np.ndarray | tuple):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
                else:
                    assert ours == theirs, field.name

    def test_geometry_is_what_ptychodus_gives_to_pty_chi(self, product):
        scan = scan_of(inputs_of(product))
        aligned = align_task_options_with_product(neural_options(), product)
        theirs_m = aligned.data_options.free_space_propagation_distance_m
        if product.metadata.far_field:
            assert scan.free_space_propagation_distance_m is None
            assert np.isinf(theirs_m)
        else:
            assert scan.free_space_propagation_distance_m == pytest.approx(theirs_m)
        assert scan.wavelength_m == pytest.approx(aligned.data_options.wavelength_m)
        geometry = product.object_.get_geometry()
        x_px = geometry.map_probe_positions_to_object_x_px(product.probe_positions)
        y_px = geometry.map_probe_positions_to_object_y_px(product.probe_positions)
        ours = scan.positions_px + position_origin(scan.object.shape)
        np.testing.assert_allclose(ours, np.stack([y_px, x_px], axis=1), atol=1e-6)

    def test_simulated_files_open_with_the_detectors_pixels(self, simulated, tmp_path):
        write_simulation(simulated, tmp_path)
        data = io.load_diffraction_data(tmp_path / "diffraction.h5")
        np.testing.assert_array_equal(data.get_patterns(), simulated.scan.patterns)
        scan, pixel = simulated.scan, data.get_pixel_geometry()
        far_m = scan.wavelength_m * scan.detector_distance_m / (16 * scan.pixel_size_m)
        assert (pixel.width_m, pixel.height_m) == pytest.approx((far_m, far_m))


@pytest.fixture
def parameters(simulated, tmp_path):
    write_simulation(simulated, tmp_path)
    return prepare_reconstruct_input(
        io.load_diffraction_data(tmp_path / "diffraction.h5"),
        io.load_product(tmp_path / "product.h5"),
    )


class TestReconstructor:
    def test_a_reconstruction_yields_products_with_their_losses(self, parameters):
        reconstructor = NeuralReconstructor(neural_options())
        outputs = list(reconstructor.reconstruct(parameters))
        assert [output.progress for output in outputs] == [1, 2]
        assert reconstructor.get_progress_goal() == 2
        last = outputs[-1].product
        assert len(last.losses) == 2
        assert np.abs(last.object_.get_array() - 1).max() > 0.1
        assert last.probe_positions.get_indexes().tolist() == list(range(64))

    def test_a_generator_is_trained_saved_loaded_and_predicts(self, parameters, tmp_path):
        options = neural_options()
        trainer = NeuralReconstructor(options)
        assert not trainer.is_model_loaded()
        with pytest.raises(ValueError, match="no generator"):
            trainer.save_model(tmp_path / "none.safetensors")
        (tmp_path / "scans").mkdir()
        with pytest.raises(ValueError, match="0 exported scans"):
            next(trainer.train(tmp_path / "scans", tmp_path))
        for name in ("a.h5", "b.h5"):
            trainer.export_training_data(tmp_path / "scans" / name, parameters)
        read = load_scan(tmp_path / "scans" / "a.h5")
        np.testing.assert_array_equal(read.patterns, parameters.diffraction_patterns)
        outputs = list(trainer.train(tmp_path / "scans", tmp_path / "trained"))
        assert [output.progress for output in outputs] == [1, 2]
        assert [loss.epoch for loss in outputs[-1].validation_loss] == [1, 2]
        assert trainer.is_model_loaded()
        saved = tmp_path / f"model{trainer.get_model_file_extension()}"
        trainer.save_model(saved)
        options.reconstructor_options.num_epochs = 0
        predictor = NeuralReconstructor(options)
        predictor.load_model_from_file(saved)
        (output,) = predictor.reconstruct(parameters)
        assert output.product.object_.get_array().std() > 1e-3
        untrained = next(NeuralReconstructor(options).reconstruct(parameters))
        assert not np.allclose(
            output.product.object_.get_array(), untrained.product.object_.get_array()
        )

    def test_what_is_no_generator_is_refused_when_it_is_loaded(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
        reconstructor = NeuralReconstructor()
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            reconstructor.load_model_from_file(tmp_path / "model.safetensors")
        assert not reconstructor.is_model_loaded()


class TestSubprocess:
    @pytest.fixture(params=["theirs", "ours"])
    def start(self, simulated, tmp_path, request):
        from ptychodus.model.ptychi.task import dump_task_options_yaml

        def start(n_epochs):
            write_simulation(simulated, tmp_path / "in")
            options = neural_options()
            options.reconstructor_options.num_epochs = n_epochs
            file = tmp_path / "in" / "ptychi_options.yaml"
            file.write_text(dump_task_options_yaml(options), encoding="utf-8")
            folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
            command = {
                "theirs": ["ptychi_neural.integrations.ptychodus"],
                "ours": ["ptychi_neural", "reconstruct-subprocess"],
            }[request.param]
            return subprocess.Popen(
                [sys.executable, "-m", *command, *folders], stdout=subprocess.PIPE, text=True
            )

        return start

    def test_it_runs_the_engine_as_it_is(self, start, tmp_path):
        process = start(2)
        out, _ = process.communicate(timeout=300)
        events = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, events
        assert events[0]["options_class"] == "NeuralPtychographyOptions"
        assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2]
        assert events[-1]["event"] == "finished"
        read = io.load_product(tmp_path / "out" / "product.h5")
        assert np.abs(read.object_.get_array() - 1).max() > 0.1

    def test_a_signal_keeps_the_partial_product(self, start, tmp_path):
        process = start(100_000)
        for line in process.stdout:
            if json.loads(line)["event"] == "epoch":
                time.sleep(0.2)  # ptychodus cannot tell of a signal while it tells something else.
                process.send_signal(signal.SIGTERM)
                break
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["cancelled"]
        assert np.isfinite(read_product(tmp_path / "out" / "product.h5").object).all()


def test_a_scan_in_one_file_opens_as_either(simulated, tmp_path):
    write_scan(tmp_path / "scan.h5", simulated.scan)
    data = io.load_diffraction_data(tmp_path / "scan.h5")
    np.testing.assert_array_equal(data.get_patterns(), simulated.scan.patterns)
    product = io.load_product(tmp_path / "scan.h5")
    np.testing.assert_array_equal(product.probes.get_array(), simulated.scan.probe)
