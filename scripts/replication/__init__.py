"""Does the project do what it claims? One module a claim, each giving a table and its bars.

They measure through the stages and rooms that everyone uses, on the recipes that ship. Only here
does a teacher answer while its student trains.
"""
