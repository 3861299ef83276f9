"""The steps a person runs; one file is one command, and stages never import each other."""
