"""Meta-learning experiments. `metaexp.load(folder)` gives a trained run as an estimator with fit and predict."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaexp.estimator import load as load


def __getattr__(name: str) -> Any:
    if name == "load":  # not before it is used: `import metaexp` stays free of torch
        from metaexp.estimator import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
