"""The physics of a scan: pty-chi's forward model adapted, stitching, losses, splits of pixels."""

import ptychi.api  # noqa: F401  pty-chi's modules import each other in a circle: this one begins.

from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.stitching import Canvas, Stitching

__all__ = ["Canvas", "ScanForwardModel", "ScanPhysics", "Stitching"]
