"""Output folders that hold a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from hipie.config import add_hipie_config
from hipie.engine.output_folder import (
    RUN_FILES,
    OutputFolderError,
    changed_keys,
    require_fresh_folder,
    saved_value,
)


@pytest.mark.parametrize("pattern", RUN_FILES)
def test_another_run_is_refused_or_removed(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.yaml").write_text("SEED: 1")
    require_fresh_folder(tmp_path)
    (tmp_path / pattern.replace("*", "0000003")).write_text("")
    with pytest.raises(OutputFolderError, match=r"--resume continues it, --overwrite removes it"):
        require_fresh_folder(tmp_path)
    require_fresh_folder(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_missing_folder_is_fresh(tmp_path: Path) -> None:
    require_fresh_folder(tmp_path / "none")


def test_folders_of_the_other_run_are_removed(tmp_path: Path) -> None:
    for name in ("model_0000003.dcp", "inference"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    require_fresh_folder(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_changed_keys_are_those_that_differ(tmp_path: Path) -> None:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path)
    assert changed_keys(cfg) == []
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert changed_keys(cfg) == []
    assert saved_value(cfg, "SEED") == 0
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5, "SOLVER.STEPS", (7,)])
    assert changed_keys(cfg) == ["SOLVER.BASE_LR: 0.0001 -> 0.5", "SOLVER.STEPS: [30000] -> [7]"]
    (tmp_path / "config.yaml").write_text("[broken")
    assert changed_keys(cfg) == []
