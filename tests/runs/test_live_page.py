"""The page that shows a scan while it is followed."""

import dataclasses
import io
import json
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import h5py
import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from browsers import BROWSER
from ptychi_neural.evaluation.figures import coloured
from ptychi_neural.prediction import PredictedObject
from ptychi_neural.runs import infer, live_page
from ptychi_neural.runs.progress import Progress, telling
from ptychi_neural.scans import empty_object, read_product, write_product
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from trained_generators import FRAME, saved


@pytest.fixture(scope="module")
def scan():
    """36 frames of 16x16 at whole pixels."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.0)
    return dataclasses.replace(
        simulate(SimulationOptions(seed=3, frame_shape=FRAME, scan=raster)).scan, name="tiny <b>"
    )


@pytest.fixture
def served():
    """A page, and where it is served."""
    told = io.StringIO()
    with telling(Progress(events=told)), live_page.live_page(0) as page:
        yield page, json.loads(told.getvalue())["url"]


def state(scan, n_frames=36, error=0.1, size=(40, 44)):
    """An object whose scanned area lacks the first rows, and the frames that have arrived."""
    object_ = np.exp(1j * np.linspace(-1, 1, np.prod(size))).reshape(1, *size)
    object_ *= np.linspace(0.5, 1, size[1])
    weight = np.ones(size)
    weight[:7] = 0
    arrived = dataclasses.replace(scan, positions_px=scan.positions_px[:n_frames])
    return PredictedObject(object_, weight, np.full(3, error), scan.probe, lambda: weight), arrived


def answer(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def facts_at(url):
    return json.loads(answer(f"{url}facts.json")[1])


def test_the_page_tells_frames_errors_and_rates_as_they_grow(served, scan, monkeypatch):
    page, url = served
    assert facts_at(url) == {"state": 0}
    times = iter([100.0, 102.0, 103.0, 109.0])
    monkeypatch.setattr(live_page, "time", SimpleNamespace(monotonic=lambda: next(times)))
    page.show(*state(scan, 6, 0.5), 40)
    page.show(*state(scan, 26, np.inf), 40)
    page.show(*state(scan, 26, 0.25), 40)  # all frames once more
    facts = facts_at(url)
    assert (facts["name"], facts["frames"], facts["planned"]) == ("tiny <b>", 26, 40)
    assert (facts["size_px"], facts["pixel_size_m"]) == ([40, 44], scan.pixel_size_m)
    assert facts["seconds_ago"] == 7.0
    assert facts["curves"] == {"seconds": [0.0, 2.0], "error": [0.5, 0.25], "rate": [None, 10.0]}


def test_curves_of_many_points_stay_short_and_end_with_the_latest():
    points = [live_page.Point(k / 2, 10 * k, 0.1) for k in range(2000)]
    points[-1] = points[-1]._replace(error=np.inf)
    curves = live_page._curves(points)
    assert 250 < len(curves["seconds"]) <= 300
    assert curves["seconds"][-1] == 999.5
    assert curves["error"][-1] is None
    assert set(curves["rate"][1:]) == {20.0}


def test_pictures_show_amplitude_phase_and_deviation_of_the_scanned_area(served, scan):
    page, url = served
    prediction, arrived = state(scan)
    page.show(prediction, arrived, 36)
    assert answer(f"{url}deviation.png")[0] == 404
    deviation = np.full((40, 44), np.nan)
    deviation[20:, 5:] = np.arange(20)[:, None]
    page.show_deviation(deviation)
    facts = facts_at(url)
    turned = prediction.object[0] * np.exp(-1j * np.angle(prediction.object[0, 7:].sum()))
    images = {"amplitude": np.abs(turned), "phase": np.angle(turned), "deviation": deviation}
    assert set(facts["limits"]) == set(images)
    for name, palette in (("amplitude", "gray"), ("phase", "inferno"), ("deviation", "viridis")):
        low, high = facts["limits"][name]
        np.testing.assert_allclose((low, high), np.nanpercentile(images[name][7:], (0.5, 99.5)))
        code, png, headers = answer(f"{url}{name}.png?state={facts['state']}")
        assert (code, headers["Content-Type"]) == (200, "image/png")
        drawn = imread(io.BytesIO(png))
        known = np.isfinite(images[name])
        known[:7] = False
        assert (drawn[~known, 3] == 0).all()
        colours = matplotlib.colormaps[palette]((images[name] - low) / (high - low))
        np.testing.assert_allclose(drawn[known], colours[known], atol=2 / 255)


def test_an_even_image_is_clear_where_it_is_not_known():
    drawn = imread(io.BytesIO(coloured(np.array([[1.0, np.nan]]), "gray", 1.0, 1.0)))
    assert drawn[0, :, 3].tolist() == [1, 0]


def test_a_deviation_that_is_known_nowhere_is_not_shown_and_large_objects_are_thinned(served, scan):
    page, url = served
    prediction, arrived = state(scan, size=(20, 1700))
    page.show(prediction, arrived, 36)
    page.show_deviation(np.full((20, 1700), np.nan))
    assert set(facts_at(url)["limits"]) == {"amplitude", "phase"}
    assert imread(io.BytesIO(answer(f"{url}phase.png")[1])).shape[:2] == (7, 567)


def test_the_page_is_read_only_local_and_needs_nothing_from_elsewhere(served):
    _, url = served
    code, html, headers = answer(url)
    assert code == 200
    assert not re.findall(rb"://|@import|url\(|(?:src|href)=\"", html)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for method in ("POST", "PUT", "DELETE"):
        assert answer(f"{url}facts.json", method)[0] == 405
    assert answer(f"{url}secret.png")[0] == 404
    assert answer(f"{url}..%2f..%2fetc%2fpasswd")[0] == 404
    assert answer(url, Host="somewhere.example")[0] == 400
    port = int(url.rstrip("/").rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):  # which answers where all addresses are served
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_port_that_is_taken_is_told(served):
    port = int(served[1].rstrip("/").rpartition(":")[2])
    with (
        pytest.raises(OSError, match=f"--page {port}: .*choose another"),
        live_page.live_page(port),
    ):
        pass
    with pytest.raises(ValueError, match="--page shows a scan that is followed"):
        infer("generator", "diffraction.h5", page=0)


def test_drawing_holds_nothing_up(served, scan, monkeypatch):
    page, url = served
    begun, go_on = threading.Event(), threading.Event()

    def slow(*args):
        begun.set()
        go_on.wait(20)
        return b"drawn"

    monkeypatch.setattr(live_page, "coloured", slow)
    prediction, arrived = state(scan)
    page.show(prediction, arrived, 36)
    browser = threading.Thread(target=answer, args=(f"{url}phase.png",))
    browser.start()
    assert begun.wait(20)
    start = time.monotonic()
    for _ in range(100):
        page.show(prediction, arrived, 36)
        page.show_deviation(prediction.weight)
    assert time.monotonic() - start < 1
    go_on.set()
    browser.join()


def test_a_followed_scan_is_shown_and_comes_out_the_same(scan, tmp_path):
    saved(scan, tmp_path / "generator.safetensors", epochs=1, lifter="log")
    canvas = empty_object(scan.positions_px, scan.probe.shape)
    write_product(tmp_path / "product.h5", dataclasses.replace(scan, object=canvas))
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["dp"] = scan.patterns
    seen = []

    def browse():
        while '"page"' not in told.getvalue():
            time.sleep(0.01)
        events = [json.loads(line) for line in told.getvalue().splitlines()]
        (url,) = [event["url"] for event in events if event["event"] == "page"]
        try:
            while True:
                seen.append(facts_at(url))
                seen.extend([] if seen[-1]["state"] == 0 else [answer(f"{url}phase.png")[1][:4]])
        except OSError:
            pass  # the command has ended

    told = io.StringIO()
    names = ("generator.safetensors", "frames.h5", "product.h5")
    files = [tmp_path / name for name in names]
    infer(*files, tmp_path / "alone", follow=True, every_s=0.1, timeout_s=0.5)
    browser = threading.Thread(target=browse, daemon=True)
    with telling(Progress(events=told)):
        browser.start()
        infer(*files, tmp_path / "shown", follow=True, every_s=0.1, timeout_s=0.5, page=0)
    browser.join(20)
    assert not browser.is_alive()
    facts = [f for f in seen if isinstance(f, dict) and f["state"]]
    assert facts[-1]["frames"] == 36
    assert set(facts[-1]["limits"]) == {"amplitude", "phase", "deviation"}
    assert b"\x89PNG" in seen
    alone, shown = (read_product(tmp_path / name / "product.h5") for name in ("alone", "shown"))
    np.testing.assert_array_equal(shown.object, alone.object)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_all_of_it(served, scan, tmp_path):
    page, url = served
    page.show(*state(scan, 12, 0.25), 36)
    prediction, arrived = state(scan, 24, 0.125)
    page.show(prediction, arrived, 36)
    page.show_deviation(np.full((40, 44), 0.5) + np.arange(44) / 100)
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dom = done.stdout
    assert "tiny &lt;b&gt;</h1>" in dom
    assert '<dd id="frames">24 of 36</dd>' in dom
    assert '<dd id="error">0.125</dd>' in dom
    for name in ("amplitude", "phase", "deviation"):
        figure = re.search(rf'<figure id="{name}"(.*?)</figure>', dom, re.DOTALL)[1]
        assert not figure.startswith(" hidden")
        assert re.search(rf'src="{name}\.png\?state=\d+"', figure)
        assert "<span></span>" not in figure
    assert len(re.findall(r'class="curve"', dom)) == 2
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
