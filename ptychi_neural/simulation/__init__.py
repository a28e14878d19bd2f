"""Simulated scans with ground truth: objects, probes, scans, detector noise."""

from ptychi_neural.simulation.images import ImagePair, Natural, ObjectFile
from ptychi_neural.simulation.objects import Cells, DeadLeaves, Lines, PublishedLines, SiemensStar
from ptychi_neural.simulation.options import SimulationOptions
from ptychi_neural.simulation.probes import (
    Aperture,
    Gaussian,
    ProbeFile,
    PublishedProbe,
    ZonePlate,
)
from ptychi_neural.simulation.scans import Concentric, FermatSpiral, Line, Raster
from ptychi_neural.simulation.simulate import (
    SimulatedScan,
    predict_intensities,
    simulate,
    simulation_files,
    write_simulation,
)
from ptychi_neural.simulation.variation import ProbeVariation

__all__ = [
    "Aperture",
    "Cells",
    "Concentric",
    "DeadLeaves",
    "FermatSpiral",
    "Gaussian",
    "ImagePair",
    "Line",
    "Lines",
    "Natural",
    "ObjectFile",
    "ProbeFile",
    "ProbeVariation",
    "PublishedLines",
    "PublishedProbe",
    "Raster",
    "SiemensStar",
    "SimulatedScan",
    "SimulationOptions",
    "ZonePlate",
    "predict_intensities",
    "simulate",
    "simulation_files",
    "write_simulation",
]
