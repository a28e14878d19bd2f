"""A page on this machine that shows a scan while it is followed: object, deviation, error, rate.

The page is read-only and loads nothing from elsewhere. Pictures are drawn when a browser asks for
them, once for each state of the object, in another thread and from arrays that do not change.
"""

import dataclasses
import itertools
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.evaluation.figures import COLOUR_PERCENTILES, coloured
from ptychi_neural.evaluation.prediction_figures import PALETTES, amplitude_and_phase
from ptychi_neural.prediction import PredictedObject
from ptychi_neural.runs.progress import say, tell
from ptychi_neural.scans import Scan

LOOPBACK = "127.0.0.1"
"""Where the page is served: to this machine alone."""

MOST_PIXELS = 800
"""Longest side of a picture; of a larger object rows and columns are left out."""

MOST_POINTS = 300
"""Points of a curve."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""What a browser is told with every answer."""


class Point(NamedTuple):
    """A point of the curves."""

    seconds: float
    """Time since the first frames came."""

    n_frames: int
    """Frames that had been taken in."""

    error: float
    """Mean re-projection error of the latest batch."""


@dataclasses.dataclass(frozen=True)
class View:
    """A state of the object."""

    number: int
    """States are counted from 1."""

    prediction: PredictedObject
    """The object."""

    deviation: NDArray[np.floating] | None
    """(H, W) disagreement of predictions, of this state or of an earlier one."""

    @cached_property
    def images(self) -> dict[str, tuple[NDArray[np.floating], list[float]]]:
        """(h, w) images, NaN where no frame lies, with the limits of their colours."""
        step = math.ceil(max(self.prediction.weight.shape) / MOST_PIXELS)
        area = self.prediction.covered[::step, ::step]
        object_ = self.prediction.object[:, ::step, ::step]
        images = dict(zip(("amplitude", "phase"), amplitude_and_phase(object_, area)))
        if self.deviation is not None:
            images["deviation"] = self.deviation[::step, ::step]
        shown = {}
        for name, image in images.items():
            finite = image[area & np.isfinite(image)]
            if finite.size:
                limits = np.percentile(finite, COLOUR_PERCENTILES).tolist()
                shown[name] = np.where(area, image, np.nan), limits
        return shown

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """The images as PNG."""
        return {
            name: coloured(image, PALETTES[name], *limits)
            for name, (image, limits) in self.images.items()
        }


class LivePage:
    """What the page shows; ``live_page`` serves it."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._about: dict[str, Any] = {}
        self._points: list[Point] = []
        self._began = math.nan
        self._drawing = threading.Lock()

    def show(self, prediction: PredictedObject, scan: Scan, n_planned: int) -> None:
        """Show a new state of the object.

        Parameters
        ----------
        prediction : PredictedObject
            The object.
        scan : Scan
            The frames that have arrived.
        n_planned : int
            Frames of the whole scan.
        """
        now, n_frames = time.monotonic(), len(scan.positions_px)
        error = prediction.mean_reprojection_error
        if not self._points:
            self._began = now
        if self._points and n_frames <= self._points[-1].n_frames:  # They have come once more.
            self._points[-1] = self._points[-1]._replace(error=error)
        else:
            self._points.append(Point(now - self._began, n_frames, error))
        self._about = {
            "name": scan.name,
            "planned": n_planned,
            "size_px": prediction.weight.shape,
            "pixel_size_m": scan.known_pixel_size_m,
        }
        number, deviation = 1, None
        if self._view is not None:
            number, deviation = self._view.number + 1, self._view.deviation
        self._view = View(number, prediction, deviation)

    def show_deviation(self, deviation: NDArray[np.floating]) -> None:
        """Show the (H, W) deviation of the state that is shown, until there is another one."""
        if self._view is not None:
            number = self._view.number + 1
            self._view = dataclasses.replace(self._view, number=number, deviation=deviation)

    def facts(self) -> dict[str, Any]:
        """What the page tells in numbers, for JSON."""
        view = self._view
        if view is None:
            return {"state": 0}
        points = self._points.copy()
        latest = points[-1]
        with self._drawing:
            limits = {name: limits for name, (_, limits) in view.images.items()}
        return self._about | {
            "state": view.number,
            "frames": latest.n_frames,
            "seconds_ago": time.monotonic() - self._began - latest.seconds,
            "limits": limits,
            "curves": _curves(points),
        }

    def picture(self, name: str) -> bytes | None:
        """The PNG of an image; None where there is none of this name."""
        view = self._view
        if view is None:
            return None
        with self._drawing:
            return view.pictures.get(name)


def _curves(points: list[Point]) -> dict[str, list[float | None]]:
    """Times, errors and frames per second, of some points where there are many."""
    step = math.ceil(len(points) / MOST_POINTS)
    some = points[::-step][::-1]
    rates: list[float | None] = [None]
    for before, after in itertools.pairwise(some):
        rates.append((after.n_frames - before.n_frames) / max(after.seconds - before.seconds, 1e-6))
    errors = [point.error if math.isfinite(point.error) else None for point in some]
    return {"seconds": [point.seconds for point in some], "error": errors, "rate": rates}


@contextmanager
def live_page(port: int) -> Iterator[LivePage]:
    """Serve a page to browsers of this machine, until the block ends.

    Parameters
    ----------
    port : int
        Port of the loopback; 0: any that is free.

    Raises
    ------
    ImportError
        If the extra ``page`` is not installed.
    OSError
        If the port cannot be had.
    """
    try:
        import uvicorn
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError(
            "--page: the page needs starlette and uvicorn: pip install '.[page]'."
        ) from error
    page = LivePage()
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")

    def picture(request: Request) -> Response:
        png = page.picture(request.path_params["name"])
        if png is None:
            return Response("There is no such picture.", 404, HEADERS, "text/plain")
        return Response(png, headers=HEADERS, media_type="image/png")

    app = Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(html, headers=HEADERS)),
            Route("/facts.json", lambda request: JSONResponse(page.facts(), headers=HEADERS)),
            Route("/{name}.png", picture),
        ],
        # A page of another site whose name leads to this machine is not answered.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])],
    )
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError as error:
            raise OSError(f"--page {port}: {error.strerror}; choose another port, or 0.") from error
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
        )
        thread.start()
        url = f"http://{LOOPBACK}:{listener.getsockname()[1]}/"
        say(f"The scan is shown at {url}")
        tell("page", url=url)
        try:
            yield page
        finally:
            server.should_exit = True
            thread.join()
