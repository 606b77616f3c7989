"""What another user may have planted in a cache that users share is not believed."""

from __future__ import annotations

import os

import pytest

from fwk.errors import DataError
from fwk.files import shared_cache
from fwk.files.shared_cache import create_in_cache, require_own


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "entry"
    place.mkdir(mode=0o755)
    return place


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775])
def test_an_own_folder_is_used(folder, mode):
    folder.chmod(mode)
    require_own(folder)


def test_a_folder_that_is_missing_may_be_made(tmp_path):
    require_own(tmp_path / "missing")


def test_a_folder_that_every_user_can_change_is_refused(folder):
    folder.chmod(0o777)
    with pytest.raises(DataError, match=r"can be changed by every user.*FWK_CACHE"):
        require_own(folder)


def test_a_link_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataError, match="is not a folder"):
        require_own(tmp_path / "link")


def test_a_folder_of_another_user_is_refused_and_the_superusers_is_not(folder, monkeypatch):
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setattr(shared_cache, "SUPERUSER", owner + 2)
    with pytest.raises(DataError, match=r"belongs to another user.*FWK_CACHE"):
        require_own(folder)
    monkeypatch.setattr(shared_cache, "SUPERUSER", owner)
    require_own(folder)


def test_a_cache_of_somebody_else_names_the_variable(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="cannot be written; set FWK_CACHE"):
        create_in_cache(folder)


def test_a_planted_store_is_not_trained_on(tmp_path, monkeypatch):
    from fwk.config.resolve import build
    from fwk.tasks.mlm import MaskedLanguageModelling

    monkeypatch.setenv("FWK_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"the cat number {n} sat on the mat" for n in range(60)))

    def task():
        settings = {"data": str(text), "vocabulary": 64, "length": 16}
        return MaskedLanguageModelling(build(MaskedLanguageModelling, settings), 1)

    task()
    (store,) = (tmp_path / "cache" / "stores").iterdir()
    store.chmod(0o777)
    with pytest.raises(DataError, match="so its content is not used"):
        task()
