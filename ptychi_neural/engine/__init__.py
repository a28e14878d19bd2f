"""The engine: pty-chi's reconstructor with a generator, and the values that make up its run."""

import ptychi.api  # noqa: F401  pty-chi's modules import each other in a circle: this one begins.
