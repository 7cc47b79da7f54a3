"""``python -m gesta`` is the ``gesta`` command."""

from gesta.cli import main

main()
