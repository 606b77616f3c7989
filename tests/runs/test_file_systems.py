"""Runs on file systems that lack links, locks, or waiting for a folder to be on the disk."""

import errno
import fcntl
import logging
import os
import socket

import pytest
import torch

from fwk.engine.saving import checkpoint
from fwk.engine.saving.saver import Saver
from fwk.errors import CheckpointError, ConfigError, RunError, UserError
from fwk.files import cache_folder, sync, try_lock
from fwk.runs.folder import locked_folder
from fwk.runs.lock import LOCK, folder_lock
from fwk.testing import tiny_config

ANSWERS = [errno.EPERM, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS]
TENSORS = {name: {"a": torch.zeros(2)} for name in ("model", "optimizer", "meters")}


def failing(number):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_checkpoint_is_saved_where_there_are_no_links(answer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "symlink", failing(answer))
    for update in (1, 2, 3):
        newest = checkpoint.write_checkpoint(tmp_path, update, TENSORS, "{}")
        checkpoint.prune_checkpoints(tmp_path, newest, [1], [], 1)
    assert [path.name[-1] for path in checkpoint.list_checkpoints(tmp_path)] == ["1", "3"]
    assert checkpoint.find_checkpoint(tmp_path) == newest
    assert [record.message.count("no 'latest'") for record in caplog.records] == [1]


@pytest.mark.parametrize("answer", [*ANSWERS, errno.EIO])
def test_only_an_answer_that_says_unsupported_is_ignored_by_sync(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(answer))
    if answer == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            sync(tmp_path)
        return
    sync(tmp_path)
    checkpoint.verify(checkpoint.write_checkpoint(tmp_path, 1, TENSORS, "{}"))


def test_a_failure_beside_an_intact_checkpoint_does_not_say_that_it_was_not_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "symlink", failing(errno.EIO))
    saver = Saver(tmp_path, keep_last=1, background=False)
    with pytest.raises(RunError, match="cannot update the links .* this checkpoint is intact"):
        saver.start(1, TENSORS, "{}", [])


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_used_with_a_warning(answer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", failing(answer))
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert "has no locks" in caplog.text


def test_a_folder_without_locks_is_refused_while_its_last_process_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    holder = f"{os.getppid()} on {socket.gethostname()}"
    (tmp_path / LOCK).write_text(holder)
    with pytest.raises(CheckpointError, match=f"in use by process {holder}"), folder_lock(tmp_path):
        pass


def test_a_lock_that_another_process_holds_is_not_mistaken_for_none(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(errno.EWOULDBLOCK))
    assert try_lock(tmp_path / "lock") is None
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        try_lock(tmp_path / "lock")


def test_a_run_whose_folder_was_moved_saves_nothing_in_its_old_place(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    saver = Saver(folder, keep_last=1, background=False)
    saver.start(1, TENSORS, "{}", [])
    folder.rename(tmp_path / "moved")
    folder.mkdir()  # by a hook that opens its file again
    with pytest.raises(RunError, match="was moved or removed while the run trained"):
        saver.start(2, TENSORS, "{}", [])
    assert not list(folder.iterdir())


def test_a_run_without_its_config_is_not_resumed_with_another_one(tmp_path):
    newest = checkpoint.write_checkpoint(tmp_path, 1, TENSORS, "{}")
    opened = locked_folder(tmp_path, tiny_config(), overwrite=False)
    with pytest.raises(CheckpointError, match="no config.yaml|no run wrote"), opened:
        pass
    checkpoint.verify(newest)


def test_a_path_that_no_config_file_can_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must be UTF-8 text, got '\\udcff'"):
        tiny_config({"run": os.fsdecode(b"\xff")})
    folder = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(CheckpointError, match="not UTF-8"), folder_lock(folder):
        pass
    assert not folder.exists()


def test_a_cache_folder_of_an_impossible_name_says_what_to_set(monkeypatch):
    monkeypatch.setenv("FWK_CACHE", "/tmp/" + "a" * 300)
    with pytest.raises(UserError, match="File name too long.*; set FWK_CACHE"):
        cache_folder()
