"""What the tests of storage share."""

from pathlib import Path

import pytest

from metaexp.storage.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A claimed run folder."""
    return RunFolder.claim_named(tmp_path / "run")
