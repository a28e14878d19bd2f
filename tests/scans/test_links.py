"""Broken links name the missing file, and files from elsewhere reach no others."""

import h5py
import numpy as np
import pytest

from ptychi_neural.scans import load_scan
from ptychi_neural.scans.hdf5 import opened, read
from ptychi_neural.scans.links import MOST_LINKS, links_outside_allowed


def put(path, name, value):
    with h5py.File(path, "a") as file:
        if name in file or file.get(name, getlink=True):
            attributes = dict(file[name].attrs) if name in file else {}
            del file[name]
        else:
            attributes = {}
        file[name] = value
        if isinstance(value, np.ndarray):
            file[name].attrs.update(attributes)


def virtual(path, shape, sources):
    layout = h5py.VirtualLayout(shape, "u4")
    for rows, (name, n) in sources:
        layout[rows] = h5py.VirtualSource(name, "dp", (n, *shape[1:]))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("dp", layout)


class TestMissing:
    @pytest.mark.parametrize(
        ("link", "message"),
        [
            (h5py.ExternalLink("gone.h5", "/dp"), r"'dp' is a link to 'gone.h5', which does not"),
            (h5py.SoftLink("/entry/data/data"), r"'dp' is a link to 'entry/data/data' of .*"),
            (h5py.ExternalLink("product.h5", "/frames"), r"link to 'frames' of .*product.h5"),
        ],
    )
    def test_the_target_of_a_link_is_named(self, pair, link, message):
        diffraction, product = pair()
        put(diffraction, "dp", link)
        with pytest.raises(ValueError, match=message):
            load_scan(diffraction, product)

    def test_links_on_the_way_are_named(self, pair):
        diffraction, product = pair()
        put(diffraction, "entry_1", h5py.ExternalLink("gone.h5", "/entry_1"))
        with pytest.raises(ValueError, match=r"'entry_1' is a link to 'gone.h5'"):
            load_scan(diffraction, product)

    def test_a_link_to_a_file_with_a_broken_link_is_named(self, pair, tmp_path):
        diffraction, product = pair()
        put(diffraction, "dp", h5py.ExternalLink("middle.h5", "/dp"))
        put(tmp_path / "middle.h5", "dp", h5py.ExternalLink("gone.h5", "/dp"))
        with pytest.raises(ValueError, match=r"middle.h5: 'dp' is a link to 'gone.h5'"):
            load_scan(diffraction, product)

    @pytest.mark.parametrize("part", ["half", "all"])
    def test_missing_sources_of_a_virtual_dataset_are_named(self, pair, simulated, tmp_path, part):
        counts = simulated().counts
        diffraction, product = pair()
        put(tmp_path / "part.h5", "dp", counts[:50])
        first = "part.h5" if part == "half" else "gone.h5"
        sources = [(slice(50), (first, 50)), (slice(50, None), ("gone.h5", 50))]
        virtual(diffraction, counts.shape, sources)
        with pytest.raises(ValueError, match=r"'dp' takes its data from 'gone.h5', which does not"):
            load_scan(diffraction, product)

    def test_frames_of_a_virtual_dataset_without_a_source_are_told(self, pair, simulated, tmp_path):
        counts = simulated().counts
        diffraction, product = pair()
        put(tmp_path / "part.h5", "dp", counts[:50])
        virtual(diffraction, counts.shape, [(slice(50), ("part.h5", 50))])
        rest = len(counts) - 50
        told = f"'dp' takes its data from 1 files, none .* {rest} of its {len(counts)} .* number 50"
        with pytest.warns(UserWarning, match=told):
            scan = load_scan(diffraction, product)
        assert scan.frame_indexes.tolist() == list(range(50))

    def test_a_circle_of_links_ends(self, pair, tmp_path):
        diffraction, product = pair()
        put(diffraction, "dp", h5py.ExternalLink("other.h5", "/dp"))
        put(tmp_path / "other.h5", "dp", h5py.ExternalLink("diffraction.h5", "/dp"))
        assert MOST_LINKS < 100
        with pytest.raises(ValueError, match="round in a circle"):
            load_scan(diffraction, product)


