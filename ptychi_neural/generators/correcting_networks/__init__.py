"""Correcting networks of the unrolled generator.

Every file of this folder is imported, and registers its networks.
"""

from importlib import import_module
from pkgutil import iter_modules

from ptychi_neural.generators.correcting_networks.network import (
    CorrectingNetwork,
    register_correcting_network,
)

__all__ = ["CorrectingNetwork", "register_correcting_network"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
