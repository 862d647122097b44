"""The files that engines' words go to."""

from __future__ import annotations

import os
from pathlib import Path

from belvedere.engines.logs import EngineLog


def test_old_files_of_other_engines_go_and_the_newest_stay(tmp_path: Path) -> None:
    for number in range(100):
        file = tmp_path / f"engine-{number}.log"
        file.write_text("words")
        os.utime(file, (number, number))
    (tmp_path / "notes.txt").write_text("not ours")
    log = EngineLog("new", [], tmp_path)
    log.line("hello")
    log.close()
    left = {file.name for file in tmp_path.iterdir()}
    assert {"new.log", "engine-99.log", "notes.txt"} <= left
    assert "engine-0.log" not in left
    assert len(left) <= 62


def test_a_file_that_goes_while_old_ones_are_looked_for_costs_no_log(tmp_path: Path) -> None:
    (tmp_path / "going.log").symlink_to(tmp_path / "gone")
    log = EngineLog("new", [], tmp_path)
    log.line("hello")
    log.close()
    assert "hello" in (tmp_path / "new.log").read_text()
