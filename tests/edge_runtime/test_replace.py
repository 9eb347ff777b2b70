"""A folder takes another's place, or the other stays."""

import sys

import pytest

from edge_runtime.files import exchange, move_aside, replace_folder


def folder(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("replace", [replace_folder, move_aside, exchange])
def test_two_folders_change_places(replace, tmp_path):
    if replace is exchange and sys.platform != "linux":
        pytest.skip("renameat2 is Linux's")
    old, new = folder(tmp_path / "b", "old"), folder(tmp_path / "fresh", "new")
    assert replace(old, new) in {None, True}
    assert (old / "file").read_text() == "new"
    assert (new / "file").read_text() == "old"


def test_a_free_place_is_taken(tmp_path):
    replace_folder(tmp_path / "b", folder(tmp_path / "fresh", "new"))
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("replace", [replace_folder, move_aside])
def test_the_old_folder_stays_where_the_new_one_is_missing(replace, tmp_path):
    old = folder(tmp_path / "b", "old")
    with pytest.raises(FileNotFoundError):
        replace(old, tmp_path / "fresh")
    assert (old / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
