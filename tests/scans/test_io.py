"""Scans in files: what is read is what was written, and every mistake says what to do."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from ptychi.api.options.base import ObjectOptions
from ptychi.data_structures.object import PlanarObject

from ptychi_neural.scans import (
    Scan,
    empty_object,
    load_scan,
    position_origin,
    read_diffraction,
    read_product,
    select_frames,
    write_diffraction,
    write_product,
)

N, SIZE, PIXEL_M = 9, 16, 2e-8


def complex_noise(rng, shape):
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return noise.astype(np.complex64)


@pytest.fixture
def scan():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid([-5.0, 0.0, 5.0], [-7.0, 0.0, 7.0], indexing="ij"), -1)
    positions = grid.reshape(N, 2) + rng.uniform(-0.4, 0.4, (N, 2))
    return Scan(
        patterns=rng.poisson(20.0, (N, SIZE, SIZE)).astype(np.uint16),
        positions_px=positions,
        probe=complex_noise(rng, (2, 3, SIZE, SIZE)),
        object=complex_noise(rng, (3, 40, 45)),
        pixel_size_m=PIXEL_M,
        wavelength_m=1.4e-10,
        detector_distance_m=1.9,
        slice_spacings_m=np.array([1e-6, 2e-6]),
        opr_mode_weights=rng.random((N, 2)),
        frame_indexes=np.arange(N),
        object_center_m=(3e-6, -1e-6),
        attributes={
            "probe_photon_count": 1e6,
            "exposure_time_s": 0.1,
            "mass_attenuation_m2_kg": 0.0,
            "tomography_angle_deg": 12.0,
        },
        name="gold",
        comments="a test",
    )


@pytest.fixture
def files(tmp_path, scan):
    diffraction, product = tmp_path / "diffraction.h5", tmp_path / "product.h5"
    write_diffraction(diffraction, scan.patterns)
    write_product(product, scan)
    return diffraction, product


def rewrite(path, name, value):
    """Replace a dataset, keeping its attributes; None deletes it."""
    with h5py.File(path, "a") as file:
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
            file[name].attrs.update(attributes)


def assert_same(a, b):
    assert a == b if a is None or isinstance(a, str | dict) else np.allclose(a, b, rtol=1e-9)


class TestRoundTrip:
    def test_a_scan_survives_being_written_and_read(self, files, scan):
        read = load_scan(*files)
        for field in dataclasses.fields(Scan):
            assert_same(getattr(read, field.name), getattr(scan, field.name))

    def test_arrays_keep_every_bit_and_their_type(self, files, scan):
        read = load_scan(*files)
        for name in ("patterns", "probe", "object"):
            assert getattr(read, name).dtype == getattr(scan, name).dtype
            np.testing.assert_array_equal(getattr(read, name), getattr(scan, name))

    def test_unknown_geometry_stays_unknown(self, tmp_path, scan):
        unknown = dataclasses.replace(
            scan, wavelength_m=None, detector_distance_m=None, opr_mode_weights=None
        )
        write_product(tmp_path / "product.h5", unknown)
        read = read_product(tmp_path / "product.h5")
        assert read.wavelength_m is None
        assert read.detector_distance_m is None
        assert read.opr_mode_weights is None

    def test_a_product_alone_has_no_patterns(self, files):
        assert read_product(files[1]).patterns.shape == (0, SIZE, SIZE)

    def test_losses_are_written_as_epochs_and_values(self, tmp_path, scan):
        write_product(tmp_path / "product.h5", scan, losses=[(1, 0.5), (3, 0.25)])
        with h5py.File(tmp_path / "product.h5") as file:
            assert file["loss_epochs"][()].tolist() == [1, 3]
            assert file["loss_values"][()].tolist() == [0.5, 0.25]

    def test_the_mask_survives(self, tmp_path, scan):
        mask = np.ones((SIZE, SIZE), bool)
        mask[2, 3] = False
        write_diffraction(tmp_path / "diffraction.h5", scan.patterns, mask)
        np.testing.assert_array_equal(
            read_diffraction(tmp_path / "diffraction.h5").valid_pixel_mask, mask
        )

    def test_photon_energy_is_that_of_the_wavelength(self, files):
        with h5py.File(files[1]) as file:
            assert file.attrs["probe_energy_eV"] == pytest.approx(12398.4198 / 1.4, rel=1e-6)


class TestWriting:
    def test_nothing_is_overwritten_unless_asked(self, files, scan):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_product(files[1], scan)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_diffraction(files[0], scan.patterns)
        write_product(files[1], dataclasses.replace(scan, name="new"), overwrite=True)
        assert read_product(files[1]).name == "new"

    def test_a_failed_write_leaves_the_earlier_file_and_no_debris(self, files, scan):
        broken = dataclasses.replace(scan, probe=np.array([object()]))
        with pytest.raises(TypeError):
            write_product(files[1], broken, overwrite=True)
        assert read_product(files[1]).name == "gold"
        assert sorted(files[1].parent.iterdir()) == sorted(files)


class TestPositions:
    def test_positions_are_metres_from_the_object_centre_over_the_pixel_size(self, files):
        with h5py.File(files[1], "a") as file:
            file["probe_position_y_m"][0] = 3e-6 + 4 * PIXEL_M
            file["probe_position_x_m"][0] = -1e-6 - 6 * PIXEL_M
        np.testing.assert_allclose(load_scan(*files).positions_px[0], [4, -6], rtol=1e-6)

    @pytest.mark.parametrize("shape", [(40, 46), (41, 47), (42, 43), (500, 497)])
    def test_the_position_origin_is_that_of_pty_chi(self, shape):
        array = torch.ones(1, *shape, dtype=torch.complex64)
        planar = PlanarObject(data=array, options=ObjectOptions())
        planar.update_pos_origin_coordinates(torch.zeros(1, 2))
        np.testing.assert_array_equal(position_origin(shape), planar.pos_origin_coords.numpy())

    def test_probe_position_indexes_choose_and_order_the_frames(self, files, scan):
        order = np.array([7, 0, 4])
        write_product(files[1], select_frames(scan, order), overwrite=True)
        read = load_scan(*files)
        np.testing.assert_array_equal(read.patterns, scan.patterns[order])
        np.testing.assert_allclose(read.positions_px, scan.positions_px[order])
        np.testing.assert_array_equal(read.frame_indexes, order)

    def test_frames_take_part_of_the_scan(self, files, scan):
        read = load_scan(*files, frames=slice(2, 8, 3))
        np.testing.assert_array_equal(read.patterns, scan.patterns[[2, 5]])
        np.testing.assert_allclose(read.opr_mode_weights, scan.opr_mode_weights[[2, 5]])

    def test_frame_numbers_in_the_diffraction_file_are_honoured(self, files, scan):
        rewrite(files[0], "indexes", np.arange(N)[::-1])
        np.testing.assert_array_equal(load_scan(*files).patterns, scan.patterns[::-1])

    def test_an_empty_object_holds_every_patch_without_a_warning_of_pty_chi(self, scan):
        positions = scan.positions_px + np.array([11.0, -4.0])
        shape = np.array(empty_object(positions, scan.probe.shape, margin=1).shape[-2:])
        start = positions + position_origin(shape) - (SIZE - 1) / 2
        assert (start >= 1).all()
        assert (start + SIZE <= shape).all()


class TestOtherLayouts:
    def test_cxi_patterns_and_mask_are_read(self, files, scan):
        files[0].unlink()
        with h5py.File(files[0], "w") as file:
            file["entry_1/data_1/data"] = scan.patterns
            file["entry_1/instrument_1/detector_1/mask"] = np.eye(SIZE, dtype=np.uint32)
        read = load_scan(*files)
        np.testing.assert_array_equal(read.patterns, scan.patterns)
        np.testing.assert_array_equal(read.valid_pixel_mask, ~np.eye(SIZE, dtype=bool))

    def test_a_two_dimensional_probe_and_object_gain_their_axes(self, files, scan):
        rewrite(files[1], "probe", scan.probe[0, 0])
        rewrite(files[1], "object", scan.object[0])
        rewrite(files[1], "opr_weights", None)
        read = load_scan(*files)
        assert read.probe.shape == (1, 1, SIZE, SIZE)
        assert read.object.shape == (1, 40, 45)
        assert read.slice_spacings_m is None


class TestErrors:
    def test_missing_files_are_named(self, files, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"absent\.h5 does not exist"):
            load_scan(tmp_path / "absent.h5", files[1])
        with pytest.raises(FileNotFoundError, match=r"absent\.h5 does not exist"):
            load_scan(files[0], tmp_path / "absent.h5")

    def test_other_file_formats_are_refused(self, files):
        files[0].write_text("not HDF5")
        with pytest.raises(ValueError, match=r"diffraction.h5 is not an HDF5 file"):
            load_scan(*files)

    @pytest.mark.parametrize(
        "name", ["probe", "object", "probe_position_x_m", "object_layer_spacing_m"]
    )
    def test_missing_datasets_are_named(self, files, name):
        rewrite(files[1], name, None)
        with pytest.raises(ValueError, match=f"product.h5 has no dataset '{name}'"):
            load_scan(*files)

    def test_missing_patterns_are_named(self, files):
        rewrite(files[0], "dp", None)
        rewrite(files[0], "patterns", None)
        with pytest.raises(ValueError, match="patterns under no usual name"):
            load_scan(*files)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("probe", np.ones((1, SIZE, SIZE)), "store it as complex"),
            ("probe", np.ones((1, 8, 8), complex), "crop or pad"),
            ("probe", np.zeros((2, 1, SIZE, SIZE), complex), "carries no light"),
            ("probe", np.full((SIZE, SIZE), np.nan, complex), "NaN or Inf"),
            ("probe", np.ones((1, 1, 1, SIZE, SIZE), complex), r"\(n_opr_modes, n_modes, h, w\)"),
            ("object", np.full((3, 40, 45), np.inf, complex), "NaN or Inf"),
            ("object", np.ones(40, complex), r"\(n_slices, H, W\)"),
            ("object_layer_spacing_m", [1e-6], "needs 2 positive distances"),
            ("probe_position_x_m", np.zeros(N - 1), "one number each"),
            ("probe_position_x_m", np.full(N, np.nan), "none of 9 selected positions"),
            ("probe_position_indexes", np.zeros(N, int), "names a frame twice"),
            ("probe_position_indexes", np.arange(N) + 1, "holds 9 and lacks 1"),
            ("opr_weights", np.ones((N, 5)), r"need \(9, 2\)"),
        ],
    )
    def test_a_wrong_product_is_explained(self, files, name, value, message):
        if name == "probe" and np.ndim(value) != 4:
            rewrite(files[1], "opr_weights", None)
        rewrite(files[1], name, value)
        with pytest.raises(ValueError, match=message):
            load_scan(*files)

    @pytest.mark.parametrize(
        ("owner", "name", "value", "message"),
        [
            ("object", "pixel_height_m", 3e-8, "square pixels"),
            ("object", "pixel_width_m", np.nan, "finite"),
            ("object", "center_x_m", None, "no attribute 'center_x_m'"),
        ],
    )
    def test_wrong_geometry_is_explained(self, files, owner, name, value, message):
        with h5py.File(files[1], "a") as file:
            del file[owner].attrs[name]
            if value is not None:
                file[owner].attrs[name] = value
        with pytest.raises(ValueError, match=message):
            load_scan(*files)

    def test_different_pixels_of_probe_and_object_are_refused(self, files):
        with h5py.File(files[1], "a") as file:
            file["probe"].attrs.update(pixel_height_m=3e-8, pixel_width_m=3e-8)
        with pytest.raises(ValueError, match="'probe' and 'object' have pixel sizes"):
            load_scan(*files)

    def test_positions_outside_the_object_tell_the_size_that_is_needed(self, files, scan):
        rewrite(files[1], "object", scan.object[:, :28])
        assert len(load_scan(*files).positions_px) == N
        rewrite(files[1], "object", scan.object[:, :24])
        with pytest.raises(ValueError, match=r"6 of 9 positions lie outside .* enlarge 'object'"):
            load_scan(*files)

    def test_patterns_must_be_a_stack_of_real_images(self, files):
        rewrite(files[0], "dp", np.ones((SIZE, SIZE)))
        with pytest.raises(ValueError, match=r"\(n, h, w\)"):
            load_scan(*files)

    def test_a_mask_of_another_shape_is_refused(self, files):
        with pytest.raises(ValueError, match="valid_pixel_mask has shape"):
            load_scan(*files, valid_pixel_mask=np.ones((3, 3), bool))
        rewrite(files[0], "valid_pixel_mask", np.ones((3, 3), bool))
        with pytest.raises(ValueError, match="pixel mask has shape"):
            load_scan(*files)


class TestDefects:
    def defective(self, files, patterns, **kwargs):
        rewrite(files[0], "dp", patterns)
        with pytest.warns(UserWarning, match="masked|dropped") as caught:
            scan = load_scan(*files, **kwargs)
        assert len(caught) == 1
        return scan, str(caught[0].message)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
    def test_a_broken_pixel_is_masked_in_all_frames(self, files, scan, value):
        patterns = scan.patterns.astype(np.float32)
        patterns[3, 4, 5] = patterns[:, 6, 7] = value
        read, message = self.defective(files, patterns)
        assert "masked 2 pixels with NaN, Inf, negative" in message
        assert np.argwhere(~read.valid_pixel_mask).tolist() == [[4, 5], [6, 7]]
        assert np.isfinite(read.patterns).all()
        assert len(read.patterns) == N

    def test_the_largest_unsigned_number_marks_a_broken_pixel(self, files, scan):
        patterns = scan.patterns.copy()
        patterns[:, 1] = np.iinfo(np.uint16).max
        read, message = self.defective(files, patterns)
        assert f"masked {SIZE} pixels" in message
        assert not read.valid_pixel_mask[1].any()
        assert read.patterns.dtype == np.uint16

    def test_a_broken_frame_is_dropped_with_its_position(self, files, scan):
        patterns = scan.patterns.astype(np.float64)
        patterns[2] = np.nan
        read, message = self.defective(files, patterns)
        assert "dropped 1 broken frame:" in message
        assert read.valid_pixel_mask is None
        assert read.frame_indexes.tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
        np.testing.assert_allclose(read.positions_px, np.delete(scan.positions_px, 2, axis=0))

    def test_empty_frames_are_dropped(self, files, scan):
        patterns = scan.patterns.copy()
        patterns[[0, 5]] = 0
        read, message = self.defective(files, patterns)
        assert "dropped 2 empty frames" in message
        assert read.frame_indexes.tolist() == [1, 2, 3, 4, 6, 7, 8]

    def test_frames_without_a_finite_position_are_dropped(self, files, scan):
        with h5py.File(files[1], "a") as file:
            file["probe_position_x_m"][4] = np.nan
        read, message = self.defective(files, scan.patterns)
        assert "dropped 1 frame with NaN or Inf positions" in message
        np.testing.assert_array_equal(read.patterns, np.delete(scan.patterns, 4, axis=0))

    def test_dead_and_hot_pixels_are_masked(self, files, scan):
        patterns = scan.patterns.copy()
        patterns[:, 3, 3] = 0
        patterns[:, 9, 9] = 5000
        read, message = self.defective(files, patterns)
        assert "masked 1 dead pixel at" in message
        assert "masked 1 hot pixel at" in message
        assert np.argwhere(~read.valid_pixel_mask).tolist() == [[3, 3], [9, 9]]

    def test_a_given_mask_is_trusted_about_dead_and_hot_pixels(self, files, scan):
        patterns = scan.patterns.copy()
        patterns[:, 3, 3] = 0
        patterns[:, 9, 9] = 5000
        rewrite(files[0], "dp", patterns)
        mask = np.ones((SIZE, SIZE), bool)
        assert load_scan(*files, valid_pixel_mask=mask).valid_pixel_mask is None

    def test_masks_of_file_and_argument_add_up(self, files):
        in_file, given = np.ones((2, SIZE, SIZE), bool)
        in_file[0, 0] = given[1, 1] = False
        rewrite(files[0], "valid_pixel_mask", in_file)
        read = load_scan(*files, valid_pixel_mask=given)
        np.testing.assert_array_equal(read.valid_pixel_mask, in_file & given)

    def test_what_is_masked_already_is_not_reported_but_made_finite(self, files, scan):
        patterns = scan.patterns.astype(np.float32)
        patterns[:, 0, 0] = np.nan
        mask = np.ones((SIZE, SIZE), bool)
        mask[0, 0] = False
        rewrite(files[0], "dp", patterns)
        read = load_scan(*files, valid_pixel_mask=mask)
        assert np.isfinite(read.patterns).all()
        np.testing.assert_array_equal(read.valid_pixel_mask, mask)

    @pytest.mark.parametrize(
        ("value", "message"), [(np.nan, "correct the patterns"), (0.0, "no frame holds a count")]
    )
    def test_a_scan_with_nothing_left_is_refused(self, files, scan, value, message):
        rewrite(files[0], "dp", np.full(scan.patterns.shape, value))
        with pytest.raises(ValueError, match=message):
            load_scan(*files)

    def test_smooth_bright_light_is_no_defect(self, files):
        y, x = np.indices((SIZE, SIZE)) - SIZE // 2
        patterns = np.full((N, SIZE, SIZE), 1e6) * np.exp(-(y**2 + x**2) / 3.0)
        rewrite(files[0], "dp", np.round(patterns))
        assert load_scan(*files).valid_pixel_mask is None


@pytest.mark.parametrize(
    ("name", "n", "dtype"), [("siemens_star", 516, np.uint16), ("rotavirus", 2500, np.uint8)]
)
def test_measured_scans_load_whole_and_without_a_warning(data_folder, name, n, dtype, recwarn):
    folder = data_folder / name
    scan = load_scan(folder / "diffraction.h5", folder / "product.h5")
    assert not recwarn.list
    assert scan.patterns.shape == (n, 128, 128)
    assert scan.patterns.dtype == dtype
    start = scan.positions_px + position_origin(scan.object.shape) - 127 / 2
    assert (start > 1).all()
    assert (start + 128 < np.array(scan.object.shape[-2:]) - 1).all()
    # The centre of an odd side is a pixel, that of the positions is half a pixel beside it.
    odd = np.array(scan.object.shape[-2:]) % 2
    np.testing.assert_allclose(scan.positions_px.max(0), odd - scan.positions_px.min(0), atol=0.01)
