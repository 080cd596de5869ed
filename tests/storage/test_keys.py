"""One table says what each key of a configuration counts for."""

import yaml

from metaexp.config.compose import config_dir
from metaexp.config.settings import load
from metaexp.storage.saved_config import KEYS, Key, config_sha256, key_of


def test_the_table_names_keys_that_exist() -> None:
    written = {"sweep", "trusted", "typed", "command", "parent"}
    assert set(KEYS) <= set(load([])) | written
    assert not written & set(yaml.safe_load((config_dir() / "train.yaml").read_text()))
    assert key_of("algo.inner_lr") == key_of("seed") == key_of("choices.algo") == Key()
    assert key_of("choices.device") == key_of("device.threads") == KEYS["device"]


def test_the_hash_covers_the_fixed_keys_alone() -> None:
    config = load([])
    for key, value in config.items():
        changed = config_sha256(config | {key: [value]}) != config_sha256(config)
        assert changed == key_of(key).fixed, key


def test_what_may_change_on_resume_what_a_report_compares_and_what_hparams_show() -> None:
    assert {key for key in KEYS if not KEYS[key].fixed} == {
        "steps", "device", "out", "name", "resume", "time_limit", "sweep", "test", "trust", "trusted", "typed",
        "logger", "callbacks", "trainer", "watchdog", "jobs", "seeds", "encoder", "cache",
        "figures", "from", "start", "debug", "command",
    }  # fmt: skip
    assert {key for key in KEYS if not KEYS[key].compared} == {
        "out", "name", "resume", "time_limit", "watchdog", "sweep", "trust", "trusted", "typed", "log", "checkpoint",
        "logger", "callbacks", "trainer", "jobs", "seeds", "cache", "figures", "from", "start", "command",
    }  # fmt: skip
    assert {key for key in KEYS if not KEYS[key].shown} == {
        "typed", "sweep", "trust", "trusted", "out", "resume", "logger", "callbacks", "trainer", "watchdog", "jobs",
        "seeds", "cache", "figures", "from", "start", "command", "parent",
    }  # fmt: skip
