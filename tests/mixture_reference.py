"""The six kinds of functions of the mixture, written down a second time, in numpy."""

import math

import numpy as np

RANGES = {  # as published, written down again
    "sine": [(0.1, 5.0), (0.8, 1.2), (0.0, 2 * math.pi)],
    "line": [(-3, 3), (-3, 3)],
    "quadratic": [(-0.2, 0.2), (-2, 2), (-3, 3)],
    "cubic": [(-0.1, 0.1), (-0.2, 0.2), (-2, 2), (-3, 3)],
    "surface": [(-1, 1), (-1, 1)],
    "ripple": [(-0.2, 0.2), (-3, 3)],
}


def value(name, p, x):
    """f(x) of one kind, x [n, 2], in numpy."""
    u, v = x[:, 0], x[:, 1]
    if name == "sine":
        return p[0] * np.sin(p[1] * u + p[2])
    if name == "surface":
        return p[0] * u**2 + p[1] * v**2
    if name == "ripple":
        return np.sin(-p[0] * (u**2 + v**2)) + p[1]
    return np.polyval(p[: len(RANGES[name])], u)
