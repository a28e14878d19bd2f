"""Generators: networks that make an object of what a scan tells.

Every file of ``architectures`` is imported, and registers its architecture.
"""

from importlib import import_module
from pkgutil import iter_modules

from ptychi_neural.generators import architectures
from ptychi_neural.generators.contract import Generator
from ptychi_neural.generators.correcting_networks import register_correcting_network
from ptychi_neural.generators.lifters import register_lifter
from ptychi_neural.generators.one_shot import OneShot, OneShotNetwork
from ptychi_neural.generators.register import build_generator, register_architecture

__all__ = [
    "Generator",
    "OneShot",
    "OneShotNetwork",
    "build_generator",
    "register_architecture",
    "register_correcting_network",
    "register_lifter",
]

for _module in iter_modules(architectures.__path__):
    import_module(f"{architectures.__name__}.{_module.name}")
