"""What is measured on the tasks of a table."""

from metaexp import metrics


def table_metrics(unit: float | None, ordered: bool, first: str | None) -> dict[str, metrics.Metric]:
    """Metrics by name.

    Args:
        unit: deviation by which the target was divided, so that mse, rmse and mae are in its own unit; None: classes.
        ordered: the rows of a task are a trajectory: also mase, the error relative to "as before".
        first: the metric that chooses the best weights; None: mse, or accuracy.

    Raises ValueError for a first metric that is not there.
    """
    if unit is None:
        every = [metrics.accuracy, metrics.balanced_accuracy, metrics.auc, metrics.class_log_likelihood]
    else:
        factors = ((metrics.mse, unit**2), (metrics.rmse, unit), (metrics.mae, unit))
        every = [metrics.in_units(metric, factor) for metric, factor in factors] + [metrics.mase] * ordered
    found = {metric.name: metric for metric in every}
    if first is not None and first not in found:
        raise ValueError(f"metric={first}: must be one of {', '.join(found)}")
    return dict(sorted(found.items(), key=lambda item: item[0] != first)) if first else found
