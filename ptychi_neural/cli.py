"""Command line, whose commands import heavy packages, so that ``--help`` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from ptychi_neural import __version__
from ptychi_neural.arguments import (
    Accelerate,
    Changes,
    ChangesOfEngines,
    Data,
    DataChanges,
    Engines,
    EqualSeconds,
    EventFile,
    Every,
    FiguresOnly,
    Follow,
    HeldOut,
    IndexFilter,
    Inspected,
    LogLevel,
    MemoryMap,
    OfPatterns,
    OfPositions,
    OnlyCells,
    Orientations,
    Output,
    Overwrite,
    OverwriteCells,
    Page,
    Picture,
    Product,
    PtychiOptions,
    PtychodusFolder,
    RecipePath,
    ResultsFolder,
    Resume,
    ResumeFollowing,
    RunPath,
    Settle,
    SuiteName,
    SyncEpochs,
    Template,
    Timeout,
    TrainedGenerator,
    Vary,
)
from ptychi_neural.console import (
    FAILED,
    INTERRUPTED,
    Commands,
    complained,
    concluded,
    prepared,
    tell_events,
    told,
)
from ptychi_neural.console import plain_errors as _plain_errors
from ptychi_neural.counted import MOST, counted

app = typer.Typer(
    cls=Commands,
    name="ptychi-neural",
    help="Ptychographic reconstruction with neural and classical engines of pty-chi.\n\n"
    "Exit codes: 0 done, 1 failed or diverged, 2 wrong use, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the ``ptychi-neural`` command."""
    with prepared():
        app(prog_name="ptychi-neural")


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def reconstruct(
    run_file: RunPath,
    output: Output = None,
    data: Data = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Reconstruct a scan.

    The command writes one folder, results/<name of the run file> by default: product.h5, run.toml
    with all defaults, provenance.json, losses, figures, the generator of the neural engine. Ctrl-C
    finishes the batch and saves; a second Ctrl-C stops at once. --resume goes on from the latest
    checkpoint, as if the run had never ended.
    """
    with _plain_errors():
        from ptychi_neural.runs.run_file import parse_changes, read_run_file

        run = read_run_file(run_file, data, parse_changes(changes or []))
        from ptychi_neural.runs import reconstruct

        result = reconstruct(run, output, overwrite, resume=resume)
    for name, value in (result.metrics or {}).items():
        told(f"{name}: {value:.4f}")
    told(f"{result.folder}: {counted(len(result.losses), 'epochs')} in {result.seconds:.0f} s")
    concluded(result.stopped, result.unsaved)


@app.command()
def reconstruct_subprocess(
    input_directory: PtychodusFolder,
    output_directory: ResultsFolder,
    ptychi_options: PtychiOptions = None,
    overwrite: Overwrite = False,
    index_filter: IndexFilter = "all",
    num_sync_epochs: SyncEpochs = 1,
    mmap_file: MemoryMap = None,
    event_file: EventFile = None,
    log_level: LogLevel = 30,
) -> None:
    """Reconstruct a folder of ptychodus for a program, as ptychodus-reconstruct-subprocess does.

    Events go to stdout, one JSON object a line, all else to stderr. SIGTERM finishes the batch
    and saves product.h5 as it is. The engine is that of the options.
    """
    tell_events(event_file)
    with _plain_errors(log_level):
        from ptychi_neural.runs.ptychodus_folder import reconstruct_folder

        result = reconstruct_folder(
            *(input_directory, output_directory, ptychi_options, overwrite),
            *(index_filter, num_sync_epochs, mmap_file),
        )
    concluded(result.stopped, result.unsaved)


@app.command()
def train(
    training_file: Annotated[Path, typer.Argument(metavar="TRAIN.toml", help="Training file.")],
    output: Output = None,
    data: Data = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train one generator on many scans.

    The command writes one folder, results/<name of the training file> by default: generator-best
    and generator-last.safetensors, training.csv and .png, train.toml with all defaults,
    provenance.json, state.safetensors. Ctrl-C finishes the scan and saves; --resume goes on from
    there, as if training had never ended.
    """
    with _plain_errors():
        from ptychi_neural.runs.run_file import parse_changes
        from ptychi_neural.runs.training_file import read_training_file

        training = read_training_file(training_file, data, parse_changes(changes or []))
        from ptychi_neural.runs import train

        result = train(training, output, overwrite, resume)
    workflow = result.workflow
    best = f"best score {workflow.best_score:.6g} after {workflow.best_epoch}"
    told(f"{result.folder}: {counted(workflow.epoch, 'epochs')}, {best}")
    concluded(result.stopped, result.unsaved)


@app.command()
def infer(
    generator: TrainedGenerator,
    diffraction: OfPatterns,
    product: OfPositions = None,
    changes: DataChanges = None,
    output: Output = None,
    data: Data = None,
    overwrite: Overwrite = False,
    follow: Follow = False,
    resume: ResumeFollowing = False,
    every: Every = 2.0,
    timeout: Timeout = 30.0,
    page: Page = None,
    accelerate: Accelerate = None,
) -> None:
    """Predict a scan with a trained generator.

    The command writes one folder, results/<name of the scan>-inferred by default: product.h5 with
    object_std beside the object, figure.png, provenance.json. With --follow the folder is written
    anew as frames arrive, until Ctrl-C is pressed or no more come.
    """
    with _plain_errors():
        from ptychi_neural.runs import infer

        result = infer(
            *(generator, diffraction, product, output, overwrite),
            changes=changes or [],
            data_folder=data,
            follow=follow,
            resume=resume,
            every_s=every,
            timeout_s=timeout,
            page=page,
            accelerations=accelerate or [],
        )
    frames = counted(len(result.scan.positions_px), "frames")
    told(
        f"{result.folder}: {frames} in {result.seconds:.1f} s, "
        f"re-projection error {result.prediction.mean_reprojection_error:.3f}"
    )
    concluded("interrupted" if result.interrupted else None, result.unsaved)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Results folder.")],
    overwrite: Overwrite = False,
) -> None:
    """Write report.html into the results folder of a reconstruction.

    It is one file that opens without a network: object, probe, curves, positions before and after,
    data, settings, timings and environment. The data are read again from where they were.
    """
    with _plain_errors():
        from ptychi_neural.runs.report import report

        told(str(report(folder, overwrite)))


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where scans arrive.")],
    template: Template,
    output: Output = None,
    changes: Changes = None,
    settle: Settle = 10.0,
    every: Every = 5.0,
    once: Annotated[bool, typer.Option("--once", help="End when all is done.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try what was set aside again.")] = False,
) -> None:
    """Reconstruct each scan of a folder once, as scans arrive.

    Results go to results/<name of the template>/<scan> by default. watch.json there tells what was
    done and what was set aside for which reason: the same command goes on from it.
    """
    with _plain_errors():
        from ptychi_neural.runs.run_file import parse_changes
        from ptychi_neural.runs.watch_folder import FolderWatch

        watched = FolderWatch(
            *(folder, template, output, parse_changes(changes or []), settle, retry),
            *(told, complained),
        )
        if watched.run(every, once):
            raise typer.Exit(INTERRUPTED)


