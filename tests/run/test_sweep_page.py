"""The page and the event file of a sweep, on runs whose scores are made up."""

import re
from pathlib import Path

import numpy as np
import pytest
from report_tables import write as write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaexp.run.sweep_page import write


def test_a_sweep_has_a_page_and_its_pictures_in_tensorboard(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(1, 0.1, (30, 1))
    for algo, shift in (("maml", 0.0), ("anil", 1.0)):
        write_run(tmp_path, algo, scores + shift)
    shown = write(tmp_path)
    assert shown == tmp_path / "report.html"
    page = shown.read_text()
    (mean,) = re.findall(r"<td>maml</td><td>([\d.]+)</td>", page)
    assert float(mean) == pytest.approx(scores.mean(), abs=0.0006)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (tag,) = events.Tags()["images"]
    assert tag == "test_comparison/adaptation_sine_mse"  # after the group of the test metrics
    (image,) = events.Images(tag)
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert 500 < image.width < 700  # readable where TensorBoard shows it 360 pixels wide


def test_what_goes_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algo in ("maml", "anil"):
        write_run(tmp_path, algo, np.ones((3, 1)))
    (tmp_path / "report.html").mkdir()
    assert write(tmp_path) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"metaexp: warning: {tmp_path}/report.html left out: ")


def test_a_single_run_needs_no_comparison(tmp_path: Path) -> None:
    write_run(tmp_path, "maml", np.ones((3, 1)))
    assert write(tmp_path) is None
    assert not (tmp_path / "report.html").exists()
