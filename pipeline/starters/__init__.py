"""What does one begin with? Commented recipes for each kind of work, and small data they run on.

The recipes are handed to users as they are; the data is made of what ships with the project.
"""

from pipeline.starters.copying import STARTERS, Starter, commands_of, first_line, write_starter

__all__ = ["STARTERS", "Starter", "commands_of", "first_line", "write_starter"]
