"""A folder of ptychodus's reconstruction subprocess as a run file.

The folder holds ``diffraction.h5``, ``product.h5`` and ``ptychi_options.yaml``, which pty-chi's
``options.get_dict()`` or a hand has written.
"""

from pathlib import Path
from typing import Any

from ptychi_neural.runs.configuration import STDIN, RunFileError, flattened, merged, read_keys
from ptychi_neural.runs.option_groups import option_values
from ptychi_neural.runs.progress import tell_epochs
from ptychi_neural.runs.reconstruct import reconstruct
from ptychi_neural.runs.result import ReconstructionResult
from ptychi_neural.runs.run_file import ENGINES, RunFile, run_from
from ptychi_neural.scans.frames import Frames

OPTIONS = "ptychi_options.yaml"

CLASS = "options_class_name"
"""The key by which pty-chi stamps options, and each group of them, with their class."""

OF_THE_PRODUCT = (
    "data_options.wavelength_m",
    "data_options.free_space_propagation_distance_m",
    "object_options.pixel_size_m",
    "object_options.pixel_size_aspect_ratio",
    "object_options.slice_spacings_m",
    "object_options.determine_position_origin_coords_by",
    "object_options.position_origin_coords",
    "probe_options.pixel_size_m",
    "probe_options.pixel_size_aspect_ratio",
)
"""Options that are those of the product, whatever the file of options says, as in ptychodus."""


def reconstruct_folder(
    folder: Path,
    output: Path,
    options: Path | None,
    overwrite: bool,
    index_filter: str,
    num_sync_epochs: int,
    mmap_file: Path | None,
) -> ReconstructionResult:
    """Reconstruct a folder of ptychodus with the arguments of its subprocess.

    Raises
    ------
    ValueError
        If there is a ``mmap_file``, or what ``reconstruct`` raises.
    """
    if mmap_file is not None:
        raise ValueError(
            f"--mmap-file {mmap_file}: the counts are reconstructed from memory, in the type of "
            "the file; leave it out, or crop or bin the patterns if they do not fit."
        )
    run = run_of_folder(folder, options)
    assert run.data is not None
    if index_filter != "all":
        run.data.frames = Frames.model_validate({"numbers": index_filter})
    run.output.product_epochs = num_sync_epochs
    tell_epochs(num_sync_epochs)
    return reconstruct(run, output, overwrite)


def run_of_folder(folder: Path, options: Path | None = None) -> RunFile:
    """The run file of a folder of ptychodus.

    Parameters
    ----------
    folder : Path
        Folder with ``diffraction.h5`` and ``product.h5``.
    options : Path, optional
        Options of pty-chi as YAML, JSON or TOML, ``-`` for standard input; None:
        ``ptychi_options.yaml`` in the folder.

    Raises
    ------
    FileNotFoundError
        If there is no file of options.
    RunFileError
        If a file of the scan is missing, or options are unknown, ill-typed or refused.
    """
    path = options or folder / OPTIONS
    if path != STDIN and not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; name one by --ptychi-options.")
    data = {name: str((folder / f"{name}.h5").resolve()) for name in ("diffraction", "product")}
    return run_from(_contents(read_keys(path), str(path)) | {"data": data}, path)


def _contents(written: dict[str, Any], source: str) -> dict[str, Any]:
    """Contents of a run file: the engine, and options that are not its defaults."""
    engines = {options_class.__name__: name for name, options_class in ENGINES.items()}
    engine = engines.get(str(written.get(CLASS)))
    if engine is None:
        problem = f"{CLASS}: choose from {', '.join(engines)}, not {written.get(CLASS)!r}"
        raise RunFileError(source, [problem])
    usual = option_values(ENGINES[engine]())
    chosen = {
        name: "none" if value is None else value
        for name, value in flattened(written).items()
        if name.rpartition(".")[2] != CLASS and name not in OF_THE_PRODUCT
        if name not in usual or usual[name] != value
    }
    return merged({"engine": engine}, chosen)
