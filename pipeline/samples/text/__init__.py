"""How does text become samples?

Documents are read from files, turned into token ids, cut and laid out in rows; which of their
tokens are asked for follows from the row alone. Models and targets are not known here.
"""
