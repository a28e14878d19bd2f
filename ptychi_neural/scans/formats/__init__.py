"""File formats, one file each.

A new format is one new file in this folder: a class with ``@register_reader("name")``, a function
with ``@register_writer("name")``, or both. Formats elsewhere register in the same way.
"""

from ptychi_neural.scans.formats.registry import (
    READERS,
    WRITERS,
    Reader,
    import_formats,
    reader_of,
    register_reader,
    register_writer,
)

import_formats(__path__, __name__)

__all__ = ["READERS", "WRITERS", "Reader", "reader_of", "register_reader", "register_writer"]
