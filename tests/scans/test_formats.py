"""Every format gives the same scan, and a format from elsewhere joins with one decorator."""

import dataclasses
import pickle
import warnings

import h5py
import numpy as np
import pytest

from ptychi_neural.scans import (
    Scan,
    load_scan,
    position_origin,
    read_diffraction,
    read_product,
    select_frames,
    write_diffraction,
    write_product,
    write_scan,
)
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.formats import READERS, WRITERS, Reader, register_reader, register_writer
from ptychi_neural.scans.preparation import Preparation

EXACT = ("patterns", "probe", "object", "frame_indexes", "valid_pixel_mask")


@pytest.fixture
def scan(simulated):
    mask = np.ones((32, 32), bool)
    mask[3, 4] = False
    return simulated().scan(
        valid_pixel_mask=mask,
        frame_indexes=np.arange(len(simulated().counts)),
        object_center_m=(3e-6, -1e-6),
        comments="a test",
        attributes={"exposure_time_s": 0.1, "tomography_angle_deg": 12.0},
    )


def load(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_scan(*args, **kwargs)


def assert_same(read, scan, leave_out=()):
    for field in dataclasses.fields(Scan):
        a, b = getattr(read, field.name), getattr(scan, field.name)
        if field.name in leave_out:
            continue
        if field.name == "attributes":
            assert a == a | b
        elif b is None or isinstance(b, str):
            assert a == b, field.name
        elif field.name in EXACT:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


class TestWholeScans:
    @pytest.mark.parametrize("suffix", ["h5", "cxi"])
    def test_a_scan_survives_one_file(self, tmp_path, scan, suffix):
        path = tmp_path / f"scan.{suffix}"
        write_scan(path, scan, "cxi" if suffix == "cxi" else "ptychodus")
        assert_same(load_scan(path), scan)

    @pytest.mark.parametrize("format", ["ptychodus", "cxi"])
    def test_slices_modes_photons_and_the_near_field_survive(self, tmp_path, scan, format):
        rng = np.random.default_rng(0)
        n = len(scan.patterns)
        modes = np.concatenate([scan.probe, 0.1 * scan.probe])
        full = dataclasses.replace(
            scan,
            probe=np.concatenate([modes, modes], axis=1),
            object=np.ones((3, *scan.object.shape[1:]), np.complex64),
            slice_spacings_m=np.array([1e-6, 2e-6]),
            opr_mode_weights=rng.random((n, 2)),
            probe_photon_counts=rng.random(n),
            free_space_propagation_distance_m=0.003,
        )
        write_scan(tmp_path / "scan.h5", full, format)
        assert_same(load_scan(tmp_path / "scan.h5"), full, leave_out=("attributes",))

    def test_an_npz_of_ptychopinn_holds_a_scan_in_pixels(self, tmp_path, scan):
        write_scan(tmp_path / "simulated.npz", scan, "ptychopinn")
        read = load_scan(tmp_path / "simulated.npz")
        told = ("wavelength_m", "detector_distance_m", "object_center_m", "comments", "attributes")
        assert_same(read, scan, leave_out=told)

    def test_frames_are_chosen_from_any_format(self, tmp_path, scan):
        for format in WRITERS:
            write_scan(tmp_path / format, scan, format)
            read = load_scan(tmp_path / format, frames=slice(2, 20, 3))
            np.testing.assert_array_equal(read.patterns, scan.patterns[2:20:3])
            np.testing.assert_allclose(
                np.diff(read.positions_px, axis=0), np.diff(scan.positions_px[2:20:3], axis=0)
            )

    @pytest.mark.parametrize("format", WRITERS)
    def test_some_frames_of_a_scan_survive_one_file(self, tmp_path, scan, format):
        some = select_frames(scan, slice(5, 20))
        write_scan(tmp_path / "some", some, format)
        np.testing.assert_array_equal(load_scan(tmp_path / "some").patterns, some.patterns)

    @pytest.mark.parametrize("format", ["ptychodus", "cxi"])
    def test_what_pty_chi_has_no_use_for_survives(self, tmp_path, scan, format):
        attributes = {
            "focus_object_distance_m": -0.01,
            "tilt_angle_deg": 3.0,
            "polarization": "left_circular",
            "mass_attenuation_m2_kg": 0.3,
        }
        write_scan(tmp_path / "a", dataclasses.replace(scan, attributes=attributes), format)
        read = read_product(tmp_path / "a")
        assert read.attributes == read.attributes | attributes

    @pytest.mark.parametrize("format", ["ptychodus", "cxi"])
    @pytest.mark.parametrize("shape", [(80, 81), (81, 82), (83, 83)])
    def test_positions_count_from_the_middle_of_the_array(self, tmp_path, scan, format, shape):
        object_ = np.ones((1, *shape), np.complex64)
        scan = dataclasses.replace(scan, object=object_)
        write_scan(tmp_path / "a", scan, format)
        with h5py.File(tmp_path / "a") as file:
            if format == "ptychodus":
                center_m = file["object"].attrs["center_y_m"], file["object"].attrs["center_x_m"]
                positions_m = file["probe_position_y_m"][()], file["probe_position_x_m"][()]
            else:
                center_m = [file[f"entry_1/ptychodus/object_center_{axis}_m"][()] for axis in "yx"]
                positions_m = file["entry_1/sample_1/geometry_1/translation"][()][:, 1::-1].T
        middle_px = (np.array(shape) - 1) / 2  # an array index, as ptychodus has it
        from_corner = (np.stack(positions_m, 1) - center_m) / scan.pixel_size_m + middle_px
        ours = scan.positions_px + position_origin(shape)
        np.testing.assert_allclose(from_corner, ours, atol=1e-6)
        np.testing.assert_allclose(
            read_product(tmp_path / "a").positions_px, scan.positions_px, atol=1e-6
        )

    def test_nothing_is_overwritten_unless_asked(self, tmp_path, scan):
        write_scan(tmp_path / "scan.cxi", scan, "cxi")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_scan(tmp_path / "scan.cxi", scan, "cxi")
        with pytest.raises(ValueError, match=r"there are \['cxi', 'ptychodus', 'ptychopinn'\]"):
            write_scan(tmp_path / "scan", scan, "jpeg")


class TestPtychodus:
    def test_attributes_have_the_names_of_both_versions(self, tmp_path, scan):
        attributes = {"mass_attenuation_m2_kg": 0.3}
        write_product(tmp_path / "a.h5", dataclasses.replace(scan, attributes=attributes))
        with h5py.File(tmp_path / "a.h5") as file:
            for names in (
                ("photon_energy_eV", "probe_energy_eV"),
                ("mass_attenuation_m2_per_kg", "mass_attenuation_m2_kg"),
            ):
                assert file.attrs[names[0]] == file.attrs[names[1]] > 0
            assert file.attrs["far_field"]

    @pytest.mark.parametrize("version", ["1.6", "1.7"])
    def test_products_of_both_versions_are_read(self, tmp_path, scan, version):
        path = tmp_path / "a.h5"
        write_product(path, dataclasses.replace(scan, attributes={"mass_attenuation_m2_kg": 0.3}))
        other = ("photon_energy_eV", "mass_attenuation_m2_per_kg", "far_field")
        if version == "1.7":
            other = ("probe_energy_eV", "mass_attenuation_m2_kg")
        with h5py.File(path, "a") as file:
            for name in other:
                del file.attrs[name]
        read = read_product(path)
        assert read.wavelength_m == pytest.approx(scan.wavelength_m)
        assert read.attributes["mass_attenuation_m2_kg"] == 0.3

    def test_what_pty_chi_has_no_use_for_is_kept(self, tmp_path, scan):
        attributes = {
            "focus_object_distance_m": -0.01,
            "tilt_angle_deg": 3.0,
            "polarization": "left_circular",
        }
        photons = np.arange(float(len(scan.patterns)))
        kept = dataclasses.replace(scan, attributes=attributes, probe_photon_counts=photons)
        write_product(tmp_path / "a.h5", kept)
        write_product(tmp_path / "b.h5", read_product(tmp_path / "a.h5"))
        read = read_product(tmp_path / "b.h5")
        assert read.attributes == read.attributes | attributes
        np.testing.assert_array_equal(read.probe_photon_counts, photons)

    @pytest.mark.parametrize(
        ("focus_m", "distance_m"),
        [(0.0, 1.12), (-3.65e-3, 3.65e-3 * 1.12 / (3.65e-3 + 1.12)), (0.5, 1.12 * 0.5 / 0.62)],
    )
    def test_near_field_is_the_distance_of_the_equivalent_parallel_beam(
        self, tmp_path, scan, focus_m, distance_m
    ):
        write_product(tmp_path / "a.h5", scan)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file.attrs["far_field"] = False
            file.attrs["detector_object_distance_m"] = 1.12
            file.attrs["focus_object_distance_m"] = focus_m
        assert read_product(tmp_path / "a.h5").free_space_propagation_distance_m == pytest.approx(
            distance_m
        )

    def test_near_field_without_a_distance_is_refused(self, tmp_path, scan):
        write_product(tmp_path / "a.h5", scan)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file.attrs.update(far_field=False, detector_object_distance_m=0.0)
        with pytest.raises(ValueError, match="near-field product"):
            read_product(tmp_path / "a.h5")

    def test_diffraction_files_have_its_layout_without_a_second_copy(self, tmp_path, scan):
        write_diffraction(tmp_path / "a.h5", scan.patterns, scan.valid_pixel_mask)
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["patterns"] == file["dp"]
            assert file["patterns"].attrs["detector_pixel_width_m"] > 0
            assert file["indexes"][()].tolist() == list(range(len(scan.patterns)))
            np.testing.assert_array_equal(file["bad_pixels"][()], ~scan.valid_pixel_mask)

    def test_native_diffraction_files_are_read(self, tmp_path, scan):
        order = np.random.default_rng(0).permutation(len(scan.patterns))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["patterns"], file["indexes"] = scan.patterns[order], order
            file["bad_pixels"] = ~scan.valid_pixel_mask
        write_product(tmp_path / "product.h5", scan)
        read = load_scan(tmp_path / "a.h5", tmp_path / "product.h5")
        np.testing.assert_array_equal(read.patterns, scan.patterns)
        np.testing.assert_array_equal(read.valid_pixel_mask, scan.valid_pixel_mask)

    def test_a_bad_pixels_without_any_is_no_mask(self, tmp_path, simulated):
        counts = simulated().counts.copy()
        counts[:, 16, 16] = 0
        write_diffraction(tmp_path / "diffraction.h5", counts)
        write_product(tmp_path / "product.h5", simulated().scan())
        with pytest.warns(UserWarning, match="1 dead pixel at"):
            read = load_scan(tmp_path / "diffraction.h5")
        assert np.argwhere(~read.valid_pixel_mask).tolist() == [[16, 16]]

    @pytest.mark.parametrize(
        ("owner", "name", "value", "message"),
        [
            ("object", "pixel_height_m", h5py.Empty("f8"), "finite length"),
            ("object", "pixel_height_m", [1e-8, 1e-8], "write one number"),
            ("object", "center_x_m", "here", "write one number"),
            ("/", "probe_energy_eV", "8 keV", "write one number"),
        ],
    )
    def test_attributes_that_are_no_number_are_named(
        self, tmp_path, scan, owner, name, value, message
    ):
        write_product(tmp_path / "a.h5", dataclasses.replace(scan, wavelength_m=None))
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file[owner].attrs[name] = value
        with pytest.raises(ValueError, match=f"{name}.*{message}|{message}"):
            read_product(tmp_path / "a.h5")

    def test_attributes_of_one_element_and_bytes_are_read(self, tmp_path, scan):
        write_product(tmp_path / "a.h5", scan)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["object"].attrs["pixel_height_m"] = np.array([scan.pixel_size_m])
            file.attrs["name"] = np.array([b"gold"])
            file.attrs["exposure_time_s"] = h5py.Empty("f8")
        read = read_product(tmp_path / "a.h5")
        assert (read.name, read.pixel_size_m) == ("gold", scan.pixel_size_m)
        assert read.attributes["exposure_time_s"] == 0

    def test_fractional_frame_numbers_are_refused(self, tmp_path, scan):
        write_product(tmp_path / "a.h5", scan)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            numbers = file["probe_position_indexes"][()] + 0.5
            del file["probe_position_indexes"]
            file["probe_position_indexes"] = numbers
        with pytest.raises(ValueError, match="not all whole"):
            read_product(tmp_path / "a.h5")

    def test_the_published_package_reads_and_writes_the_same(self, tmp_path, scan):
        io = pytest.importorskip("ptychodus.api.io")
        write_scan(tmp_path / "a.h5", scan)
        io.save_product(tmp_path / "product.h5", io.load_product(tmp_path / "a.h5"))
        io.save_diffraction_data(
            tmp_path / "diffraction.h5", io.load_diffraction_data(tmp_path / "a.h5")
        )
        assert_same(load_scan(tmp_path / "diffraction.h5"), load_scan(tmp_path / "a.h5"))


class TestCxi:
    def write(self, path, scan, **changes):
        """A file of a beamline: no probe, no object, no extra group."""
        write_scan(path, scan, "cxi")
        with h5py.File(path, "a") as file:
            for name in ("image_1", "image_2", "ptychodus"):
                del file[f"entry_1/{name}"]
            for name, value in changes.items():
                place = name.replace("__", "/")
                if place in file:
                    del file[place]
                if value is not None:
                    file[place] = value

    def test_positions_geometry_and_counts_are_enough(self, tmp_path, scan):
        self.write(tmp_path / "scan.cxi", scan)
        with pytest.warns(UserWarning, match="root of the mean pattern"):
            read = load_scan(tmp_path / "scan.cxi")
        assert read.pixel_size_m == pytest.approx(scan.pixel_size_m)
        assert read.wavelength_m == pytest.approx(scan.wavelength_m)
        middle = (scan.positions_px.max(0) + scan.positions_px.min(0)) / 2
        np.testing.assert_allclose(read.positions_px, scan.positions_px - middle, atol=1e-6)
        np.testing.assert_array_equal(read.patterns, scan.patterns)
        mean = np.where(scan.valid_pixel_mask, scan.patterns.mean(axis=0), 0)
        light = np.abs(np.fft.fftshift(np.fft.fft2(read.probe[0, 0]))) ** 2
        np.testing.assert_allclose(light, mean, atol=1e-3 * mean.max())

    @pytest.mark.parametrize(
        ("source", "name"), [(8e3, "energy"), (8e3 * 1.602176634e-19, "energy")]
    )
    def test_energies_are_joules_or_electronvolts(self, tmp_path, scan, source, name):
        self.write(
            tmp_path / "scan.cxi", scan, **{f"entry_1__instrument_1__source_1__{name}": source}
        )
        read = read_product(tmp_path / "scan.cxi")
        assert read.wavelength_m == pytest.approx(12398.4198 / 8e3 * 1e-10, rel=1e-6)

    @pytest.mark.parametrize("name", ["energy", "incident_beam_energy"])
    @pytest.mark.parametrize("machine", [4.8e-10, 3e9])
    def test_the_energy_of_nxcxi_ptycho_is_the_beam_s_and_not_the_machine_s(
        self, tmp_path, scan, name, machine
    ):
        source = {"entry_1__instrument_1__source_1__energy": machine}
        beam = {f"entry_1__instrument_1__beam_1__{name}": 8e3 * 1.602176634e-19}
        self.write(tmp_path / "a.cxi", scan, **source, **beam)
        read = read_product(tmp_path / "a.cxi")
        assert read.wavelength_m == pytest.approx(12398.4198 / 8e3 * 1e-10, rel=1e-6)
        self.write(tmp_path / "b.cxi", scan, **source)
        assert read_product(tmp_path / "b.cxi").wavelength_m is None

    def test_basis_vectors_of_the_detector_turn_positions(self, tmp_path, scan):
        size_m = 1e-4
        turned = np.array([[-size_m, 0, 0], [0, size_m, 0]])  # rows run to -x, columns to +y
        vectors = {"entry_1__instrument_1__detector_1__basis_vectors": turned.T}
        self.write(tmp_path / "scan.cxi", scan, **vectors)
        read = read_product(tmp_path / "scan.cxi")
        there = scan.positions_px - (scan.positions_px.max(0) + scan.positions_px.min(0)) / 2
        np.testing.assert_allclose(
            read.positions_px, np.stack([there[:, 1], -there[:, 0]], axis=1), atol=1e-6
        )

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("entry_1__instrument_1__source_1__energy", "lacks the pixel size"),
            ("entry_1__instrument_1__detector_1__distance", "lacks the pixel size"),
            ("entry_1__sample_1__geometry_1__translation", "entry_1/sample_1"),
            ("entry_1__instrument_1__detector_1__data", "does not exist"),
        ],
    )
    def test_what_is_missing_is_named(self, tmp_path, scan, place, message):
        self.write(tmp_path / "scan.cxi", scan, **{place: None})
        with pytest.raises(ValueError, match=message):
            load_scan(tmp_path / "scan.cxi")

    def test_a_product_beside_it_takes_precedence(self, tmp_path, scan):
        self.write(tmp_path / "scan.cxi", scan)
        write_product(tmp_path / "product.h5", scan)
        assert_same(load_scan(tmp_path / "scan.cxi", tmp_path / "product.h5"), scan)

    def test_a_measured_near_field_scan_is_read_with_its_geometry(self, data_folder):
        path = data_folder / "near_field" / "PETRAIII_P25_Near_Field_Ptycho.cxi"
        z1, z2 = 3.65e-3, 1.12
        pixel_m, distance_m = 55e-6 * z1 / (z1 + z2), z1 * z2 / (z1 + z2)
        read = load(path, pixel_size_m=pixel_m, free_space_propagation_distance_m=distance_m)
        with h5py.File(path) as file:
            translation = file["entry_1/sample_1/geometry_1/translation"][()]
        np.testing.assert_allclose(
            np.diff(read.positions_px, axis=0),
            np.diff(translation[:, 1::-1].astype(float), axis=0) / pixel_m,
            atol=1e-3,
        )
        assert (~read.valid_pixel_mask).sum() == 5
        assert read.patterns.shape == (200, 100, 100)
        assert read.free_space_propagation_distance_m == distance_m
        np.testing.assert_allclose(
            np.abs(read.probe[0, 0]) ** 2,
            np.where(read.valid_pixel_mask, read.patterns.mean(axis=0), 0),
            rtol=1e-4,
        )


