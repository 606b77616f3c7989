"""A run takes no folder of something else, and `--overwrite` deletes the old run once the new one has a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.runs import config_in, lines

import fwk
from fwk.engine.saving import checkpoint, replacement
from fwk.engine.trainer import Trainer
from fwk.errors import CheckpointError, DataError
from fwk.files.kinds import RUN
from fwk.runs import start
from fwk.runs.lock import folder_lock

SHORT = {"train": {"updates": 2}}
OTHER = {"train": {"updates": 2}, "optimizer": {"lr": 0.5}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    start.train(config_in(folder, SHORT))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run in a folder of its own."""
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def fail_with(monkeypatch, error, after=0):
    """Make training raise an error after some updates."""
    update = Trainer.train

    def failing(self):
        if after:
            self.run.config = config_in(self.run.folder, {"train": {"updates": after}})
            update(self)
        raise error

    monkeypatch.setattr(Trainer, "train", failing)


# -- which folders are runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "tokenizer/x"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused_and_unchanged(tmp_path, name, overwrite):
    files = {name: "services: {}\n", ".git/HEAD": "ref", "thesis.tex": "years of work"}
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match="which no run wrote|nothing was deleted"):
        start.train(config_in(tmp_path), overwrite=overwrite)
    assert content(tmp_path) == {file: text.encode() for file, text in files.items()}
    assert not (tmp_path / ".lock").exists()


def test_a_lock_of_another_program_is_left_alone(tmp_path):
    (tmp_path / ".lock").write_text("another program's state")
    with pytest.raises(CheckpointError, match="was written by another program"):
        start.train(config_in(tmp_path))
    assert (tmp_path / ".lock").read_text() == "another program's state"


@pytest.mark.parametrize("missing", [(), ("config.yaml",), ("environment.json",)])
def test_a_run_from_before_there_were_markers_is_known_by_its_content(run, missing):
    for name in (".fwk", *missing):
        (run / name).unlink()
    assert RUN.holds(run)


