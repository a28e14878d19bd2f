"""Records of how results came about: command, time, device, versions."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ptychi_neural
from ptychi_neural.scans.hdf5 import replacing


def provenance(seconds: float, device: torch.device, **details: Any) -> dict[str, Any]:
    """Describe a run of this process that took ``seconds``, for ``provenance.json``."""
    return {
        "command": sys.argv,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_time_s": round(seconds, 3),
        "device": device_name(device),
        "platform": platform.platform(),
        "versions": versions(),
        **details,
    }


def beginning() -> dict[str, Any]:
    """Describe a run that begins, for the ``provenance.json`` of one that is killed."""
    return {"command": sys.argv, "begun": datetime.now(UTC).isoformat(timespec="seconds")}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is pleasant to read, whole, in the place of an earlier one."""
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def device_name(device: torch.device) -> str:
    """The name that its maker gave a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


@cache
def versions() -> dict[str, str | None]:
    """Versions of the packages that compute, and the commit of this package."""
    packages = ("ptychi", "neuraloperator", "numpy")
    return {
        "python": platform.python_version(),
        "ptychi_neural": ptychi_neural.__version__,
        "commit": _commit(),
        "torch": torch.__version__,  # It names the build, for a CPU or a version of CUDA.
        **{package: version(package) for package in packages},
    }


def _commit() -> str | None:
    """The commit of the checkout that this package is in, with "-dirty" if files were changed."""
    package = Path(ptychi_neural.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except OSError:  # Git is not installed.
        return None
