"""Earlier names of modules, which scripts may go on importing."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

EARLIER = {
    "api.enums": "options.choices",
    "api.options": "api",
    "api.registration": "engine.registration",
    "inference": "generators.files",
    "parameters": "engine.parameters",
    "reconstructor": "engine.reconstructor",
    "training_state": "engine.state",
    "io.defects": "scans.defects",
    "io.diffraction": "scans.diffraction",
    "io.hdf5": "scans.hdf5",
    "io.load": "scans.load",
    "io.product": "scans.formats.ptychodus",
    "io.run_file": "runs.run_file",
    "io.scan": "scans.scan",
    "workflows.attend": "runs.attend",
    "workflows.benchmark": "comparison.benchmark",
    "workflows.compare": "comparison.compare",
    "workflows.engines": "comparison.engines",
    "workflows.infer": "runs.infer",
    "workflows.provenance": "runs.provenance",
    "workflows.reconstruct": "runs.reconstruct",
    "workflows.suite": "comparison.benchmark.suite",
    "workflows.summary": "runs.summary",
    "workflows.train": "runs.train",
    "workflows.training_file": "runs.training_file",
    "workflows.warm_start": "runs.warm_start",
}
"""Earlier names and the modules that hold their contents today, without the package's name."""

PACKAGE = "ptychi_neural."


class _EarlierNames(MetaPathFinder, Loader):
    """Imports today's module where an earlier name is asked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.removeprefix(PACKAGE) in EARLIER and fullname.startswith(PACKAGE):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        today = import_module(PACKAGE + EARLIER[spec.name.removeprefix(PACKAGE)])
        earlier = ModuleType(spec.name, f"Earlier name of ``{today.__name__}``.")
        vars(earlier).update({k: v for k, v in vars(today).items() if not k.startswith("__")})
        return earlier

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the contents are there."""


def keep_earlier_names() -> None:
    """Let the earlier names be imported. Calling it again changes nothing."""
    if not any(isinstance(finder, _EarlierNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _EarlierNames())