def test_a_run_is_not_written_through_links(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    for name in ("metrics.jsonl", "checkpoints", ".fwk", "tokenizer"):
        (run / name).rename(elsewhere)
        (run / name).symlink_to(elsewhere)
        for overwrite in (False, True):
            with pytest.raises(CheckpointError, match=f"{name} is a link"):
                start.train(config_in(run, SHORT), overwrite=overwrite)
        (run / name).unlink()
        elsewhere.rename(run / name)


def test_a_run_folder_may_be_a_link_itself(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert start.train(config_in(tmp_path / "link", OTHER), overwrite=True).update == 2
    assert (tmp_path / "link").is_symlink()


# -- starts that race or fail ----------------------------------------------------------------------------------------


def test_the_loser_of_a_race_leaves_the_winners_folder(tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder):
        with pytest.raises(CheckpointError, match="is in use by process"):
            start.train(config_in(folder))
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_lock_in_a_folder_that_is_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    from fwk.runs import lock

    folder, attempts = tmp_path / "run", []
    once = lock.try_temporary_lock

    def removed_at_first(path):
        file = once(path)
        if not attempts:
            attempts.append(path)
            file.close()
            shutil.rmtree(folder)
            return None
        return file

    monkeypatch.setattr(lock, "try_temporary_lock", removed_at_first)
    with folder_lock(folder) as is_made:
        assert is_made and (folder / ".lock").exists()


def test_an_error_in_the_data_keeps_a_folder_with_logs(tmp_path, monkeypatch):
    fail_with(monkeypatch, DataError("shard 7 was changed"), after=3)
    monkeypatch.setattr("fwk.engine.saving.saver.Saver.start", lambda *_, **__: None)
    with pytest.raises(DataError, match="shard 7"):
        start.train(config_in(tmp_path / "run", {"train": {"log_every": 1}}))
    assert lines(tmp_path / "run")[-1]["update"] == 3


def test_an_error_before_the_first_update_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    fail_with(monkeypatch, DataError("no data"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for name in ("new", "notes"):
        with pytest.raises(DataError, match="no data"):
            start.train(config_in(tmp_path / name))
    assert not (tmp_path / "new").exists() and content(tmp_path / "notes") == {"mine.txt": b"mine"}


# -- overwriting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["while it is built", "at the first update"])
def test_a_wrong_command_with_overwrite_leaves_the_old_run(run, monkeypatch, where):
    before = content(run)
    if where == "at the first update":
        fail_with(monkeypatch, DataError("no data"))
    else:
        monkeypatch.setattr(
            start, "build_run", lambda *_, **__: (_ for _ in ()).throw(DataError("no data"))
        )
    with pytest.raises(DataError, match="no data"):
        start.train(config_in(run, OTHER), overwrite=True)
    assert content(run) == before


def test_overwriting_keeps_what_fwk_did_not_make(run, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(checkpoint.list_checkpoints(run)[-1], archive)
    before = content(archive)
    (run / ".git").mkdir()
    (run / ".git" / "config.yaml").write_text("mine")
    (run / "checkpoints" / "update-000000001").symlink_to(archive)
    (run / "checkpoints" / "notes.txt").write_text("mine")
    assert start.train(config_in(run, OTHER), overwrite=True).status == "finished"
    assert (run / ".git" / "config.yaml").read_text() == "mine" and content(archive) == before
    assert (run / "replaced-1" / "checkpoints" / "notes.txt").read_text() == "mine"
    assert "lr: 0.5" in (run / "config.yaml").read_text() and not replacement.is_replacing(run)


class Killed(BaseException):
    """The end of a process, which no handler of the code under test sees."""


def kill_after(renames: int, monkeypatch, function) -> None:
    """Call a function and end it before its next rename, or after its end where it has fewer."""
    moves, rename = [], replacement.rename

    def killed_later(source, target):
        if len(moves) == renames:
            raise Killed
        moves.append(source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(replacement, "rename", killed_later)
        with pytest.raises(Killed):
            function()
            raise Killed


MOVES = 6  # renames of entries, of `.replacing`, and whatever follows


@pytest.mark.parametrize("after", range(MOVES + 1))
def test_a_kill_while_the_old_run_is_moved_leaves_it_recoverable(run, monkeypatch, after):
    before = content(run)
    kill_after(after, monkeypatch, lambda: replacement.set_aside(run))
    assert start.train(config_in(run, SHORT)).status == "finished"  # the old command again
    assert content(run).keys() == before.keys()
    assert fwk.load(run).update == 2


@pytest.mark.parametrize("after", range(MOVES + 2))
def test_a_kill_while_the_old_run_is_put_back_loses_nothing(run, monkeypatch, after):
    before = content(run)
    replacement.set_aside(run)
    (run / "config.yaml").write_text("of the new run")
    kill_after(after, monkeypatch, lambda: replacement.settle(run))
    replacement.settle(run)
    assert content(run) == before


def test_the_old_run_stays_until_the_new_one_has_a_checkpoint(run, monkeypatch):
    old = content(run / "checkpoints")
    with monkeypatch.context() as patch:
        fail_with(patch, Killed())
        with pytest.raises(Killed):
            start.train(config_in(run, OTHER), overwrite=True)
    assert content(run / ".replaced" / "checkpoints") == old
    assert fwk.load(run / ".replaced").update == 2
    with pytest.raises(CheckpointError, match=r"optimizer.lr was 0.001, is now 0.5"):
        start.train(config_in(run, OTHER))  # the old run is in its place again
    assert content(run / "checkpoints") == old
    assert start.train(config_in(run, OTHER), overwrite=True).status == "finished"
    assert not replacement.is_replacing(run)


def test_a_kill_after_the_first_checkpoint_leaves_the_new_run(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(replacement, "finish", lambda folder: None)
        start.train(config_in(run, OTHER), overwrite=True)
    assert (run / ".replaced").is_dir()
    assert start.train(config_in(run, OTHER)).status == "finished"
    assert not replacement.is_replacing(run) and "lr: 0.5" in (run / "config.yaml").read_text()


def test_an_old_run_that_cannot_be_removed_does_not_end_the_new_one(run, monkeypatch, caplog):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(replacement, "remove_owned", refused)
        assert start.train(config_in(run, OTHER), overwrite=True).status == "finished"
    assert [message for message in caplog.messages if "replaced-1: Permission denied" in message]
    assert start.train(config_in(run, SHORT), overwrite=True).status == "finished"


def test_retention_leaves_links_and_their_archives(run, tmp_path):
    newest = checkpoint.list_checkpoints(run)[-1]
    shutil.copytree(newest, tmp_path / "archive")
    (run / "checkpoints" / "update-000000001").symlink_to(tmp_path / "archive")
    before = content(tmp_path / "archive")
    checkpoint.prune_checkpoints(run, newest, [], [], keep_last=1)
    assert content(tmp_path / "archive") == before
    assert (run / "checkpoints" / "update-000000001").is_symlink()


def test_a_checkpoint_written_over_a_link_leaves_what_it_leads_to(run, tmp_path):
    newest = checkpoint.list_checkpoints(run)[-1]
    newest.rename(tmp_path / "archive")
    newest.symlink_to(tmp_path / "archive")
    before = content(tmp_path / "archive")
    tensors, state = checkpoint.read_checkpoint(newest)
    checkpoint.write_checkpoint(run, 2, tensors, json.dumps(state))
    assert not newest.is_symlink() and content(tmp_path / "archive") == before


# -- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_takes_no_folder_of_something_else(trained, tmp_path):
    (tmp_path / "config.yaml").write_text("services: {}\n")
    with pytest.raises(CheckpointError, match="is not empty, and is no copy of weights"):
        fwk.load(trained).save(tmp_path)
    assert content(tmp_path) == {"config.yaml": b"services: {}\n"}
    fwk.load(trained).save(tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("mine")
    fwk.load(trained).save(tmp_path / "copy")
    assert (tmp_path / "copy" / "notes.txt").read_text() == "mine"
    assert fwk.load(tmp_path / "copy").update == 2