class TestOthers:
    def test_a_fold_slice_pair_is_found_by_its_name(self, tmp_path, scan):
        with h5py.File(tmp_path / "a_dp.hdf5", "w") as file:
            file["dp"] = scan.patterns
        y_m, x_m = (scan.positions_px * scan.pixel_size_m).T
        with h5py.File(tmp_path / "a_para.hdf5", "w") as file:
            file["ppY"], file["ppX"] = y_m[None], x_m[None]
            file["lambda"], file["dx"] = scan.wavelength_m, [[scan.pixel_size_m]]
        for read in (
            load(tmp_path / "a_dp.hdf5"),
            load(tmp_path / "a_dp.hdf5", tmp_path / "a_para.hdf5"),
        ):
            middle = (scan.positions_px.max(0) + scan.positions_px.min(0)) / 2
            np.testing.assert_allclose(read.positions_px, scan.positions_px - middle, atol=1e-9)
            assert read.wavelength_m == scan.wavelength_m
            assert read.probe.shape == (1, 1, 32, 32)
            assert read.name == "a"

    @pytest.mark.parametrize("kind", ["stack", "Eiger master"])
    def test_nexus_patterns_and_mask_are_read_with_a_product(self, tmp_path, scan, kind):
        path = tmp_path / "scan_master.h5"
        with h5py.File(path, "w") as file:
            place = "entry/instrument/detector/detectorSpecific/pixel_mask"
            file[place] = (~scan.valid_pixel_mask).astype(np.uint32) << 3
            if kind == "stack":
                file["entry/data/data"] = scan.patterns
            for i, part in enumerate(np.array_split(scan.patterns, 3), start=1):
                with h5py.File(tmp_path / f"scan_data_{i:06}.h5", "w") as data:
                    data["entry/data/data"] = part
                if kind != "stack":
                    link = h5py.ExternalLink(f"scan_data_{i:06}.h5", "/entry/data/data")
                    file[f"entry/data/data_{i:06}"] = link
        write_product(tmp_path / "product.h5", scan)
        assert_same(load_scan(path, tmp_path / "product.h5"), scan)
        few = load_scan(path, tmp_path / "product.h5", frames=slice(30, 70, 5))
        np.testing.assert_array_equal(few.patterns, scan.patterns[30:70:5])
        with pytest.raises(ValueError, match=r"positions.*give a product"):
            load_scan(path)

    @pytest.mark.parametrize("energy", [False, True])
    def test_an_eiger_master_tells_the_geometry_for_positions_from_a_table(
        self, tmp_path, scan, energy
    ):
        detector_m = scan.wavelength_m * scan.detector_distance_m / (32 * scan.pixel_size_m)
        with h5py.File(tmp_path / "scan_master.h5", "w") as file:
            file["entry/data/data"] = scan.patterns
            file["entry/instrument/detector/detector_distance"] = scan.detector_distance_m
            file["entry/instrument/detector/x_pixel_size"] = detector_m * 1e6
            file["entry/instrument/detector/x_pixel_size"].attrs["units"] = "um"
            name, value, unit = (
                ("monochromator/energy", 1.23984198e-6 / scan.wavelength_m, "eV")
                if energy
                else ("beam/incident_wavelength", scan.wavelength_m * 1e10, "angstrom")
            )
            file[f"entry/instrument/{name}"] = value
            file[f"entry/instrument/{name}"].attrs["units"] = unit
        positions_m = scan.positions_px * scan.pixel_size_m
        np.savetxt(tmp_path / "at.csv", positions_m, delimiter=",", header="y_m,x_m", comments="")
        read = load(tmp_path / "scan_master.h5", tmp_path / "at.csv")
        assert read.pixel_size_m == pytest.approx(scan.pixel_size_m, rel=1e-6)
        assert read.wavelength_m == pytest.approx(scan.wavelength_m, rel=1e-6)
        told = Preparation(detector_distance_m=2 * scan.detector_distance_m)
        read = load(tmp_path / "scan_master.h5", tmp_path / "at.csv", preparation=told)
        assert read.pixel_size_m == pytest.approx(2 * scan.pixel_size_m, rel=1e-6)

    def test_a_numpy_stack_is_read_with_a_product(self, tmp_path, scan):
        np.save(tmp_path / "patterns.npy", scan.patterns.astype(">u2"))
        write_product(tmp_path / "product.h5", scan)
        read = load_scan(tmp_path / "patterns.npy", tmp_path / "product.h5")
        np.testing.assert_array_equal(read.patterns, scan.patterns)

    def test_amplitudes_of_ptychopinn_become_counts(self, tmp_path, scan):
        y_px, x_px = scan.positions_px.T
        np.savez(
            tmp_path / "a.npz",
            xcoords=x_px + 1000,
            ycoords=y_px - 1000,
            diffraction=np.sqrt(scan.patterns).astype(np.float32),
            probeGuess=scan.probe[0, 0],
            objectGuess=scan.object[0],
        )
        read = load(tmp_path / "a.npz")
        np.testing.assert_array_equal(read.patterns, scan.patterns)
        middle = (scan.positions_px.max(0) + scan.positions_px.min(0)) / 2
        np.testing.assert_allclose(read.positions_px, scan.positions_px - middle, atol=1e-9)
        assert read.object.shape == scan.object.shape

    @pytest.mark.parametrize("suffix", ["npy", "npz"])
    def test_nothing_is_unpickled(self, tmp_path, suffix):
        class Trap:
            def __reduce__(self):
                return pytest.fail, ("unpickled",)

        assert pickle.dumps(Trap())
        trap = np.array([Trap()], dtype=object)
        path = tmp_path / f"a.{suffix}"
        if suffix == "npy":
            np.save(path, trap, allow_pickle=True)
        else:
            np.savez(path, diffraction=trap, xcoords=np.ones(1), ycoords=np.ones(1))
        with pytest.raises(ValueError, match="object"):
            read_diffraction(path)

    def test_compressed_patterns_of_detectors_are_read(self, tmp_path, scan):
        hdf5plugin = pytest.importorskip("hdf5plugin")
        write_product(tmp_path / "product.h5", scan)
        for filter_ in (hdf5plugin.Bitshuffle(cname="lz4"), hdf5plugin.LZ4(), hdf5plugin.Zstd()):
            with h5py.File(tmp_path / "diffraction.h5", "w") as file:
                file.create_dataset("dp", data=scan.patterns, chunks=(1, 32, 32), **filter_)
            np.testing.assert_array_equal(
                load_scan(tmp_path / "diffraction.h5").patterns, scan.patterns
            )


