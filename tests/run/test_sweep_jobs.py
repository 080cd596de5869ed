"""The jobs of a sweep."""

import pytest

from metaexp.run.sweep_jobs import job_name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ("algo.inner_lr=1e+30,seed=1", "3_algo.inner_lr=1e+30,seed=1"),  # not 1e-30
        ("algo.inner_lr=1e-30", "3_algo.inner_lr=1e-30"),
        ("++algo.inner={a:1},seed=2", "3_algo.inner=-a-1-,seed=2"),
        ("name=a+b", "3_name=a-b"),
        ("", "3"),
    ],
)
def test_a_job_is_named_by_its_values(values: str, name: str) -> None:
    assert job_name(3, values) == name
