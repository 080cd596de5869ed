"""A result, as result.json holds it, for tests of what is made of it."""

RESULT = {
    "algo": "maml",
    "task": "sine",
    "model": "mlp",
    "seed": 3,
    "steps": 20000,
    "weights": {"kind": "best", "step": 18000},
    "test": {
        "mse": {
            "mean": 0.41234,
            "ci95": 0.0312,
            "tasks": 1000,
            "diverged": 2,
            "per_step": [{"mean": 4.02, "ci95": 0.1}, {"mean": 0.7, "ci95": 0.1}, {"mean": 0.41234, "ci95": 0.0312}],
        },
        "mae": {"mean": 0.5, "ci95": 0.01, "tasks": 1000, "per_step": []},
    },
    "floors": {"scratch": {"mse": {"mean": 2.41, "ci95": 0.1}}, "mean": {"mse": {"mean": 4.1, "ci95": 0.12}}},
    "speed": {"meta_steps_per_s": 900.12, "seconds": 3731.0},
}
