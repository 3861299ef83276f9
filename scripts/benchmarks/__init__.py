"""What guide/measured.md says of costs, measured: one module is one subcommand of `scripts/bench`.

Every figure but one is a ratio of two things timed side by side in one process, turn by turn, so
that a busy machine slows both. Nothing here is imported by the project.
"""
