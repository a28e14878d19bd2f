"""Engines side by side on one scan: table, curves and pictures in one folder."""

import copy
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural import evaluation
from ptychi_neural.comparison.engines import check_engine_names, engine_options
from ptychi_neural.comparison.held_out_pixels import HELD_OUT_FRACTION, hold_out
from ptychi_neural.comparison.result import Comparison
from ptychi_neural.comparison.run_engine import run_engine
from ptychi_neural.comparison.snapshots import EngineRun
from ptychi_neural.comparison.target import Target, load_with_target
from ptychi_neural.engine.ranks import go_on_alone, join
from ptychi_neural.physics.ranks import has_left, leave
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.folders import results_folder
from ptychi_neural.runs.launcher import is_silent
from ptychi_neural.runs.progress import say, tell, what_fails_is_said, written_or_said
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.ranks import draw_missing_seeds, needs_one_process
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import is_refined
from ptychi_neural.scans import Scan
from ptychi_neural.scans.hdf5 import replacing, written


def compare(
    run: RunFile,
    engines: Sequence[str],
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    seconds: float | None = None,
    held_out: float = HELD_OUT_FRACTION,
    changes: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> Comparison:
    """Run engines on the same data, from the same start, on the same device; write a folder.

    Each engine is shown at its own best epoch by the likelihood of held-out detector pixels, at
    equal wall time, and at its end. The folder holds ``comparison.md``, ``comparison.csv``,
    ``trace.csv`` (all snapshots), ``error_over_time.png``, ``comparison.png`` and ``objects.h5``
    (each at its best epoch), ``run.toml`` and ``provenance.json``. It appears when it is complete.

    Of several processes of ``torchrun`` all run the neural engines; after that the first runs the
    others, alone, and writes, and the other processes end (``SystemExit``).

    Parameters
    ----------
    run : RunFile
        Scan, options of the neural engine, and what all engines share. Without a ``random_seed``
        one is drawn, and recorded.
    engines : sequence of str
        Names from ``ENGINES``, in the order in which they run. Where there is neither ground truth
        nor reference, pictures are compared with the first.
    output_folder : str or Path, optional
        None: ``<run.output_folder>-comparison``.
    overwrite : bool
        Replace an earlier result.
    seconds : float, optional
        Wall time at which engines are compared. None: that of the whole run of the first.
    held_out : float
        Share of the detector's pixels that are held out.
    changes : dict, optional
        Engine names and option groups that take the place of the engine's.
    show_progress : bool
        Tell which engine runs, and show a bar with epoch, loss and time left.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If the scan cannot be read, or engines or options are not known.
    """
    join()
    run, changes = copy.deepcopy(run), changes or {}
    folder = Path(output_folder or f"{run.output_folder}-comparison")
    check_engine_names(engines)
    if idle := [name for name in changes if name not in engines]:
        raise ValueError(f"--set {idle[0]}: that engine is not compared; add it to --engines.")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds = {seconds} must be above 0, and finite.")
    shared = run.options.reconstructor_options
    draw_missing_seeds(run)
    assert shared.random_seed is not None
    options = {name: engine_options(name, run, changes.get(name)) for name in engines}
    with results_folder(folder, overwrite, reads=run.reads) as results:
        tell("started", pid=os.getpid(), engines=list(engines), product_output=None)
        scan, target = load_with_target(run)
        pixels = hold_out(scan, held_out, shared.random_seed)
        clock = time.perf_counter()
        with interruptible("the batch"):
            runs, refused, broken = _run_all(options, run, scan, pixels, target, show_progress)
            if is_silent():
                raise SystemExit(0)
            comparison = Comparison(
                folder=folder,
                runs=runs,
                refused=refused,
                broken=broken,
                seconds=runs[0].last.seconds if seconds is None else seconds,
                scan=scan,
                held_out=pixels,
                target=target,
                refined=any(is_refined(chosen) for chosen in options.values()),
            )
            content = provenance(
                time.perf_counter() - clock,
                torch.get_default_device(),
                seed=shared.random_seed,
                engines={run.engine: run.settings for run in runs},
                stopped={run.engine: run.stopped for run in runs if run.stopped} | refused,
            )
            _save(comparison, results.temporary)
            for name, write in (
                ("provenance.json", partial(write_json, content=content)),
                ("objects.h5", partial(_save_objects, comparison)),
                ("run.toml", run.write),
            ):
                with written_or_said(name, comparison.unsaved):
                    write(results.temporary / name)
            with what_fails_is_said("the figures", comparison.unsaved):
                _draw(comparison, results.temporary)
            results.publish()
        tell(
            "finished", cancelled=comparison.interrupted, path=str(folder), failed=comparison.failed
        )
    return comparison


def _run_all(
    options: dict[str, PtychographyTaskOptions],
    run: RunFile,
    scan: Scan,
    pixels: NDArray[np.bool_],
    target: Target | None,
    show_progress: bool,
) -> tuple[list[EngineRun], dict[str, str], list[str]]:
    """Run all engines; one that fails does not end the others.

    Of several processes all run the neural engines, and then the first alone runs the others.

    Returns
    -------
    list of EngineRun
        The engines that ran.
    dict
        Why the others did not, by their names.
    list of str
        Those of the others that did not refuse the scan but failed.

    Raises
    ------
    ValueError
        If no engine ran.
    """
    runs: list[EngineRun] = []
    refused: dict[str, str] = {}
    broken: list[str] = []
    in_turn = sorted(options, key=lambda name: needs_one_process(options[name]))
    for number, name in enumerate(in_turn, start=1):
        chosen = options[name]
        if is_silent() and (has_left() or needs_one_process(chosen)):
            raise SystemExit(int(has_left()))
        if needs_one_process(chosen) or has_left():
            go_on_alone()
        if show_progress:
            say(f"{name} ({number} of {len(options)})")
        try:
            runs.append(
                run_engine(
                    name, chosen, scan, pixels, target, keep=run.chosen, show_progress=show_progress
                )
            )
        except (NotImplementedError, ValueError) as error:
            refused[name] = str(error)
            continue
        except Exception as error:  # memory, what an engine cannot do
            leave()
            refused[name] = f"{type(error).__name__}: {error}"
            broken.append(name)
            say(f"{name} failed: {error}")
            continue
        if runs[-1].stopped == "interrupted":
            break
    if not runs:
        raise ValueError("\n".join(f"{name}: {reason}" for name, reason in refused.items()))
    return sorted(runs, key=lambda run: list(options).index(run.engine)), refused, broken


def _save(comparison: Comparison, folder: Path) -> None:
    pictures = "".join(f"\n![]({name}.png)\n" for name in ("error_over_time", "comparison"))
    (folder / "comparison.md").write_text(comparison.report + pictures, encoding="utf-8")
    comparison.table.to_csv(folder / "comparison.csv", index=False)
    comparison.trace.to_csv(folder / "trace.csv", index=False)


def _save_objects(comparison: Comparison, path: Path) -> None:
    with replacing(path) as temporary, written(temporary) as file:
        file["held_out_pixels"] = comparison.held_out
        if comparison.target is not None:
            file[comparison.target.name.replace(" ", "_")] = comparison.target.object
        for run in comparison.runs:
            group = file.create_group(run.engine)
            for name in ("object", "probe", "positions_px"):
                group[name] = getattr(run.best, name)
            group.attrs.update(epoch=run.best.epoch, seconds=run.best.seconds)


def _draw(comparison: Comparison, folder: Path) -> None:
    scan, target = comparison.scan, comparison.target
    evaluation.error_over_time_figure(
        folder / "error_over_time.png",
        comparison.trace,
        comparison.seconds,
        title=f"{scan.name}: a dot marks the best held-out likelihood",
    )
    best = {run.engine: run.best for run in comparison.runs}
    if target is None:
        target = Target(best.pop(comparison.runs[0].engine).object, "reference")
    reference = target.object.prod(axis=0)
    evaluation.comparison_figure(
        folder / "comparison.png",
        {
            engine: target.aligned(snapshot.object, scan, comparison.refined)[0]
            for engine, snapshot in best.items()
        },
        reference,
        comparison.target_name,
        evaluation.scanned_area(scan.positions_px, reference.shape),
        captions={
            engine: f"epoch {snapshot.epoch}, {snapshot.seconds:.1f} s"
            + ("" if snapshot.error is None else f"\nerror {snapshot.error:.4f}")
            for engine, snapshot in best.items()
        },
        title=f"{scan.name}: each engine at its best held-out likelihood",
        pixel_size_m=scan.known_pixel_size_m,
        ramp=target.is_free(comparison.refined),
    )
