"""Which file formats there are: readers and writers by name."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import h5py
from numpy.typing import ArrayLike

from ptychi_neural.scans.beamline import Instrument
from ptychi_neural.scans.diffraction import Diffraction, read_stack, stack_shape
from ptychi_neural.scans.hdf5 import StrPath, damage_told, opened
from ptychi_neural.scans.links import contents
from ptychi_neural.scans.numpy_files import npz_names
from ptychi_neural.scans.preparation import Unit
from ptychi_neural.scans.scan import Scan


class Reader:
    """A file format that can be read. A format overrides what its files hold."""

    name: str = ""
    """Name under which the format is registered."""

    files: str = ""
    """What its files are, in a few words for messages."""

    position_unit: Unit = "m"
    """Unit of its positions where they have no other."""

    patterns: tuple[str, ...] = ()
    """Where patterns are looked for in its HDF5 files."""

    is_last: bool = False
    """Whether the format is so general that any other that recognises a file goes first."""

    folders: bool = False
    """Whether a folder of files makes a scan."""

    def recognises(self, path: Path) -> bool:
        """Whether an existing file is of this format."""
        raise NotImplementedError

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        """Read patterns and mask.

        Parameters
        ----------
        path : path
            The file.
        frame_indexes : array_like of int, optional
            (n,) numbers of the frames to read, in this order; None: all.
        """
        if not self.patterns:
            raise ValueError(f"{path}: a file of the format {self.name!r} holds no patterns here.")
        return read_stack(path, frame_indexes, self.patterns)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        """(n, h, w) of the patterns, without reading them where the format allows it."""
        if not self.patterns:
            return self.read_diffraction(path).patterns.shape
        with opened(path) as file:
            return stack_shape(file, self.patterns)

    def read_product(self, path: StrPath) -> Scan:
        """Read all of a scan but its patterns.

        A probe or an object that the file does not have is an array of size 0 in the scan;
        ``load_scan`` puts a guess in its place.
        """
        raise ValueError(
            f"{path} ({self.name}) holds patterns but no positions; give a product that belongs to "
            "it as well."
        )

    def read_instrument(self, path: StrPath) -> Instrument:
        """Read what a file of patterns tells of beam and detector, for positions from elsewhere."""
        return Instrument()

    def unit_of_positions(self, path: StrPath) -> Unit:
        """Unit of the positions of a file, if it has no other."""
        return self.position_unit

    def product_beside(self, path: Path) -> Path | None:
        """The name of a file of this format that would belong to a file of patterns."""
        return None


MOST_TOLD = 8
"""Arrays that the message on a file of no known format names."""

TO_NUMPY = {
    ".mat": "scipy.io.loadmat(FILE)[NAME]",
    **dict.fromkeys((".cbf", ".edf"), "[fabio.open(file).data for file in FILES]"),
}
"""What gives the patterns in files that no reader takes."""

READING = ("recognises", "read_diffraction", "stack_shape", "read_product", "read_instrument")
"""What a reader does with a file, whose errors name the file."""

Writer = Callable[[Path, Scan], None]
"""A function that writes a scan into a new file."""

READERS: dict[str, Reader] = {}
WRITERS: dict[str, Writer] = {}

ReaderClass = TypeVar("ReaderClass", bound=type[Reader])


class _Register(Protocol):
    def __call__(self, reader: ReaderClass, /) -> ReaderClass: ...


def register_reader(name: str) -> _Register:
    """Make a class a reader of files, as a decorator.

    Parameters
    ----------
    name : str
        Name of the format.

    Examples
    --------
    >>> @register_reader("empty")
    ... class Empty(Reader):
    ...     files = "files without anything"
    ...
    ...     def recognises(self, path):
    ...         return path.stat().st_size == 0
    >>> READERS.pop("empty").name
    'empty'
    """

    def register(reader: ReaderClass) -> ReaderClass:
        registered = READERS[name] = reader()
        registered.name = name
        for method in READING:
            setattr(registered, method, _telling_damage(getattr(registered, method)))
        return reader

    return register


def _telling_damage(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def telling(path: StrPath, *arguments: Any) -> Any:
        with damage_told(path):
            return method(path, *arguments)

    return telling


def register_writer(name: str) -> Callable[[Writer], Writer]:
    """Make a function a writer of files, as a decorator.

    Parameters
    ----------
    name : str
        Name of the format.
    """

    def register(writer: Writer) -> Writer:
        WRITERS[name] = writer
        return writer

    return register


def import_formats(folder: Sequence[str], package: str) -> None:
    """Import every file of a folder, so that the formats in it are registered."""
    for module in pkgutil.iter_modules(folder):
        importlib.import_module(f"{package}.{module.name}")


def reader_of(path: StrPath) -> Reader:
    """Find the reader of a file: the only one that recognises it.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or no or several formats recognise it.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise ValueError(
            f"{path} is a pipe or a device: write what comes out of it to a file, or follow frames "
            "that are sent with infer --follow."
        )
    readers = [reader for _, reader in sorted(READERS.items())]
    if Path(path).is_dir():
        readers = [reader for reader in readers if reader.folders]
    found = [reader for reader in readers if reader.recognises(Path(path))]
    found = [reader for reader in found if not reader.is_last] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(reader.name for reader in found)
        raise ValueError(f"{path} looks like {names}; name the dataset of its patterns.")
    raise ValueError(unknown(path))


def unknown(path: StrPath) -> str:
    """The message for a file that no reader recognises."""
    archive = () if h5py.is_hdf5(path) else npz_names(Path(path))
    held = _held(path) if h5py.is_hdf5(path) else [repr(name) for name in sorted(archive)]
    if held:
        return (
            f"{path} has patterns under no usual name, and no product. It holds "
            f"{', '.join(held[:MOST_TOLD])}. Name them: "
            "data.datasets = { patterns = ..., y = ..., x = ... }."
        )
    if Path(path).is_dir():
        return (
            f"{path} is a folder, and has neither TIFF files with numbers in their names nor a "
            f"result: name the file of patterns.{_converted(path)}"
        )
    known = "; ".join(f"{name}: {reader.files}" for name, reader in sorted(READERS.items()))
    what = (
        "holds no arrays"
        if h5py.is_hdf5(path)
        else "is not an HDF5 file, nor a NumPy one; it may be truncated or of another format"
    )
    return f"{path} {what}. Formats that can be read are {known}.{_converted(path)}"


def _converted(path: StrPath) -> str:
    """How a file, or the files of a folder, become one that can be read, where that is known."""
    files = Path(path).iterdir() if Path(path).is_dir() else [Path(path)]
    ways = {TO_NUMPY[file.suffix.lower()] for file in files if file.suffix.lower() in TO_NUMPY}
    return "".join(
        f' Convert it first, with frames along the first axis: numpy.save("patterns.npy", {way}).'
        for way in sorted(ways)
    )


def _held(path: StrPath) -> list[str]:
    """Names and shapes of the largest arrays of an HDF5 file."""
    with opened(path) as file:
        found = [
            (item.size, f"{name!r} {item.shape}")
            for name, item in contents(file)
            if isinstance(item, h5py.Dataset) and item.size and item.ndim
        ]
    return [told for _, told in sorted(found, key=lambda pair: -pair[0])[:MOST_TOLD]]
