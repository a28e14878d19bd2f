"""Sections of run files that name files and folders, and where those are looked for."""

import os
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ptychi_neural.runs.probe_guess import ProbeGuess
from ptychi_neural.runs.progress import remark
from ptychi_neural.scans.load import product_of
from ptychi_neural.scans.preparation import Preparation

DATA_VARIABLE = "PTYCHI_NEURAL_DATA"
"""Environment variable that overrides ``data.folder``."""

Model = typing.TypeVar("Model", bound=BaseModel)


class DataSection(Preparation):
    """``[data]``: the measured scan, as files, and how frames and positions are stored in them."""

    folder: Path = Path(".")
    """Folder that the other paths are relative to. ``--data`` overrides it, and so does the
    environment variable PTYCHI_NEURAL_DATA where ``diffraction`` is in its folder."""

    diffraction: Path
    """File of the diffraction patterns, or of the whole scan, or a folder of TIFF files."""

    product: Path | None = None
    """File of positions, and perhaps of probe and object guess. None: the file beside
    ``diffraction`` that belongs to it, or ``diffraction`` itself."""

    probe: ProbeGuess | None = None
    """Probe to start from, in place of the file's: ``{ kind = "mean_pattern" }``, ``"aperture"`` or
    ``"zone_plate"``. None: that of the file, or the mean pattern where it has none."""

    reference: Path | None = None
    """Product or reference file whose object the result is compared with."""

    n_probe_modes: int | None = Field(default=None, ge=1)
    """Incoherent probe modes to start from; None: those of the product. Other numbers make
    Hermite modes from the product's first mode."""

    n_slices: int | None = Field(default=None, ge=1)
    """Slices of the object to start from; None: those of the product. Where it has another number
    of them, the first starts from the product of all of its slices, and the others are empty."""

    slice_spacing_m: float | None = Field(default=None, gt=0)
    """Distance of neighbouring slices in metres, in place of the product's."""

    def problems(self) -> list[str]:
        """Keys that contradict each other, a line each."""
        found = super().problems()
        if self.n_slices is not None and self.n_slices > 1 and self.slice_spacing_m is None:
            found.append(f"n_slices = {self.n_slices}: give slice_spacing_m too, in metres")
        return found

    def locate(self, base: Path, data_folder: str | Path | None, problems: list[str]) -> None:
        """Make the folder absolute, and add a line for each file that is not in it.

        Parameters
        ----------
        base : Path
            Folder of the run file.
        data_folder : str or Path, optional
            Folder that takes the place of the section's.
        problems : list of str
            Lines are added to it.
        """
        own, others = (base / self.folder).resolve(), data_folders(data_folder)
        if data_folder is None:  # Not all run files are of the data that the variable names.
            is_own = (own / self.diffraction).exists()  # so is an absolute path
            others = [
                folder
                for folder in others
                if not self.diffraction.is_absolute()
                and ((folder / self.diffraction).exists() or not is_own)
            ]
        self.folder, *_ = [*others, own]
        if self.folder != own:
            how = DATA_VARIABLE if data_folder is None else "--data"
            remark(f"data.folder is {self.folder} ({how})")
        for name in ("diffraction", "product", "reference", "background", "mask"):
            file = getattr(self, name)
            if isinstance(file, Path) and not (self.folder / file).exists():
                is_told = file.is_absolute() or data_folder is not None
                problems.append(_missing(f"data.{name}", self.folder / file, is_told))
        problems.extend(f"data.{problem}" for problem in self.problems())

    @property
    def diffraction_path(self) -> Path:
        """The file of patterns."""
        return self.folder / self.diffraction

    @property
    def product_path(self) -> Path:
        """The file of positions."""
        if self.product is None:
            return Path(product_of(self.diffraction_path))
        return self.folder / self.product

    def preparation(self) -> Preparation:
        """What is done to frames and positions, with absolute paths."""
        keys = {name: getattr(self, name) for name in Preparation.model_fields}
        for name, value in keys.items():
            keys[name] = self.folder / value if isinstance(value, Path) else value
        return Preparation.model_validate(keys)


