"""``python -m ptychi_neural`` is the ``ptychi-neural`` command."""

from ptychi_neural.cli import main

main()
