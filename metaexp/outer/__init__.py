"""The outer loop: how meta-parameters are learned across tasks."""

from typing import TYPE_CHECKING, Any

from metaexp.outer.schedules import LinearToZero

if TYPE_CHECKING:
    from metaexp.outer.meta_training import MetaTraining as MetaTraining

__all__ = ["LinearToZero", "MetaTraining"]


def __getattr__(name: str) -> Any:
    if name == "MetaTraining":  # imported only when used: Lightning takes seconds to import
        from metaexp.outer.meta_training import MetaTraining

        return MetaTraining
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
