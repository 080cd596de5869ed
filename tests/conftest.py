"""Shared by all tests: one thread per test, the folder of real data, and the entry points as real processes."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen, TimeoutExpired
from typing import Any

import pytest
from forks import Forks
from tier_record import record

# A process started in the background of a script ignores Ctrl-C, and so do its children; these tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch: one thread, so that sums have one order and parallel test processes do not fight.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
# None of these may leak from the caller's shell into the output of tests, which have no terminal.
for name in ("HYDRA_FULL_ERROR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)


def _choose_cache(setting: str | None) -> None:
    if (cache := sys.modules.get("metaexp.system.cache")) is not None:
        cache.choose(setting)


@pytest.fixture(autouse=True, scope="module")
def _default_cache_in_each_file() -> Iterator[None]:
    """The setting `cache` is the process's own: what the fixtures of one file choose must not reach the next file."""
    _choose_cache(None)
    yield
    _choose_cache(None)


@pytest.fixture(autouse=True)
def _no_cache_setting_left(_default_cache_in_each_file: None) -> Iterator[None]:
    """A run inside one test must not choose the cache of the next."""
    before = getattr(sys.modules.get("metaexp.system.cache"), "_chosen", None)
    yield
    _choose_cache(before)


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage needs to scan it again and again."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", help="run only the tests marked tier(NAME); without it they are left out")
    parser.addoption("--record", action="store_true", help="with --tier: write tests/tiers/NAME.txt")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Records the run of a tier, if that is asked for."""
    if config.getoption("--record") and (tier := config.getoption("--tier")):
        terminalreporter.write_line(f"recorded in {record(tier, terminalreporter)}")


# Files whose few tests take long: they are begun first, so that none is left alone at the end with one process.
LONG = (
    "test_exact_resume test_compiled_step test_graph_cache test_ddp test_from_python test_compare test_single"
    " test_results test_packaging test_processes test_sweep test_train test_evaluate test_run_loggers test_lightning"
    " test_notebook test_export test_adapt test_tables test_estimator test_estimator_sklearn"
).split()


def _late(path: Path) -> bool:
    return path.stem not in LONG


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need minutes or packages of their own are marked `tier("NAME")` and run only when asked for."""
    wanted = config.getoption("--tier")
    others = [item for item in items if wanted != next((m.args[0] for m in item.iter_markers("tier")), None)]
    config.hook.pytest_deselected(items=others)
    left = set(others)
    counts = Counter(item.path for item in items)
    items[:] = sorted((i for i in items if i not in left), key=lambda i: (_late(i.path), -counts[i.path], i.path))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Restores the number of threads after a test that sets it in this process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets: METAEXP_DATA, or ../shared/data beside the checkout; without them the test is skipped."""
    folder = Path(os.environ.get("METAEXP_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder {folder}; set METAEXP_DATA")
    return folder


class Command:
    """`python -m metaexp.train` (or another module) as a real process, in its own folder, from this checkout.

    Calling it runs the command to its end within `timeout` seconds, or kills the whole process group and fails:
    `result = train("algo=maml", "steps=2"); assert result.returncode == 0, result.stderr`. `start` returns the running
    process, for tests that send signals; it leads its own process group, and is killed if it outlives the test.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._started: list[Popen[str]] = []

    def start(self, *args: object, module: str = "metaexp.train", cwd: Path | None = None, **env: str) -> Popen[str]:
        """Starts it; standard output and error are pipes of text. Keyword arguments are environment variables."""
        process = Popen(
            [sys.executable, "-m", module, *map(str, args)],
            cwd=cwd or self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            start_new_session=True,  # in a shell's background job it would inherit an ignored SIGINT
        )
        self._started.append(process)
        return process

    def __call__(
        self, *args: object, timeout: float = 120, module: str = "metaexp.train", cwd: Path | None = None, **env: str
    ) -> CompletedProcess[str]:
        """Runs it to its end."""
        process = self.start(*args, module=module, cwd=cwd, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except TimeoutExpired:
            self.kill(process)
            out, err = process.communicate()
            pytest.fail(f"{process.args} still ran after {timeout} s\n{out[-2000:]}\n{err[-4000:]}")
        return CompletedProcess(process.args, process.returncode, out, err)

    @staticmethod
    def kill(process: Popen[str]) -> None:
        """SIGKILL for the process and all its children. Only before it is waited for: later its id may be reused."""
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kills everything that is still running."""
        for process in self._started:
            self.kill(process)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Command]:
    """`train("algo=maml", "steps=2", timeout=60)` runs `python -m metaexp.train` in tmp_path: see Command."""
    command = Command(tmp_path)
    yield command
    command.close()


@pytest.fixture(scope="module")
def module_train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The same for module-scoped fixtures: one run that several tests of a file inspect."""
    command = Command(tmp_path_factory.mktemp("runs"))
    yield command
    command.close()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """`forks("algo=maml", "steps=2", cwd=folder)` runs the same command in a fork of one process: see forks.py."""
    made = Forks(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
