"""The structure of the package: few top-level modules, imports only from lower layers, no names that hide others."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

from conftest import ROOT

PACKAGE = ROOT / "metaexp"


def imports() -> Iterator[tuple[str, str, str]]:
    """(part, part that it imports, where), of all imports between parts of metaexp; a part is a module or a package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "metaexp":
                names = [node.module] if node.module != "metaexp" else [f"metaexp.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names if name.name.startswith("metaexp.")]
            else:
                continue
            for name in names:
                part = name.split(".")[1]
                if part != own:
                    yield own, part, f"{file.relative_to(ROOT)}:{node.lineno}"


def layers() -> dict[str, int]:
    """Part -> its layer, from the table in CONTRIBUTING.md: rows "| 3 | `algos` `config` ... |"."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    return {part: int(number) for number, parts in rows for part in re.findall(r"`(\w+)`", parts)}


def test_at_most_16_modules_beside_the_packages():
    modules = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(modules) <= 16, modules
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    learning = {"algos", "encoders", "inner", "models", "outer", "tasks", "training"}
    around = {"audit", "config", "evaluation", "loggers", "plots", "report", "run", "storage", "system"}
    commands = {"adapt", "commands", "contract"}
    assert packages == learning | around | commands


def test_imports_run_down():
    """Includes imports inside functions and for types only, so there is no cycle, and every part has its layer."""
    level = layers()
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(level) == parts - {"__init__", "__pycache__", "conf"}
    up = [f"{where}: {own} ({level[own]}) imports {part} ({level[part]})" for own, part, where in imports()
          if own != "__init__" and level[own] <= level[part]]  # fmt: skip
    assert not up, "\n".join(up)


def run(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=120).strip()


def test_no_public_name_is_a_submodule():
    """Importing the module would hide the function."""
    names = run(
        "import importlib, pkgutil, metaexp\n"
        "for found in pkgutil.walk_packages(metaexp.__path__, 'metaexp.'):\n"
        "    if not found.name.startswith('metaexp.conf') and not found.name.endswith('__main__'):\n"
        "        try: importlib.import_module(found.name)\n"
        "        except ModuleNotFoundError as error: assert error.name in ('mlflow', 'wandb'), error\n"
        "import types\n"
        "public = {name: getattr(metaexp, name) for name in ('load', 'start', 'Run')}\n"
        "print([name for name, value in public.items() if isinstance(value, types.ModuleType)])\n"
        "print(callable(metaexp.load), callable(metaexp.start), metaexp.Run.__name__)"
    )
    assert names.splitlines() == ["[]", "True True Run"]


def test_a_method_imports_no_lightning():
    """Counts modules, not seconds: only torch, numpy, Hydra's errors and metaexp's own are imported."""
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport metaexp.algos.maml\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    found = set(run(code).split())
    assert not found & {"lightning", "pytorch_lightning", "tensorboard", "matplotlib", "scipy", "rich", "pandas"}
    count = "import sys, torch\nbefore = len(sys.modules)\nimport metaexp.algos.maml\nprint(len(sys.modules) - before)"
    assert int(run(count)) < 230  # 22 of metaexp, 140 of Hydra for one class of errors


def test_importing_the_package_imports_no_torch():
    assert run("import sys, metaexp\nprint('torch' in sys.modules, 'hydra' in sys.modules)") == "False False"


def test_every_module_stays_readable():
    """A file has one subject and at most 400 lines."""
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 400}
