"""What a run writes beside its product: pictures, other formats, and a report of itself."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from browsers import BROWSER
from ptychi_neural.cli import app
from ptychi_neural.evaluation import scanned_area
from ptychi_neural.runs import output_formats, reconstruct
from ptychi_neural.runs.output_formats import write_formats
from ptychi_neural.runs.pictures import amplitude_figure, pictures_of, unwrapped, write_tiff
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.runs.sections import OutputFormats
from ptychi_neural.scans import read_product
from ptychi_neural.simulation import simulate

RUN = """
[simulation]
seed = 3
name = "gold & <b>dust</b>"
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 8, n_x = 8, step_px = 2.0, jitter_px = 0.5 }
position_error_px = 0.3
dead_pixel_fraction = 0.02

[output]
formats = ["cxi", "npz", "tiff", "png", "html"]

[reconstructor_options]
num_epochs = 1
default_device = "cpu"
random_seed = 0
start = { n_iterations = 5 }

[probe_position_options]
optimizable = true
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    return reconstruct(read_run_file(folder / "run.toml"), folder / "result", show_progress=False)


class TestPictures:
    def test_tiff_holds_amplitude_and_phase_of_the_scanned_area_with_its_pixel_size(self, result):
        scan = result.scan
        area = scanned_area(scan.positions_px, scan.object.shape)
        rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        with tifffile.TiffFile(result.folder / "object_amplitude.tif") as file:
            amplitude = file.asarray()
            numerator, denominator = file.pages[0].tags["XResolution"].value
            assert file.imagej_metadata["unit"] == "um"
        assert numerator / denominator == pytest.approx(1e-6 / scan.pixel_size_m, rel=1e-4)
        assert amplitude.dtype == np.float32
        inside = area[box]
        np.testing.assert_allclose(amplitude[inside], np.abs(scan.object[0][box])[inside])
        assert np.isnan(amplitude[~inside]).all()
        phase = tifffile.imread(result.folder / "object_phase.tif")
        assert np.nanmedian(phase) == pytest.approx(0, abs=1e-6)
        turn = np.exp(1j * phase[inside]) * np.conj(
            np.exp(1j * np.angle(scan.object[0][box][inside]))
        )
        np.testing.assert_allclose(turn, turn[0], atol=1e-4)
        probe = tifffile.imread(result.folder / "probe_amplitude.tif")
        np.testing.assert_allclose(probe, np.abs(scan.probe[0, 0]), rtol=1e-5)

    def test_phases_beyond_a_turn_are_unwrapped_around_what_was_not_scanned(self):
        y, x = np.indices((40, 50)) / 10.0
        truth = 3.0 * x + 0.4 * y**2
        area = np.hypot(y - 2, x - 2.5) < 1.9
        noise = np.exp(2j * np.pi * np.random.default_rng(0).random(truth.shape))
        found = unwrapped(np.where(area, np.exp(1j * truth), noise), area)
        assert np.ptp(truth[area]) > 2 * np.pi
        expected = truth - np.median(truth[area])
        np.testing.assert_allclose(found[area], expected[area], atol=1e-6)
        assert np.isnan(found[~area]).all()

    def test_every_slice_and_mode_is_a_page(self, result, tmp_path):
        scan = dataclasses.replace(
            result.scan,
            object=np.repeat(result.scan.object, 3, axis=0),
            probe=np.repeat(result.scan.probe, 2, axis=1),
        )
        write_tiff(tmp_path, pictures_of(scan))
        assert len(tifffile.imread(tmp_path / "object_phase.tif")) == 3
        assert len(tifffile.imread(tmp_path / "probe_phase.tif")) == 2

    def test_positions_in_a_line_show_the_whole_object(self, result):
        line = result.scan.positions_px * np.array([0.0, 1.0])
        scan = dataclasses.replace(result.scan, positions_px=line)
        assert pictures_of(scan).amplitude.shape == scan.object.shape

    def test_scale_bars_are_as_long_as_they_say(self, result):
        from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

        figure = amplitude_figure(pictures_of(result.scan))
        (bar,) = (a for a in figure.axes[0].artists if isinstance(a, AnchoredSizeBar))
        number, unit = bar.txt_label.get_children()[0].get_text().split()
        length_m = float(number) * {"nm": 1e-9, "µm": 1e-6}[unit]
        rectangle = bar.size_bar.get_children()[0]
        assert rectangle.get_width() == pytest.approx(length_m / result.scan.pixel_size_m)

    def test_png_show_the_object_and_the_probe(self, result):
        for name in ("object_amplitude", "object_phase", "probe"):
            with Image.open(result.folder / f"{name}.png") as image:
                assert min(image.size) > 300
                assert np.asarray(image.convert("L")).std() > 10