class TestRegistry:
    def test_a_format_from_elsewhere_joins(self, tmp_path, scan):
        @register_reader("text")
        class Text(Reader):
            files = "text"

            def recognises(self, path):
                return path.suffix == ".txt"

            def read_diffraction(self, path, frame_indexes=None):
                counts = np.loadtxt(path).reshape(-1, 32, 32)
                return Diffraction(counts[frame_indexes], None)

        @register_writer("text")
        def write_text(path, scan):
            np.savetxt(path, scan.patterns.reshape(len(scan.patterns), -1))

        write_scan(tmp_path / "a.h5", scan)
        try:
            write_scan(tmp_path / "a.txt", scan, "text")
            read = load_scan(tmp_path / "a.txt", tmp_path / "a.h5")
            np.testing.assert_array_equal(read.patterns, scan.patterns)
        finally:
            del READERS["text"], WRITERS["text"]

    @pytest.mark.parametrize("content", [b"not a scan", b"", b"\x89HDF\r\n\x1a\n truncated"])
    def test_an_unknown_file_lists_the_formats(self, tmp_path, content):
        (tmp_path / "a.dat").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.dat (is not an HDF5 file|cannot be opened)") as e:
            load_scan(tmp_path / "a.dat")
        if b"HDF" not in content:
            assert all(name in str(e.value) for name in READERS)

    @pytest.mark.parametrize(
        ("name", "way"), [("a.mat", "scipy.io.loadmat"), ("b/a.cbf", "fabio"), ("a.EDF", "fabio")]
    )
    def test_other_formats_are_refused_with_a_way_to_convert_them(self, tmp_path, name, way):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of another format")
        for refused in {path, tmp_path / name.partition("/")[0]}:
            with pytest.raises(ValueError, match=rf'numpy\.save\("patterns\.npy", .*{way}'):
                load_scan(refused)

    def test_hdf5_without_patterns_names_its_arrays_or_the_formats(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["something"] = 1
        with pytest.raises(ValueError, match="holds no arrays") as caught:
            load_scan(tmp_path / "a.h5")
        assert all(name in str(caught.value) for name in READERS)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["raw/y"], file["raw/frames"] = np.ones(5), np.ones((5, 8, 8))
        told = r"holds 'raw/frames' \(5, 8, 8\), 'raw/y' \(5,\).*data.datasets = "
        with pytest.raises(ValueError, match=told):
            load_scan(tmp_path / "a.h5")

    def test_a_file_of_two_formats_is_ambiguous(self, tmp_path, scan):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["dp"] = file["entry_1/data_1/data"] = scan.patterns
        with pytest.raises(ValueError, match="looks like cxi and ptychodus; name the dataset"):
            load_scan(tmp_path / "a.h5")
        write_product(tmp_path / "product.h5", scan)
        names = {"patterns": "entry_1/data_1/data"}
        read = load_scan(tmp_path / "a.h5", tmp_path / "product.h5", datasets=names)
        np.testing.assert_array_equal(read.patterns, scan.patterns)

    def test_datasets_of_unusual_names_are_read(self, tmp_path, scan):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["my/frames"], file["my/bad"] = scan.patterns, ~scan.valid_pixel_mask
        write_product(tmp_path / "product.h5", scan)
        names = {"patterns": "my/frames", "mask": "my/bad"}
        read = load_scan(tmp_path / "a.h5", tmp_path / "product.h5", datasets=names)
        assert_same(read, scan)
        for wrong, message in (({"frames": "x"}, "there are"), ({"mask": "x"}, "no dataset")):
            with pytest.raises(ValueError, match=message):
                load_scan(tmp_path / "a.h5", tmp_path / "product.h5", datasets={**names, **wrong})
