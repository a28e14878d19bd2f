"""Simulated scans with ground truth: objects, probes, scans, detector noise."""

from ptychi_neural.simulation.options import (
    Aperture,
    Cells,
    Concentric,
    DeadLeaves,
    FermatSpiral,
    Gaussian,
    ImagePair,
    Line,
    Lines,
    ObjectFile,
    ProbeFile,
    PublishedLines,
    Raster,
    SiemensStar,
    SimulationOptions,
    ZonePlate,
)
from ptychi_neural.simulation.simulate import (
    SimulatedScan,
    predict_intensities,
    simulate,
    write_simulation,
)

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
    "ObjectFile",
    "ProbeFile",
    "PublishedLines",
    "Raster",
    "SiemensStar",
    "SimulatedScan",
    "SimulationOptions",
    "ZonePlate",
    "predict_intensities",
    "simulate",
    "write_simulation",
]