class TestPresent:
    def test_links_and_virtual_datasets_are_read(self, pair, simulated, tmp_path):
        counts = simulated().counts
        diffraction, product = pair()
        (tmp_path / "raw").mkdir()
        for i, part in enumerate(np.array_split(counts, 2)):
            put(tmp_path / "raw" / f"{i}.h5", "dp", part)
        virtual(
            tmp_path / "virtual.h5",
            counts.shape,
            [(slice(50), ("raw/0.h5", 50)), (slice(50, None), ("raw/1.h5", 50))],
        )
        put(diffraction, "entry/data", h5py.ExternalLink("virtual.h5", "/dp"))
        put(diffraction, "dp", h5py.SoftLink("/entry/data"))
        np.testing.assert_array_equal(load_scan(diffraction, product).patterns, counts)

    def test_links_out_of_the_folder_are_followed_only_when_allowed(
        self, pair, simulated, tmp_path, tmp_path_factory
    ):
        counts = simulated().counts
        diffraction, product = pair()
        secret = tmp_path_factory.mktemp("elsewhere") / "secret.h5"
        put(secret, "dp", counts)
        for name in (str(secret), f"../{secret.parent.name}/secret.h5"):
            put(diffraction, "dp", h5py.ExternalLink(name, "/dp"))
            with pytest.raises(ValueError, match="outside the folder of the data"):
                load_scan(diffraction, product)
            allowed = load_scan(diffraction, product, allow_outside_links=True)
            np.testing.assert_array_equal(allowed.patterns, counts)
        virtual(diffraction, counts.shape, [(slice(None), (str(secret), 100))])
        with pytest.raises(ValueError, match="outside the folder of the data"):
            load_scan(diffraction, product)
        with links_outside_allowed():
            assert len(load_scan(diffraction, product).patterns) == 100


class TestTypes:
    @pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8"])
    def test_big_endian_patterns_are_converted(self, pair, simulated, dtype):
        counts = simulated().counts
        patterns = load_scan(*pair(counts.astype(dtype))).patterns
        assert patterns.dtype.isnative
        np.testing.assert_array_equal(patterns, counts)

    @pytest.mark.parametrize("name", ["probe", "object"])
    def test_big_endian_probes_and_objects_are_converted(self, pair, simulated, name):
        diffraction, product = pair(simulated().counts)
        with h5py.File(product) as file:
            value = file[name][()]
        put(product, name, value.astype(">c8"))
        read = getattr(load_scan(diffraction, product), name)
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, value)

    @pytest.mark.parametrize("dtype", ["c8", "S3"])
    def test_patterns_that_are_no_real_numbers_are_refused(self, pair, simulated, dtype):
        with pytest.raises(ValueError, match="patterns must be real numbers"):
            load_scan(*pair(simulated().counts[:2].astype(dtype)))


class TestSize:
    @pytest.mark.parametrize("name", ["dp", "object", "probe"])
    def test_what_is_larger_than_memory_is_refused_unread(self, pair, simulated, name):
        diffraction, product = pair(simulated().counts)
        path = diffraction if name == "dp" else product
        with h5py.File(path, "a") as file:
            attributes = dict(file[name].attrs)
            del file[name]
            side = 2**21
            shape = (100, side, side) if name == "dp" else (1, side, side)
            data = file.create_dataset(
                name, shape, "c16" if name != "dp" else "u4", chunks=(1, 512, 512)
            )
            data.attrs.update(attributes)
        with pytest.raises(ValueError, match=rf"'{name}' declares .* GiB .*more than the .* free"):
            load_scan(diffraction, product)

    def test_a_part_that_fits_is_read(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("dp", (2**34, 8, 8), "u8", chunks=(1, 8, 8))
        with opened(tmp_path / "a.h5") as file:
            assert read(file["dp"], slice(5, 9)).shape == (4, 8, 8)
            with pytest.raises(ValueError, match="declares"):
                read(file["dp"])

    def test_damaged_data_name_file_and_dataset(self, pair, simulated):
        diffraction, product = pair()
        with h5py.File(diffraction, "a") as file:
            data = file.create_dataset(
                "dp", data=simulated().counts, chunks=(1, 32, 32), compression="gzip"
            )
            data.id.write_direct_chunk((3, 0, 0), b"rubbish")
        with pytest.raises(ValueError, match=r"diffraction.h5: 'dp' cannot be read"):
            load_scan(diffraction, product)
