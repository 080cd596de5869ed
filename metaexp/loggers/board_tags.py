"""Under which tags TensorBoard shows a run's numbers, and how its charts are put together.

TensorBoard sorts the groups of its charts by name: `test`, `train`, `val`, and `val_steps` with the many curves of
single inner steps. A baseline stands among the curves of its metric instead of in a group of its own:

    val/<metric>/after  before  baseline_mean  baseline_scratch  upper_bound_oracle  val/<metric>_per_task (histogram)
    val_steps/<metric>/step_00  step_01  ...  low  high  (95 % interval of `after`)  val/inner_gradient_norm
    test/<metric>_by_kind/<kind>  test/<metric>_per_task (histogram)
    train/outer_loss  train/meta_gradient_norm  train/learning_rate  train/outer_steps_per_s

Other loggers get the tags as the run names them: val/<metric>/step_00, after_low, floor/<baseline>/<metric>,
speed/meta_steps_per_s.
"""

import re
from collections.abc import Sequence
from typing import Any

STEPS = "(00|01|02|05|10|20|50)"  # inner steps whose curves share a chart: with `after`, eight lines


def baseline_tag(name: str) -> str:
    """What a baseline or upper bound is called under a metric."""
    return "upper_bound_oracle" if name == "oracle" else f"baseline_{name}"


def shown_tag(tag: str) -> str:
    """TensorBoard's tag for one of a run's tags (see the module)."""
    if tag == "speed/meta_steps_per_s":
        return "train/outer_steps_per_s"
    if found := re.fullmatch(r"floor/([^/]+)/(.+)", tag):
        return f"val/{found[2]}/{baseline_tag(found[1])}"
    if found := re.fullmatch(r"val/(.+)/(?:(step_\d+)|after_(low|high))", tag):
        return f"val_steps/{found[1]}/{found[2] or found[3]}"
    return tag


def charts_of(metrics: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The categories and charts of the dashboard "Custom scalars"; of one run, a chart has at most eight lines.

    TensorBoard merges the layouts of a tree by title, so that the categories are the same in every run.
    """
    charts: dict[str, dict[str, list[Any]]] = {}
    for metric in metrics:
        name = re.escape(metric)
        charts[f"validation: {metric}"] = {
            f"{metric} before and after adaptation, beside the baselines": [
                "Multiline",
                [f"val/{name}/(after|before)$", f"val/{name}/(baseline|upper_bound)_[^/]+$"],
            ],
            f"{metric} after adaptation, 95 % interval": [
                "Margin",
                [f"val/{metric}/after", f"val_steps/{metric}/low", f"val_steps/{metric}/high"],
            ],
            # Fifty lines of one colour are unreadable; all steps are under "Scalars".
            f"{metric} after 0, 1, 2, 5, 10, 20, 50 inner steps and the last": [
                "Multiline",
                [rf"val_steps/{name}/step_{STEPS}$", f"val/{name}/after$"],
            ],
        }
    charts["training"] = {
        "outer loss": ["Multiline", ["train/outer_loss$"]],
        "meta-gradient norm": ["Multiline", ["train/meta_gradient_norm$"]],
        "inner gradient norm": ["Multiline", ["val/inner_gradient_norm$"]],
        "rates": ["Multiline", ["train/.*rate$"]],
        "outer steps per second": ["Multiline", ["train/outer_steps_per_s$"]],
    }
    return charts
