"""The engine: pty-chi's reconstructor with a generator, and the values that make up its run."""
