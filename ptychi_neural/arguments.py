"""Arguments and options that several commands of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

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

Product = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PRODUCT]", help="File of positions, where FILE and those beside it have none."
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
