"""Earlier name of ``ptychi_neural.scans``, which scripts may go on using."""

from ptychi_neural.scans import *  # noqa: F403
from ptychi_neural.scans import __all__ as __all__
