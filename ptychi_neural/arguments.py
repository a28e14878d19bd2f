"""Arguments and options of the command line: those that commands share, and longer ones."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ptychi_neural.counted import MOST

RunPath = Annotated[Path, typer.Argument(metavar="RUN.toml", help="Run file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the file, such as reconstructor_options.num_epochs=50. Repeatable.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="FOLDER", help="Where to write.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Data folder, before PTYCHI_NEURAL_DATA and the file's data.folder.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run was killed or interrupted.")
]

Inspected = Annotated[
    Path,
    typer.Argument(help="Diffraction file, product, run file, generator, or result's folder."),
]
Product = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PRODUCT]", help="File of positions, where FILE and those beside it have none."
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--figure",
        metavar="PICTURE",
        help="By default <name of the scan>-inspect.png, replaced.",
    ),
]
OfPatterns = Annotated[
    str,
    typer.Option(
        "--diffraction",
        metavar="FILE",
        help="File of patterns, or a run file; with --follow also an address, tcp://HOST:PORT.",
    ),
]
OfPositions = Annotated[
    Path | None,
    typer.Option("--product", metavar="FILE", help="File of positions, if it is another."),
]
DataChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A key of [data], such as data.bin=2. Repeatable."
    ),
]

ChangesOfEngines = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the file or, after its name, of an engine, such as "
        "lsqml.reconstructor_options.num_epochs=50. Repeatable.",
    ),
]

Template = Annotated[
    Path,
    typer.Argument(
        metavar="TEMPLATE.toml",
        help='Run file for all scans, with {scan} in data.diffraction: "{scan}.cxi".',
    ),
]

TrainedGenerator = Annotated[
    Path, typer.Argument(metavar="GENERATOR.safetensors", help="Trained generator.")
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Follow a file that is being written, or an address.")
]
ResumeFollowing = Annotated[
    bool, typer.Option("--resume", help="Go on with the frames of an address that came earlier.")
]
Every = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.05, help="Between looks at what arrives.")
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="Without a new frame that end following.")
]
Accelerate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="bfloat16|compile", help="Try to be faster while a scan is followed. Repeatable."
    ),
]
Settle = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Files must not change for as long.")
]
Page = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Show a followed scan at http://127.0.0.1:PORT in a browser; 0: any port.",
    ),
]
OnlyCells = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME=LABEL,...",
        help="Run these of an axis, object, seed or engine alone. Repeatable.",
    ),
]
Vary = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=LOW..HIGH|A,B,...", help="A key of the file and its values. Repeatable."
    ),
]
Engines = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,...",
        help="Engines in the order in which they run: neural, network-off, network-off-tv, "
        "lsqml, lsqml-poisson, rpie, dm, autodiff. All of them by default.",
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Argument(
        metavar="SUITE",
        help="Suite file, the name of one of the package (none: list those), or stream.",
    ),
]
OverwriteCells = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Run cells again whose records have other settings or cannot be read.",
    ),
]
RecipePath = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RECIPE.toml]", help="File with a [simulation] section; none: the defaults."
    ),
]
Orientations = Annotated[
    bool,
    typer.Option(
        "--orientations", help="Also rank the eight orientations of frames: takes minutes."
    ),
]

PtychodusFolder = Annotated[
    Path,
    typer.Option(
        "-i",
        "--input-directory",
        metavar="INPUT",
        help="Folder with diffraction.h5, product.h5 and, perhaps, ptychi_options.yaml.",
    ),
]
ResultsFolder = Annotated[
    Path, typer.Option("-o", "--output-directory", metavar="OUTPUT", help="Results folder.")
]
PtychiOptions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Options of pty-chi: YAML, JSON or TOML, - for standard input (YAML). By default "
        "ptychi_options.yaml in INPUT.",
    ),
]
IndexFilter = Annotated[
    Literal["all", "odd", "even"], typer.Option(help="Numbers of the frames to reconstruct.")
]
SyncEpochs = Annotated[
    int,
    typer.Option(
        "--num-sync-epochs",
        min=1,
        max=MOST,
        help="Epochs from one event, and one partial product, to the next.",
    ),
]
MemoryMap = Annotated[
    Path | None,
    typer.Option("--mmap-file", help="Refused: the counts are reconstructed from memory."),
]
EventFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where events go, in the place of stdout; it is replaced."),
]
LogLevel = Annotated[
    int, typer.Option(help="Level of Python's logging on stderr, 30 for warnings and errors.")
]

EqualSeconds = Annotated[
    float | None,
    typer.Option(help="Equal wall time; by default that of the first engine's whole run."),
]
HeldOut = Annotated[float, typer.Option(help="Share of the detector's pixels that no engine sees.")]
FiguresOnly = Annotated[
    bool,
    typer.Option("--figures-only", help="Run nothing: tables and figures from the records."),
]
