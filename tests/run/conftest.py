"""Shared by the tests of runs."""

import pytest
from forks import Forks
from stopped_runs import References


@pytest.fixture(scope="session")
def references(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> References:
    """`references["accumulate"]` is the folder of a run that was never stopped."""
    return References(forks, tmp_path_factory)
