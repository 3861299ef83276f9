"""`python -m pipeline` is the command line, for launchers that take a module."""

from pipeline.cli import main

main()