class DataAlone(BaseModel):
    """A run file that names a measured scan and nothing else."""

    model_config = ConfigDict(extra="forbid")

    data: DataSection


class OutputSection(BaseModel):
    """``[output]``: where the result goes."""

    model_config = ConfigDict(extra="forbid")

    folder: Path | None = None
    """Results folder, relative to the current directory; None: ``results/<run file's name>``."""


class OutputFormats(StrEnum):
    """Files that a reconstruction writes beside its product."""

    CXI = "cxi"
    NPZ = "npz"
    TIFF = "tiff"
    PNG = "png"
    HTML = "html"


class RunOutputSection(OutputSection):
    """``[output]`` of a run file: where the result goes, and what belongs to it."""

    formats: list[OutputFormats] = []
    """Files to write beside ``product.h5``: the product as ``"cxi"`` or ``"npz"``; amplitude,
    unwrapped phase and probe as 32-bit ``"tiff"`` or as ``"png"`` with scale bars; a report of
    the run as one ``"html"`` file."""

    intervals: bool = False
    """Measure 90 % intervals of amplitude and phase by a repetition on the computer and by the two
    halves of the scan, which takes two more initial reconstructions. They are the neural engine's,
    and ``object_std`` is then the deviation that belongs to them."""

    live_figure_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Seconds between two pictures of object, probe and loss in ``<folder>.live.png`` while
    ``reconstruct`` runs, for a viewer that reloads. 0: no picture before the end."""

    checkpoint_minutes: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    """Minutes between two checkpoints, from which ``reconstruct --resume`` goes on after the run
    was killed. 0: after every epoch and every iteration of an initial reconstruction."""

    product_epochs: int = Field(default=0, ge=0)
    """Epochs from one ``product.NNNNNN.h5`` of a reconstruction under way to the next. 0: none."""


def data_folders(data_folder: str | Path | None) -> list[Path]:
    """The folder that takes the place of those in run files, if there is one."""
    folder = data_folder or os.environ.get(DATA_VARIABLE)
    return [Path(folder).resolve()] if folder else []


def located(model: Model, folders: list[Path], prefix: str, problems: list[str]) -> Model:
    """The same section with absolute paths.

    Parameters
    ----------
    model : BaseModel
        A section, whose groups are gone through too.
    folders : list of Path
        Relative paths are relative to the last folder, unless a file of that name is in one
        before it.
    prefix : str
        Dotted name of the section.
    problems : list of str
        A line is added for each file that does not exist.
    """
    *before, base = folders
    updates: dict[str, Any] = {}
    for name, value in model:
        if isinstance(value, Path):
            by_name = [] if value.is_absolute() else [folder / value.name for folder in before]
            found = [path for path in (*by_name, base / value) if path.is_file()]
            updates[name] = [*found, base / value][0].resolve()
            if found and found[0] in by_name:
                remark(f"{prefix}.{name} is {found[0]} (in the data folder)")
            if not found:
                problems.append(_missing(f"{prefix}.{name}", updates[name], value.is_absolute()))
        elif isinstance(value, BaseModel):
            updates[name] = located(value, folders, f"{prefix}.{name}", problems)
    return model.model_copy(update=updates)


def names_files(model: BaseModel) -> bool:
    """Whether a section or one of its groups has a path."""
    return any(
        isinstance(value, Path) or (isinstance(value, BaseModel) and names_files(value))
        for _, value in model
    )


def _missing(key: str, path: Path, is_told: bool) -> str:
    """A line on a file that is not there; the user may have told its folder already."""
    others = f"; {DATA_VARIABLE}, or --data of commands that have it, names another folder"
    return f"{key}: no file {path}{'' if is_told else others}"
