"""TOML training files: scans to train on, one to validate with, and the options that they share."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, Field

from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.configuration import (
    RunFileError,
    differing,
    key_names,
    merged,
    read_keys,
    validated,
)
from ptychi_neural.runs.option_groups import checked_options
from ptychi_neural.runs.run_file import RunFile, check_data_folder, run_from
from ptychi_neural.runs.sections import OutputSection
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.training import Fresh

DEFAULTS: dict[str, Any] = {
    "reconstructor_options": {
        "validation": {"held_out": 0},
        "consistency": {"canvas_update_stride": 1000},
    }
}
"""Defaults of training that are not the engine's: a scan validates instead of pixels of each scan,
and the objects are not needed between epochs."""


class TrainingSection(BaseModel):
    """``[training]``: the course of the training."""

    model_config = ConfigDict(extra="forbid")

    scans_in_memory: int = Field(default=8, ge=1)
    """Scans that are kept in memory. The data of others are read again when their turn comes, but
    what was fitted to them is kept."""

    checkpoint_stride: int = Field(default=1, ge=1)
    """Epochs between two savings of the state from which ``--resume`` goes on."""


class ScanSection(BaseModel):
    """A scan of a training file; ``[validation]`` is one that is not trained on."""

    model_config = ConfigDict(extra="forbid")

    data: dict[str, Any] | None = None
    """A measured scan: the keys of a run file's ``[data]``."""

    simulation: dict[str, Any] | None = None
    """A simulated scan: the keys of a run file's ``[simulation]``."""

    probe_options: dict[str, Any] = {}
    """Options that take the place of those in the shared ``[probe_options]``."""


class TrainingScanSection(ScanSection):
    """``[[scans]]``: a scan to train on."""

    fresh: Fresh | None = None
    """What of a simulated scan is drawn anew in every epoch: ``"object"``, with its jitter and
    noise, or ``"noise"`` alone, as if the same scan were exposed again."""


class _Sections(BaseModel):
    """The sections of a training file that are not options of the engine."""

    model_config = ConfigDict(extra="forbid")

    training: TrainingSection = TrainingSection()
    simulation: dict[str, Any] = {}
    """Keys that all simulated scans share; those of a scan's own section take their place."""
    scans: list[TrainingScanSection] = Field(min_length=1)
    validation: ScanSection
    output: OutputSection = OutputSection()


@dataclass
class ScanRun:
    """One scan of a training file."""

    run: RunFile
    """The run file of this scan alone."""

    fresh: Fresh | None = None
    """See ``TrainingScanSection``."""

    probe_options: dict[str, Any] = field(default_factory=dict)
    """See ``ScanSection``."""

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
    """Scans to train on."""

    validation: ScanRun
    """The scan that is not trained on."""

    options: NeuralPtychographyOptions
    """Options that the scans share."""

    training: TrainingSection
    """The course of the training."""

    output_folder: Path
    """Results folder, relative to the current directory."""

    @property
    def reads(self) -> list[Path]:
        """Files that the training reads."""
        return [path for scan in (*self.scans, self.validation) for path in scan.run.reads]

    def filled_in(self) -> dict[str, Any]:
        """Contents of a training file that states every default and trains the same."""
        shared = RunFile("neural", self.options, output_folder=self.output_folder).filled_in()
        del shared["engine"]
        shared["output"] = {"folder": str(self.output_folder)}
        return {
            "training": self.training.model_dump(),
            "scans": [scan.filled_in() for scan in self.scans],
            "validation": self.validation.filled_in(),
            **shared,
        }

    def write(self, path: str | Path) -> None:
        """Write ``filled_in()`` to a new file, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_text(tomli_w.dumps(self.filled_in()), encoding="utf-8")

    @staticmethod
    def seed_of(path: str | Path) -> int:
        """The ``random_seed`` in a file that ``write`` wrote."""
        return int(read_keys(Path(path))["reconstructor_options"]["random_seed"])

    def differences(self, path: str | Path) -> list[str]:
        """Dotted names of the keys that differ from a file that ``write`` wrote.

        Keys that do not change what is learned are left out: the number of epochs, what is kept
        in memory, and where the result is written.
        """
        theirs = read_keys(Path(path))
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
        Folder that takes the place of every ``data.folder``, see ``read_run_file``.
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
    contents = merged(read_keys(path), changes or {})
    own = {key: value for key, value in contents.items() if key in _Sections.model_fields}
    shared = merged(DEFAULTS, {key: value for key, value in contents.items() if key not in own})

    problems: list[str] = []
    engine = NeuralPtychographyOptions
    sections: _Sections | None = validated(_Sections, own, list(key_names(_Sections)), problems)
    options = checked_options(engine, shared, list(key_names(engine)), problems)
    if sections is None or options is None or problems:
        raise RunFileError(str(path), problems)

    def scan_run(section: ScanSection, name: str, fresh: Fresh | None = None) -> ScanRun | None:
        scan = section.model_dump(include={"data", "simulation"}, exclude_none=True)
        if "reference" in scan.get("data", {}):
            problems.append(f"{name}.data.reference: nothing is compared with it; remove it")
        if "simulation" in scan:
            scan["simulation"] = merged(sections.simulation, scan["simulation"])
        elif fresh:
            problems.append(f"{name}.fresh: needs a simulation to draw from")
        groups = merged(shared, {"probe_options": section.probe_options})
        try:
            run = run_from(scan | groups, path, data_folder)
        except RunFileError as error:
            problems.extend(f"{name}.{problem}" for problem in error.problems)
            return None
        return ScanRun(run, fresh, section.probe_options)

    scans = [
        scan_run(section, f"scans[{i}]", section.fresh) for i, section in enumerate(sections.scans)
    ]
    validation = scan_run(sections.validation, "validation")
    if validation is None or problems:
        raise RunFileError(str(path), problems)
    check_data_folder([s.run for s in (*scans, validation) if s is not None], path, data_folder)
    # The path of a generator to start from is relative to the file; run_from makes it absolute.
    of_scan = cast(NeuralPtychographyOptions, validation.run.options)
    checkpoint = of_scan.reconstructor_options.generator.checkpoint
    options = cast(NeuralPtychographyOptions, options)
    options.reconstructor_options.generator.checkpoint = checkpoint
    return TrainingFile(
        scans=[scan for scan in scans if scan is not None],
        validation=validation,
        options=options,
        training=sections.training,
        output_folder=sections.output.folder or Path("results") / path.stem,
    )
