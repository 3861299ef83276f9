"""What is disturbed: a command line in a process of its own, and the small cache that it makes."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROWS = 64
RECIPE = """\
name = "chaos"
[data.train]
kind = "arrays"
inputs = "inputs.npy"
[teacher]
model = { kind = "python", factory = "slow_models:teacher" }
batch_size = 2
threads = 1
device = "cpu"
[targets]
selection = { kind = "top_k", k = 3 }
[cache]
path = "undisturbed"
rows_per_part = 4
"""
MODELS = '''\
"""A teacher that takes its time."""

import time

import torch
from torch import nn


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 10)

    def forward(self, inputs):
        time.sleep(0.01)
        return self.linear(inputs.flatten(1))


def teacher():
    return Slow()
'''
# Shorter than those of real use, so that a round sees leases run out, too.
LEASE_S, RENEW_S = 1.5, 0.2


def write_laboratory(folder: Path) -> Path:
    """Write data, teacher and recipe; gives the recipe."""
    images = np.random.Generator(np.random.Philox(0)).standard_normal((ROWS, 4, 4), np.float32)
    np.save(folder / "inputs.npy", images)
    (folder / "slow_models.py").write_text(MODELS)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder / "recipe.toml"


def run(words: list[str], environment: Mapping[str, str], log: str) -> None:
    """Be the command line, in a process that was forked for it."""
    # A shell ignores Ctrl-C for what it runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    from pipeline.cli import main
    from pipeline.store.places import leases

    leases.LEASE_S, leases.RENEW_S = LEASE_S, RENEW_S
    sys.argv = ["pipeline", *words]
    main()
