"""What deletes and replaces touches nothing behind a link, and nothing that fwk did not make."""

from __future__ import annotations

import json
import os

import pytest

from fwk.files import write_atomically
from fwk.files.kinds import COPY, EXPORT, RUN, STORE, UNFINISHED_STORE, owner_of
from fwk.files.outputs import AtomicFolder
from fwk.files.replacing import (
    find_temporary,
    make_temporary,
    mark,
    remove_owned,
    remove_temporary,
    rename,
    replace_folder,
    replace_link,
    write_new,
)

CONFIG = "task: {}\nmodel: {}\ncriterion: {}\noptimizer: {}\nschedule: {}\ntrain: {}\n"
ENVIRONMENT = json.dumps({"fwk": "0.1.0", "python": "3.11", "packages": {}})


def put(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_removing_a_run_leaves_what_fwk_did_not_make(tmp_path):
    run, archive = tmp_path / "run", tmp_path / "archive"
    put(archive, {"state.json": "{}", "model.safetensors": "w"})
    put(
        run,
        {
            ".fwk": '{"fwk": "run"}',
            "config.yaml": CONFIG,
            "checkpoints/update-000000001/manifest.json": "{}",
            "checkpoints/update-000000001/mine.txt": "mine",
            ".git/config.yaml": "mine",
            "notes.txt": "mine",
        },
    )
    (run / "checkpoints" / "update-000000002").symlink_to(archive)
    (run / "tensorboard").symlink_to(archive)
    (run / "checkpoints" / "latest").symlink_to("update-000000001")
    assert not remove_owned(run, RUN)
    assert names(run) == [
        ".git",
        ".git/config.yaml",
        "checkpoints",
        "checkpoints/update-000000001",
        "checkpoints/update-000000001/mine.txt",
        "checkpoints/update-000000002",
        "notes.txt",
        "tensorboard",
    ]
    assert names(archive) == ["model.safetensors", "state.json"]


def test_a_link_to_a_folder_is_not_emptied(tmp_path):
    put(tmp_path / "run", {"config.yaml": CONFIG})
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert not remove_owned(tmp_path / "link", RUN)
    assert names(tmp_path / "run") == ["config.yaml"]
    assert remove_owned(tmp_path / "run", RUN) and remove_owned(tmp_path / "nowhere", RUN)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"config.yaml": CONFIG, "environment.json": ENVIRONMENT}, True),
        ({".fwk": '{"fwk": "run"}'}, True),
        ({"config.yaml": CONFIG}, False),
        ({"config.yaml": "services: {}\n", "environment.json": "{}", "checkpoints/a": ""}, False),
        ({".fwk": '{"fwk": "export"}', "config.yaml": CONFIG, "environment.json": "{}"}, False),
        ({".fwk": "[" * 100_000}, False),
    ],
)
def test_a_run_is_known_by_its_marker_or_by_two_of_its_files(tmp_path, files, expected):
    put(tmp_path, files)
    assert RUN.holds(tmp_path) == expected


def test_a_manifest_or_a_card_alone_makes_neither_a_store_nor_an_export(tmp_path):
    put(tmp_path, {"manifest.json": '{"name": "a web page"}', "README.md": "# A project\n"})
    assert not any(kind.holds(tmp_path) for kind in (RUN, COPY, STORE, EXPORT))


def test_a_marker_behind_a_link_says_nothing(tmp_path):
    put(tmp_path, {"elsewhere": '{"fwk": "run"}', "folder/x": ""})
    (tmp_path / "folder" / ".fwk").symlink_to(tmp_path / "elsewhere")
    assert not RUN.holds(tmp_path / "folder")


def test_only_own_private_temporary_folders_are_used_again(tmp_path):
    target = tmp_path / "store"
    ours, open_to_all, unmarked = (make_temporary(target, ".partial") for _ in range(3))
    for folder in (ours, open_to_all):
        mark(folder, UNFINISHED_STORE)
    open_to_all.chmod(0o777)
    (tmp_path / ".store.planted.partial").symlink_to(ours)
    put(
        tmp_path / "store.partial", {"plan.json": "{}", ".fwk": '{"fwk": "unfinished token store"}'}
    )
    assert list(find_temporary(target, ".partial", UNFINISHED_STORE)) == [ours]
    assert unmarked.exists()


def test_a_folder_that_this_process_did_not_make_is_not_removed_as_temporary(tmp_path):
    put(tmp_path / "folder", {"thesis.tex": ""})
    with pytest.raises(ValueError, match="was not made by this process"):
        remove_temporary(tmp_path / "folder")
    assert names(tmp_path / "folder") == ["thesis.tex"]


def test_what_is_not_ours_moves_to_the_folder_that_replaces_another(tmp_path):
    target = tmp_path / "hf"
    put(target, {"config.json": "old", ".git/HEAD": "x", "notes.md": "mine", "README.md": "old"})
    new = make_temporary(target)
    put(new, {"config.json": "new"})
    assert replace_folder(new, target, EXPORT) is None
    assert names(target) == [".git", ".git/HEAD", "config.json", "notes.md"]
    assert (target / "config.json").read_text() == "new" and names(tmp_path) == sorted(
        ["hf", *(f"hf/{name}" for name in names(target))]
    )


def test_a_folder_that_is_being_written_is_refused(tmp_path):
    from fwk.errors import UserError

    with AtomicFolder(tmp_path / "a", False, EXPORT) as folder:
        (folder / "config.json").write_text("first")
        with pytest.raises(UserError, match="is being written by another process"):
            AtomicFolder(tmp_path / "a", True, EXPORT).__enter__()
    assert (tmp_path / "a" / "config.json").read_text() == "first"
    assert names(tmp_path) == ["a", "a/config.json"]


def test_writing_replaces_a_link_and_keeps_permissions(tmp_path):
    put(tmp_path, {"precious": "precious", "private": "old"})
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.link(tmp_path / "precious", tmp_path / "second name")
    for name in ("link", "private", "second name"):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_new_names_never_replace(tmp_path):
    put(tmp_path, {"a": "a", "b": "b", "folder/x": "x"})
    with pytest.raises(FileExistsError):
        rename(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "b", b"new", overwrite=False)
    with pytest.raises(FileExistsError):
        replace_link(tmp_path / "folder", "a")
    write_new(tmp_path / "c", b"new", overwrite=False)
    assert (tmp_path / "b").read_text() == "b" and names(tmp_path) == [
        "a",
        "b",
        "c",
        "folder",
        "folder/x",
    ]


def test_files_of_a_run_belong_to_it_and_notes_in_it_do_not(tmp_path):
    put(
        tmp_path, {".fwk": '{"fwk": "run"}', "checkpoints/update-1/state.json": "", "notes.txt": ""}
    )
    assert owner_of(tmp_path / "checkpoints/update-1/state.json") == (tmp_path, RUN)
    assert owner_of(tmp_path / "config.yaml") == (tmp_path, RUN)
    assert owner_of(tmp_path / "notes.txt") is None
