"""An output replaces no input, no file of a run, and no existing file; two processes never write one output."""

from __future__ import annotations

import os

import pytest

from fwk.errors import UserError
from fwk.files.outputs import open_output
from fwk.scoring.stream import Journal


def opened(path, **options):
    with open_output("--output", path, **options) as output:
        output.write(b"new")


def test_an_existing_file_is_replaced_only_with_the_users_word(tmp_path):
    path = tmp_path / "gold.txt"
    path.write_text("gold")
    with pytest.raises(UserError, match=r"--output: .*gold.txt exists; .*--overwrite"):
        opened(path)
    assert path.read_text() == "gold"
    opened(path, overwrite=True)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("through", ["itself", "link", "hard link"])
def test_an_input_is_never_an_output(tmp_path, through):
    read, target = tmp_path / "in.txt", tmp_path / "out.txt"
    read.write_text("input")
    if through == "itself":
        target = read
    elif through == "link":
        target.symlink_to(read)
    else:
        os.link(read, target)
    with pytest.raises(UserError, match="read or written as something else"):
        opened(target, reads=[read], overwrite=True)
    assert read.read_text() == "input"


def test_the_files_of_a_run_are_never_an_output(tmp_path):
    (tmp_path / ".fwk").write_text('{"fwk": "run"}')
    (tmp_path / "config.yaml").write_text("x")
    with pytest.raises(UserError, match=r"belongs to the run in"):
        opened(tmp_path / "config.yaml", overwrite=True)
    opened(tmp_path / "metrics-of-test.json")


def test_two_writers_of_one_output_are_refused(tmp_path):
    path = tmp_path / "out"
    with open_output("--output", path) as output:
        with pytest.raises(UserError, match="is being written by another process"):
            opened(path)
        output.write(b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out"
    with open_output("--output", path) as output:
        path.write_text("somebody's")
        with pytest.raises(UserError, match="appeared while the command ran"):
            output.write(b"new")
    assert path.read_text() == "somebody's" and list(tmp_path.iterdir()) == [path]


def test_a_lock_that_is_a_link_or_has_content_is_left_alone(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / ".a.lock").symlink_to(precious)
    with pytest.raises(UserError, match=r"--output: .*a cannot be written"):
        opened(tmp_path / "a")
    (tmp_path / ".b.lock").write_text("of another program")
    opened(tmp_path / "b")
    assert (tmp_path / ".b.lock").read_text() == "of another program"
    assert precious.read_text() == "precious"


def test_a_journal_is_written_by_one_process(tmp_path):
    first = Journal(tmp_path / "out", {"model": "a"})
    with pytest.raises(UserError, match="is being written by another process"):
        Journal(tmp_path / "out", {"model": "a"})
    first.write([{"x": 1}])
    first.finish()
    assert (tmp_path / "out").read_text() == '{"x": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_partial_file_of_the_users_is_neither_emptied_nor_read(tmp_path):
    partial = tmp_path / "z.partial"
    partial.write_text("text to score\n")
    for reads in ([], [partial]):
        with pytest.raises(UserError, match=r"z.partial is not what an interrupted command left"):
            Journal(tmp_path / "z", {"model": "a"}, reads=reads)
    assert partial.read_text() == "text to score\n"
    assert [path.name for path in tmp_path.iterdir()] == ["z.partial"]


def test_a_journal_is_not_written_through_a_link(tmp_path):
    journal = Journal(tmp_path / "out", {"model": "a"})
    journal.write([{"x": 1}])
    journal.close()
    precious = tmp_path / "precious"
    precious.write_text('{"x": 1}\n')
    (tmp_path / "out.partial").unlink()
    (tmp_path / "out.partial").symlink_to(precious)
    with pytest.raises(UserError, match="is not what an interrupted command left"):
        Journal(tmp_path / "out", {"model": "a"})
    assert precious.read_text() == '{"x": 1}\n'
