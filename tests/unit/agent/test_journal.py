"""A journal survives being cut anywhere."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from belvedere.agent.journal import Journal, read_journal
from belvedere.errors import InputFileError

ROWS = [{"row": 0, "text": "grün ☃"}, {"row": 1, "text": "a\nb"}, {"row": 2}]


def written(path: Path) -> bytes:
    with Journal(path) as journal:
        for row in ROWS:
            journal.append(row)
    return path.read_bytes()


def test_cut_at_every_byte_it_keeps_the_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    data = written(path)
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        whole = data[:end].count(b"\n")
        assert list(read_journal(path)) == ROWS[:whole]
        with Journal(path) as journal:
            journal.append({"row": "new"})
        assert list(read_journal(path)) == [*ROWS[:whole], {"row": "new"}]


def test_a_last_line_longer_than_a_block_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"row": 0}\n{"text": "' + b"x" * 200_000)
    with Journal(path) as journal:
        assert journal.repaired_bytes > 200_000
    assert path.read_bytes() == b'{"row": 0}\n'


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path), pytest.raises(InputFileError, match="Another process"):
        Journal(path)


def test_a_line_that_is_whole_and_no_object_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for line in (b"{]\n", b"[1]\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(b'{"row": 0}\n' + line)
        with pytest.raises(InputFileError, match="Line 2"):
            list(read_journal(path))


def test_replacing_keeps_the_lock_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(path)
    with Journal(path) as journal:
        journal.replace(ROWS[:1])
        with pytest.raises(InputFileError, match="Another process"):
            Journal(path)
        journal.append({"row": 9})
    assert list(read_journal(path)) == [ROWS[0], {"row": 9}]
    assert [one.name for one in tmp_path.iterdir()] == ["out.jsonl"]


def test_nobody_gets_the_lock_of_a_file_that_was_replaced(tmp_path: Path) -> None:
    """Whoever opened it just before would write lines that nobody can read."""
    path, ended, locks = tmp_path / "out.jsonl", threading.Event(), []

    def second() -> None:
        while not ended.is_set():
            with suppress(InputFileError), Journal(path):
                locks.append(path)

    with Journal(path) as journal:
        other = threading.Thread(target=second)
        other.start()
        for _ in range(10):
            journal.replace(ROWS)
        ended.set()
        other.join()
    assert locks == []


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot be written"):
        Journal(tmp_path / "missing" / "out.jsonl")
