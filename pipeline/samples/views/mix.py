"""Temporary."""

import numpy as np

from pipeline.keyed import draw_uniform


def draw_partners(keys, part_rows):
    return np.floor(draw_uniform(keys, 1)[:, 0] * part_rows).astype(np.int64)


def mix(kind, inputs, partners, keys, alpha):
    lam = np.rint(draw_uniform(keys, 1)[:, 0] * 256) / 256
    l = lam.reshape(-1, *(1 for _ in inputs.shape[1:]))
    return np.rint(l * inputs + (1 - l) * partners).astype(inputs.dtype), lam.astype(np.float32)
