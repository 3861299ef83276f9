"""What all tests of the store share."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the disk out of it: only a power cut could tell, and the tests take half the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
