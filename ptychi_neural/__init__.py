"""A neural reconstruction engine for ptychography inside pty-chi.

Importing this package registers the engine with pty-chi. Only the command line postpones that
until it needs the engine, so that ``ptychi-neural --help`` answers without loading torch.
"""

import itertools
import sys
from pathlib import Path

from ptychi_neural.earlier_names import keep_earlier_names

__version__ = "0.1.0"

keep_earlier_names()

_IS_COMMAND = (
    Path(sys.argv[0] if sys.argv else "").stem == "ptychi-neural"
    or ("-m", "ptychi_neural") in itertools.pairwise(sys.orig_argv)  # python -m ptychi_neural
)

if not _IS_COMMAND:
    from ptychi_neural.engine.registration import register

    register()