@app.command()
def tune(
    run_file: RunPath,
    vary: Vary,
    trials: Annotated[int, typer.Option(min=1, max=MOST, help="Trials in all.")] = 20,
    output: Output = None,
    data: Data = None,
    changes: Changes = None,
) -> None:
    """Search for the settings that predict held-out pixels best, with Optuna.

    Writes results/<name of the run file>-tuning by default: table.csv, best.toml, a results folder
    for each trial. The same command goes on where an earlier one was stopped.
    """
    with _plain_errors():
        from ptychi_neural.runs.run_file import parse_changes
        from ptychi_neural.runs.tune import parse_choices, tune

        changed = parse_changes(changes or [])
        found = tune(run_file, parse_choices(vary), trials, output, data, changed)
    told(found.table.to_string(index=False))
    if found.best:
        told(f"{found.folder / 'best.toml'}: {found.best}")
    concluded("interrupted" if found.interrupted else None)


@app.command()
def compare(
    run_file: RunPath,
    engines: Engines = None,
    output: Output = None,
    seconds: EqualSeconds = None,
    held_out: HeldOut = 0.03,
    data: Data = None,
    changes: ChangesOfEngines = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare engines: same data, same start, same device.

    Each engine is shown at its best epoch by the likelihood of held-out detector pixels, at equal
    wall time and at its end. The command writes one folder, results/<name of the run
    file>-comparison by default: comparison.md and .csv, error over time, objects side by side.
    Ctrl-C finishes the batch, leaves out the engines to come and saves.
    """
    with _plain_errors():
        from ptychi_neural.runs.run_file import parse_changes, read_run_file

        contents = parse_changes(changes or [])
        from ptychi_neural.comparison import ENGINES, compare

        names = list(ENGINES) if engines is None else [name.strip() for name in engines.split(",")]
        of_engines = {name: contents.pop(name) for name in ENGINES if name in contents}
        run = read_run_file(run_file, data, contents)
        comparison = compare(run, names, output, overwrite, seconds, held_out, of_engines)
    told(comparison.report)
    told(f"{comparison.folder}: comparison.md, error_over_time.png, comparison.png")
    if comparison.failed:
        complained(f"Failed or diverged: {', '.join(comparison.failed)}")
    concluded("interrupted" if comparison.interrupted else None, comparison.unsaved)
    if comparison.failed:
        raise typer.Exit(FAILED)


@app.command()
def benchmark(
    suite: SuiteName = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Run all; else what two CPU cores do in an hour.")
    ] = False,
    only: OnlyCells = None,
    output: Output = None,
    data: Data = None,
    figures_only: FiguresOnly = False,
    overwrite: OverwriteCells = False,
) -> None:
    """Run the cells of a benchmark suite: engines on scans of all kinds, doses, overlaps.

    Writes results/benchmarks/<name of the suite> by default: a record for each cell, table.md,
    table.csv, cells.csv, figures. Cells that have a record are not run again: after Ctrl-C the
    same command goes on. Delete the folder to run all anew.
    """
    with _plain_errors():
        from ptychi_neural.comparison import benchmark as benchmarks

        if suite is None:
            for name, description in benchmarks.offered().items():
                typer.echo(f"{name}: {description}")
            return
        if suite == benchmarks.STREAM:
            told(str(benchmarks.stream_benchmark(output)))
            return
        result = benchmarks.benchmark(
            *(suite, output, data),
            whole=whole,
            only=only or [],
            overwrite=overwrite,
            figures_only=figures_only,
        )
    told(result.report)
    if result.failed:
        failed = counted(len(result.failed), "cells")
        complained(f"{failed} failed or diverged: {'; '.join(result.failed)}")
        raise typer.Exit(FAILED)


@app.command()
def simulate(
    recipe_file: RecipePath = None,
    output: Output = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a scan with ground truth.

    The command writes diffraction.h5, product.h5 and truth.h5 to a folder, simulated/<name of the
    scan> by default. Without a file it is the default recipe, which --set changes.
    """
    with _plain_errors():
        from ptychi_neural.runs.progress import bar_of
        from ptychi_neural.runs.run_file import parse_changes, read_recipe
        from ptychi_neural.simulation import simulate, simulation_files, write_simulation

        recipe = read_recipe(recipe_file, parse_changes(changes or []))
        folder = output or Path("simulated") / recipe.name
        simulation_files(folder, overwrite)
        write_simulation(simulate(recipe, bar_of), folder, overwrite)
    told(f"{folder}: diffraction.h5, product.h5, truth.h5")


@app.command()
def init(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="File of patterns, or a RUN.toml to write.")
    ],
    product: Product = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="RUN.toml", help="Run file to write.")
    ] = None,
    changes: DataChanges = None,
) -> None:
    """Write a run file for a scan, filled in from its files, with comments.

    The run file is <name of FILE>.toml in the current directory unless --output names another; of
    diffraction.h5 it has the name of the folder. With RUN.toml in place of FILE, a template without
    a scan is written.
    """
    with _plain_errors():
        from ptychi_neural.runs.init_file import write_run_file

        run_file, hints = write_run_file(path, product, output, changes or [])
    for hint in hints:
        complained(f"- {hint}")
    todo = "" if path.exists() and path != run_file else "name your data in it, then: "
    told(f"{run_file}: {todo}ptychi-neural reconstruct {run_file}")


@app.command()
def inspect(
    path: Inspected,
    product: Product = None,
    figure: Picture = None,
    orientations: Orientations = False,
    changes: DataChanges = None,
) -> None:
    """Tell what a scan's files hold and what is likely wrong, or how a result came about.

    Of a file of patterns the command also draws a picture: mean pattern, counts of frames,
    positions over the probe, overlap.
    """
    with _plain_errors():
        from ptychi_neural.runs.report_scan import report

        for line in report(path, product, figure, changes or [], orientations):
            typer.echo(line)


@app.command()
def schema() -> None:
    """Print the JSON schema of run files, with which editors complete and check them."""
    import json

    from ptychi_neural.runs.schema import run_file_schema

    typer.echo(json.dumps(run_file_schema(), indent=2))
