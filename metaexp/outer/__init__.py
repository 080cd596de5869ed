"""The outer loop: how meta-parameters are learned across tasks."""

from metaexp.outer.schedules import LinearToZero

__all__ = ["LinearToZero"]