class TestOtherFormats:
    def test_the_cxi_file_holds_the_product(self, result):
        ours, theirs = (
            read_product(result.folder / f"product.{suffix}") for suffix in ("h5", "cxi")
        )
        for name in ("probe", "object", "frame_indexes"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_allclose(ours.positions_px, theirs.positions_px, atol=1e-9)
        assert ours.wavelength_m == pytest.approx(theirs.wavelength_m)

    def test_the_npz_file_holds_all_of_the_product_in_one_level(self, result):
        archive = np.load(result.folder / "product.npz", allow_pickle=False)
        with archive, h5py.File(result.folder / "product.h5") as file:
            for name in file:
                np.testing.assert_array_equal(archive[name], file[name][()])
            assert str(archive["name"]) == file.attrs["name"]
            assert archive["object_center_y_m"] == file["object"].attrs["center_y_m"]

    def test_the_published_package_reads_both(self, result):
        io = pytest.importorskip("ptychodus.api.io")
        from ptychodus.plugins.cxi_file import CXIProductFileIO
        from ptychodus.plugins.npz_product_file import NPZProductFileIO

        product = io.load_product(result.folder / "product.h5")
        for reader, suffix in ((CXIProductFileIO(), "cxi"), (NPZProductFileIO(), "npz")):
            other = reader.read(result.folder / f"product.{suffix}")
            np.testing.assert_array_equal(other.probes.get_array(), product.probes.get_array())
            np.testing.assert_array_equal(other.object_.get_array(), product.object_.get_array())
            np.testing.assert_allclose(
                other.probe_positions.get_coordinates_x_m(),
                product.probe_positions.get_coordinates_x_m(),
            )
            assert other.object_.get_geometry() == product.object_.get_geometry()
            assert other.metadata.photon_energy_eV == pytest.approx(
                product.metadata.photon_energy_eV
            )
            assert other.metadata.name == product.metadata.name

    def test_the_run_file_of_a_result_asks_for_the_same_formats(self, result):
        run = read_run_file(result.folder / "run.toml")
        assert run.output.formats == ["cxi", "npz", "tiff", "png", "html"]

    def test_an_unknown_format_is_named(self, tmp_path):
        (tmp_path / "run.toml").write_text(RUN.replace("tiff", "jpeg"), encoding="utf-8")
        with pytest.raises(ValueError, match=r"output\.formats.*'cxi'.*'png'"):
            read_run_file(tmp_path / "run.toml")

    def test_a_run_that_goes_on_replaces_the_files_that_are_there(self, result, tmp_path):
        folder = shutil.copytree(result.folder, tmp_path / "copy")
        files = ("product.cxi", "product.npz", "object_phase.tif", "probe.png", "report.html")
        for name in files:
            (folder / name).write_bytes(b"of a run that was killed")
        again = dataclasses.replace(result, unsaved=[])
        write_formats(again, list(OutputFormats), folder, result.scan)
        assert again.unsaved == []
        for name in files:
            assert (folder / name).stat().st_size > 1000

    def test_a_format_that_fails_keeps_no_other_from_the_folder(
        self, result, tmp_path, monkeypatch
    ):
        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        folder = shutil.copytree(result.folder, tmp_path / "copy")
        (folder / "report.html").unlink()
        monkeypatch.setattr(output_formats, "write_scan", full)
        failed = dataclasses.replace(result, unsaved=[])
        with pytest.warns(UserWarning, match="the format cxi could not be written: .*No space"):
            write_formats(failed, list(OutputFormats), folder, result.scan)
        assert failed.unsaved == ["the format cxi"]
        assert page_of(folder).headings


class Page(HTMLParser):
    """Tags that are opened and closed, their attributes, headings, and text."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.headings, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


class TestReport:
    def test_it_tells_all_of_the_run(self, result):
        page = page_of(result.folder)
        assert page.headings == [
            *("Object", "Probe", "Curves", "Positions", "Data"),
            *("Comparison with the reference", "Run", "Environment", "Settings"),
        ]
        assert "gold & <b>dust</b>: neural" in page.text
        told = re.search(r"moved by ([\d.]+) px in the median", page.text)
        start = simulate(read_run_file(result.folder / "run.toml").simulation).scan
        moves = np.hypot(*(result.scan.positions_px - start.positions_px).T)
        assert float(told[1]) == pytest.approx(np.median(moves), rel=1e-2)
        assert f"masked pixels{(~start.valid_pixel_mask).sum()}" in page.text
        assert f"complex error{result.metrics['complex_error']:.5g}" in page.text
        assert "probe_position_options.optimizableTrue" in page.text
        assert "reconstructor_options.batching_mode" not in page.text.split("The whole run file")[0]

    def test_it_needs_nothing_but_itself(self, result):
        page = page_of(result.folder)
        pictures = [value for tag, name, value in page.attributes if name == "src"]
        assert len(pictures) >= 6
        for picture in pictures:
            kind, data = picture.split(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(data).startswith(b"\x89PNG")
        assert not {name for _, name, _ in page.attributes} & {"href", "srcset", "onload"}
        assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "iframe"}

    def test_the_command_makes_the_same_report_again(self, result, tmp_path):
        folder = shutil.copytree(result.folder, tmp_path / "copy")
        before = page_of(folder)
        refused = CliRunner().invoke(app, ["report", str(folder)])
        assert refused.exit_code == 2
        done = CliRunner().invoke(app, ["report", str(folder), "--overwrite"])
        assert done.exit_code == 0, done.output
        assert page_of(folder).text == before.text

    @pytest.mark.parametrize("has_list", [True, False])
    def test_a_report_that_was_added_is_a_file_of_the_result(self, result, tmp_path, has_list):
        folder = shutil.copytree(result.folder, tmp_path / "copy")
        (folder / "report.html").unlink()
        (folder / "notes.txt").write_text("mine")
        told = json.loads((folder / "provenance.json").read_text())
        expected = told.pop("files")
        before = [name for name in expected if name != "report.html"]
        told |= {"files": before} if has_list else {}
        (folder / "provenance.json").write_text(json.dumps(told))
        done = CliRunner().invoke(app, ["report", str(folder)])
        assert done.exit_code == 0, done.output
        listed = json.loads((folder / "provenance.json").read_text())["files"]
        if has_list:
            assert listed == expected
        else:  # Names that results have had before there was a list.
            assert {"product.h5", "report.html"} <= set(listed) <= set(expected)

    def test_data_that_are_gone_are_left_out_with_the_reason(self, result, tmp_path):
        folder = shutil.copytree(result.folder, tmp_path / "copy")
        contents = (folder / "run.toml").read_text(encoding="utf-8")
        without = re.sub(r"\[simulation\].*?(?=\n\[(?!simulation))", "", contents, flags=re.DOTALL)
        gone = '[data]\ndiffraction = "gone.h5"\n'
        (folder / "run.toml").write_text(without + "\n" + gone, encoding="utf-8")
        done = CliRunner().invoke(app, ["report", str(folder), "--overwrite"])
        assert done.exit_code == 0, done.output
        page = page_of(folder)
        assert "gone.h5" in page.text
        assert not {"Positions", "Data"} & set(page.headings)

    def test_a_folder_without_a_run_is_refused(self, tmp_path):
        done = CliRunner().invoke(app, ["report", str(tmp_path)])
        assert done.exit_code == 2
        assert "holds no run.toml" in done.output

    @pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
    def test_a_browser_without_a_network_shows_it(self, result, tmp_path):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        page = Path(result.folder / "report.html").resolve().as_uri()
        done = subprocess.run([*command, page], capture_output=True, text=True, timeout=120)
        assert done.stdout.count("<h2>") == 9
        assert done.stdout.count("<img") >= 6
