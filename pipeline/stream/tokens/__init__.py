"""Rows of tokens as a cache keeps them: how they are packed, and how they are samples again."""
