"""TOML training files: scans, a held-out scan, and the options of the engine that they share."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, Field

import ptychi_neural.api as napi
from ptychi_neural.runs.configuration import (
    RunFileError,
    differing,
    key_names,
    merged,
    read_toml,
    validated,
)
from ptychi_neural.runs.option_groups import options_from
from ptychi_neural.runs.run_file import RunFile, run_from
from ptychi_neural.runs.sections import OutputSection

DEFAULTS: dict[str, Any] = {
    "reconstructor_options": {
        "validation": {"held_out": 0},
        "consistency": {"canvas_update_stride": 1000},
    }
}
"""Where training differs from the engine's defaults: a scan validates, not pixels of each scan,
and nobody looks at the objects in between."""


Fresh = Literal["object", "noise"]


class TrainingSection(BaseModel):
    """``[training]``: how the scans are gone through."""

    model_config = ConfigDict(extra="forbid")

    scans_in_memory: int = Field(default=8, ge=1)
    """Scans that are kept in memory; the data of others are read again when their turn comes,
    what was fitted to them is kept."""

    checkpoint_stride: int = Field(default=1, ge=1)
    """Epochs between two savings of the state from which ``--resume`` goes on."""


class HeldOutScan(BaseModel):
    """``[validation]``: a scan that is not trained on."""

    model_config = ConfigDict(extra="forbid")

    data: dict[str, Any] | None = None
    """A measured scan: the keys of a run file's ``[data]``."""

    simulation: dict[str, Any] | None = None
    """A simulated scan: the keys of a run file's ``[simulation]``."""

    probe_options: dict[str, Any] = {}
    """Changes of the shared ``[probe_options]``."""


class ScanSection(HeldOutScan):
    """``[[scans]]``: a scan to train on."""

    fresh: Fresh | None = None
    """What of a simulated scan is drawn anew in every epoch: ``"object"``, with its jitter and
    noise, or ``"noise"`` alone, as if the same scan were exposed again."""


class _Frame(BaseModel):
    """The part of a training file that is not the engine's."""

    model_config = ConfigDict(extra="forbid")

    training: TrainingSection = TrainingSection()
    simulation: dict[str, Any] = {}
    """What all simulated scans share; what a scan's own section says takes its place."""
    scans: list[ScanSection] = Field(min_length=1)
    validation: HeldOutScan
    output: OutputSection = OutputSection()


@dataclass
class ScanRun:
    """One scan of a training file."""

    run: RunFile
    """What a run file of this scan would say."""

    fresh: Fresh | None = None

    probe_options: dict[str, Any] = field(default_factory=dict)

    def filled_in(self) -> dict[str, Any]:
        """Contents of the scan's section with all defaults."""
        contents = self.run.filled_in()
        section: dict[str, Any] = {
            name: contents[name] for name in ("data", "simulation") if name in contents
        }
        if self.fresh is not None:
            section["fresh"] = self.fresh
        return section | ({"probe_options": self.probe_options} if self.probe_options else {})


@dataclass
class TrainingFile:
    """A valid training file."""

    scans: list[ScanRun]

    validation: ScanRun

    options: napi.NeuralPtychographyOptions
    """Options that the scans share."""

    training: TrainingSection

    output_folder: Path
    """Results folder, relative to the current directory."""

    def filled_in(self) -> dict[str, Any]:
        """The contents of a training file that states every default and trains the same."""
        shared = RunFile("neural", self.options, output_folder=self.output_folder).filled_in()
        del shared["engine"]
        return {
            "training": self.training.model_dump(),
            "scans": [scan.filled_in() for scan in self.scans],
            "validation": self.validation.filled_in(),
            **shared,
        }

    def write(self, path: str | Path) -> None:
        """Write ``filled_in()`` to a new file."""
        with Path(path).open("xb") as file:
            tomli_w.dump(self.filled_in(), file)

    @staticmethod
    def seed_of(path: str | Path) -> int:
        """The ``random_seed`` in a file that ``write`` wrote."""
        contents = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return int(contents["reconstructor_options"]["random_seed"])

    def differences(self, path: str | Path) -> list[str]:
        """Names of what differs from a file that ``write`` wrote and matters to the training.

        How long it goes, what is kept in memory and where it is written may differ.
        """
        theirs = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        ours = tomllib.loads(tomli_w.dumps(self.filled_in()))
        for contents in (ours, theirs):
            del contents["training"], contents["output"]
            del contents["reconstructor_options"]["num_epochs"]
        return differing(ours, theirs)


def read_training_file(
    path: str | Path,
    data_folder: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> TrainingFile:
    """Read and check a training file.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    data_folder : str or Path, optional
        Takes the place of every ``data.folder``, see ``read_run_file``.
    changes : dict, optional
        Contents that take the place of the file's, see ``parse_changes``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the file is not valid TOML, has unknown, missing or ill-typed keys, options that the
        engine refuses, or names files that do not exist. All problems are listed at once.
    """
    path = Path(path)
    contents = merged(read_toml(path), changes or {})
    framed = {key: value for key, value in contents.items() if key in _Frame.model_fields}
    shared = {key: value for key, value in contents.items() if key not in framed}
    shared = merged(DEFAULTS, shared)

    problems: list[str] = []
    frame: _Frame | None = validated(_Frame, framed, list(key_names(_Frame)), problems)
    options = None
    try:
        options = options_from(napi.NeuralPtychographyOptions, shared, source=str(path))
    except RunFileError as error:
        problems += error.problems
    if frame is None or options is None:
        raise RunFileError(str(path), problems)

    def run_of(section: HeldOutScan, name: str) -> RunFile | None:
        own = section.model_dump(include={"data", "simulation"}, exclude_none=True)
        if "reference" in own.get("data", {}):
            problems.append(f"{name}.data.reference: nothing is compared with it; remove it")
        if "simulation" in own:
            own["simulation"] = merged(frame.simulation, own["simulation"])
        groups = merged(shared, {"probe_options": section.probe_options})
        try:
            return run_from(own | groups, path, data_folder)
        except RunFileError as error:
            problems.extend(f"{name}.{problem}" for problem in error.problems)
            return None

    runs = [run_of(section, f"scans[{i}]") for i, section in enumerate(frame.scans)]
    held_out = run_of(frame.validation, "validation")
    if problems:
        raise RunFileError(str(path), problems)
    options = cast(napi.NeuralPtychographyOptions, options)
    scans = [
        ScanRun(cast(RunFile, run), section.fresh, section.probe_options)
        for run, section in zip(runs, frame.scans)
    ]
    for i, scan in enumerate(scans):
        if scan.fresh and scan.run.simulation is None:
            raise RunFileError(str(path), [f"scans[{i}].fresh: needs a simulation to draw from"])
    # Found relative to the file.
    checkpoint = cast(napi.NeuralPtychographyOptions, scans[0].run.options).reconstructor_options
    options.reconstructor_options.generator.checkpoint = checkpoint.generator.checkpoint
    return TrainingFile(
        scans=scans,
        validation=ScanRun(cast(RunFile, held_out), probe_options=frame.validation.probe_options),
        options=options,
        training=frame.training,
        output_folder=frame.output.folder or Path("results") / path.stem,
    )
