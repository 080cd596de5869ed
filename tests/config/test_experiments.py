"""The published rows keep their settings, whatever the defaults become.

`python tests/config/test_experiments.py` writes the settings as they are now to experiments.json; do that only with a
line in CHANGELOG that says which published row changes and why.
"""

import json
from pathlib import Path
from typing import Any

from metaexp.config.overrides import parse
from metaexp.config.settings import Settings
from metaexp.nested import leaves

FILE = Path(__file__).with_name("experiments.json")
NEEDS = {"arrays_finetune": ["task.files=[base.npz,new.npz]"]}


def composed() -> dict[str, dict[str, Any]]:
    settings, made = Settings([]), {}
    for name in sorted(settings.composer.options("experiment")):
        config = settings.load(parse([f"experiment={name}", *NEEDS.get(name, [])]))
        kept = {key: value for key, value in config.items() if key not in ("typed", "trusted")}
        made[name] = json.loads(json.dumps(dict(leaves(kept))))
    return made


def test_every_published_row_has_the_settings_it_was_run_with() -> None:
    now = composed()
    published = json.loads(FILE.read_text())
    assert sorted(now) == sorted(published)
    for name, settings in published.items():
        # A setting that is new since then may be there; none that was there may have changed.
        changed = {key: (value, now[name].get(key)) for key, value in settings.items() if now[name].get(key) != value}
        assert not changed, f"{name}: {changed}"


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in composed().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
