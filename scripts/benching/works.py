"""The works (workloads): for each, the settings of `python -m metaexp.train` that match the peers' common.py."""

from dataclasses import dataclass, field

Settings = dict[str, str]


@dataclass(frozen=True)
class Work:
    """One workload of the benchmark.

    Attributes:
        kind: sine | reptile | omni | anil | proto, as in the peers' common.py.
        algo: our algorithm; a work whose algorithm is not in conf/algo is left out.
        settings: key -> value, including groups (algo, task, optimizer).
        steps, every: outer steps of one run of ours, and between its rows of metrics: at least 8 rows.
        peer_steps: timed steps of a PyTorch peer (the JAX peers of the small networks: see `peers`).
    """

    kind: str
    algo: str
    settings: Settings = field(default_factory=dict)
    steps: int = 4000
    every: int = 100
    peer_steps: int = 200

    @property
    def omniglot(self) -> bool:
        """Whether it needs the Omniglot data."""
        return self.settings["task"] == "omniglot"


_SINE = {"task": "sine", "task.shots": "10", "task.queries": "10", "meta_batch": "25", "model.hidden": "[40,40]"}
_ADAM = {"optimizer": "adam", "optimizer.lr": "0.001", "optimizer.schedule": "null"}
_REPTILE = {
    **{"algo": "reptile", "task": "sine", "task.shots": "50", "task.queries": "1", "model.hidden": "[40,40]"},
    **{"algo.inner_batch": "10", "algo.inner_steps": "32", "algo.inner_lr": "0.02", "algo.test_steps": "1"},
    **{"optimizer": "sgd", "optimizer.lr": "0.1", "optimizer.schedule": "null"},
}
_PICTURES = {"task": "omniglot", "task.ways": "5", "task.shots": "1", "task.queries": "15", "meta_batch": "32"}
_STRIDE = {"model": "cnn4", "model.down": "stride", "model.readout": "mean"}
_POOL = {"model": "cnn4", "model.down": "pool", "model.readout": "flatten"}


def _maml(algo: str, steps: int, lr: str) -> Settings:
    inner = {"algo.inner_steps": str(steps), "algo.inner_lr": lr, "algo.test_steps": "1"}
    # The peers adapt every parameter, whereas our Omniglot pair does not adapt the norms; and their ANIL passes support
    # and queries through the body in one batch.
    return {"algo": algo, **inner, **({"algo.normalise": "running"} if algo == "anil" else {"algo.adapt": '["*"]'})}


def _proto(ways: int) -> Settings:
    sizes = {"task.ways": str(ways), "task.shots": "5", "task.queries": "5", "meta_batch": "1"}
    sizes["algo.normalise"] = "running"
    return {"algo": "protonet", **_PICTURES, **_POOL, **_ADAM, **sizes}


WORKS = {
    "sine-maml": Work("sine", "maml", {**_SINE, **_ADAM, **_maml("maml", 1, "0.01")}),
    "sine-maml5": Work("sine", "maml", {**_SINE, **_ADAM, **_maml("maml", 5, "0.01")}, 2000),
    "sine-fomaml": Work("sine", "fomaml", {**_SINE, **_ADAM, **_maml("fomaml", 5, "0.01")}, 2000),
    "sine-reptile": Work("reptile", "reptile", {**_REPTILE, "meta_batch": "1"}),
    "sine-reptile-b5": Work("reptile", "reptile", {**_REPTILE, "meta_batch": "5"}, 2000),
    "omniglot-maml": Work("omni", "maml", {**_PICTURES, **_STRIDE, **_ADAM, **_maml("maml", 1, "0.4")}, 20, 2, 12),
    "omniglot-maml-pool": Work(
        "omni", "maml", {**_PICTURES, **_POOL, **_ADAM, **_maml("maml", 5, "0.4"), "meta_batch": "4"}, 20, 2, 6
    ),
    "omniglot-anil": Work("anil", "anil", {**_PICTURES, **_STRIDE, **_ADAM, **_maml("anil", 5, "0.1")}, 20, 2, 12),
    "omniglot-protonet": Work("proto", "protonet", _proto(60), 30, 3, 30),
    "omniglot-protonet20": Work("proto", "protonet", _proto(20), 60, 6, 30),
}


def overrides(settings: Settings) -> list[str]:
    """The arguments of the command line, groups first."""
    groups = ("algo", "task", "model", "optimizer", "device")
    return [f"{key}={settings[key]}" for key in groups if key in settings] + [
        f"{key}={value}" for key, value in settings.items() if key not in groups
    ]
