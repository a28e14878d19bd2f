"""Lifters: what a generator sees of its input, brought to the width of the network.

Every file of this folder is imported, and registers its lifters.
"""

from importlib import import_module
from pkgutil import iter_modules

from ptychi_neural.generators.lifters.lifter import Lifter, build_lifter, register_lifter

__all__ = ["Lifter", "build_lifter", "register_lifter"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
