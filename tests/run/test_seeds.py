"""`seeds=[...]` from end to end: each run equals one started alone, after a kill too, and fails alone."""

from pathlib import Path

import torch
from forks import Forks
from stopped_runs import status

from metaexp.storage.checkpoint_file import load
from metaexp.storage.metrics_log import read_rows

BAD = '''
import os, signal
from pathlib import Path
from metaexp.tasks.sine import Sine

class Bad(Sine):
    """Sinusoids whose seed 1 kills its process in the middle of training, once; the targets of seed 2 are NaN."""

    def __init__(self, *args, mark="", **kwargs):
        super().__init__(*args, **kwargs)
        self.own, self.mark = kwargs.get("seed"), Path(mark)
        self.count = 0

    def sample(self, split, *args, **kwargs):
        episode = super().sample(split, *args, **kwargs)
        late = split == "val" and self.count > 1
        self.count += split == "val"
        if late and self.own == 1 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if split == "train" and self.own == 2:
            episode.query.y.fill_(float("nan"))
        return episode
'''
TINY = (
    "algo=maml model.hidden=[4] meta_batch=2 steps=6 val.every=3 checkpoint.every=3 val.tasks=5 test.tasks=10 "
    "test.curve_shots=[] compile=false device=cpu log.every=2"
).split()


def own_task(folder: Path) -> None:
    (folder / "mine_bad/task").mkdir(parents=True)
    (folder / "mine_bad/__init__.py").touch()
    (folder / "mine_bad/bad.py").write_text(BAD)
    text = f'# sinusoids\ndefaults: [sine]\n_target_: mine_bad.bad.Bad\nmark: "{folder / "mark"}"\n'
    (folder / "mine_bad/task/bad.yaml").write_text(text)


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def numbers(run: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """Weights at the end, and rows without times."""
    weights = load(run / "checkpoints/step=000000006.ckpt", torch.device("cpu"))["state_dict"]
    timed = ("seconds", "meta_steps_per_s")
    return weights, [{key: value for key, value in row.items() if key not in timed} for row in read_rows(run)]


def test_each_seed_is_a_run_of_its_own(forks: Forks, tmp_path: Path) -> None:
    own_task(tmp_path)
    words = ["--config-dir", "mine_bad", "task=bad", *TINY]
    first = forks(*words, "seeds=[0,1,2]", cwd=tmp_path)
    assert first.code == 1, first.err
    folder = newest(tmp_path / "outputs")
    ended = [status(folder / f"{seed}_seed={seed}") for seed in range(3)]
    assert ended == [("finished", 0), ("running", 137), ("failed", 5)]  # running without a lock: killed
    again = forks(*words, "seeds=[0,1]", "resume=auto", cwd=tmp_path)
    assert again.code == 0, again.err
    assert "1 finished before and are linked, 1 to run" in again.out
    for seed in (0, 1):
        alone = forks(*words, f"seed={seed}", f"out=alone{seed}", cwd=tmp_path)
        assert alone.code == 0, alone.err
        weights, rows = numbers(newest(tmp_path / "outputs") / f"{seed}_seed={seed}")
        others, other_rows = numbers(newest(tmp_path / f"alone{seed}"))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
        assert rows == other_rows
