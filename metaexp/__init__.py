"""Meta-learning experiments.

`metaexp.start("algo=maml", "task=sine")` trains and tests one run; `metaexp.load(folder)` gives a trained run as an
estimator with fit and predict.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaexp.estimator import load as load
    from metaexp.from_python import Run as Run
    from metaexp.from_python import start as start


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used: `import metaexp` stays free of torch and of Hydra."""
    if name == "load":
        from metaexp.estimator import load

        return load
    if name in ("Run", "start"):
        from metaexp import from_python

        return getattr(from_python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
