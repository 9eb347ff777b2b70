"""A file or folder takes another's place, or the other stays."""

import contextlib
import errno
import os
import sys
from pathlib import Path

import pytest

from edge_runtime import files
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import BundleError
from edge_runtime.files import (
    exchange,
    fresh_folder,
    move_aside,
    repair,
    replace_folder,
    scratch_folder,
    write_atomically,
)


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


CALLS = ("open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
"""What the operating system is asked for on the way."""


notes_calls = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="pathlib keeps the system's calls, where no test sees them"
)


@pytest.fixture
def calls(monkeypatch, tmp_path):  # the test's folder is there before
    """Note each call with its first argument as a name; `calls.fail_at` raises at one."""
    noted = Calls()
    names = {}
    for name in CALLS:
        real = getattr(os, name)

        def call(first, *rest, name=name, real=real, **options):
            if name == "open":
                descriptor = real(first, *rest, **options)
                names[descriptor] = os.fspath(first)
                return descriptor
            noted.append((name, Path(names[first] if name == "fsync" else first).name))
            if len(noted) == noted.fail_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(first, *rest, **options)

        monkeypatch.setattr(os, name, call)
    return noted


class Calls(list):
    fail_at = 0


def put(place, content):
    with fresh_folder(place) as fresh:
        (fresh / "part").mkdir()
        (fresh / "part/weights").write_text(content)
        (fresh / "file").write_text(content)


def content_of(place):
    if place.is_file():
        return {place.read_text()}
    return {p.read_text() for p in place.rglob("*") if p.is_file()}


@pytest.fixture(params=["exchange", "rename"])
def way(request, monkeypatch):
    """Replace folders as on Linux, and as where two names cannot be exchanged."""
    if request.param == "rename":
        monkeypatch.setattr(files, "exchange", lambda *_: False)


@notes_calls
def test_a_folder_is_on_the_disk_before_it_takes_its_place(calls, tmp_path):
    put(tmp_path / "b", "new")
    place = calls.index(("rename", "fresh"))
    assert {n for c, n in calls[:place] if c == "fsync"} == {"weights", "part", "file", "fresh"}
    assert calls[place + 1] == ("fsync", tmp_path.name)


@notes_calls
def test_a_file_is_on_the_disk_before_it_takes_its_place(calls, tmp_path):
    write_atomically(tmp_path / "a/b/r.json", "new")
    place = calls.index(("replace", "fresh.json"))
    assert calls[place - 1 : place + 2] == [
        ("fsync", "fresh.json"),
        ("replace", "fresh.json"),
        ("fsync", "b"),
    ]
    made = [("mkdir", "a"), ("fsync", tmp_path.name), ("mkdir", "b"), ("fsync", "a")]
    assert calls[:4] == made


@pytest.mark.parametrize("write", [put, write_atomically])
@pytest.mark.usefixtures("way")
def test_an_error_at_each_call_leaves_one_whole(write, calls, tmp_path):
    seen = set()
    for number in range(1, 100):
        place = tmp_path / f"{number}/b"
        calls.fail_at = 0
        write(place, "old")
        calls.clear()
        calls.fail_at = number
        with contextlib.suppress(OSError):
            write(place, "new")
        if len(calls) < number:
            break
        repair(place)
        found = content_of(place)
        assert len(found) == 1
        seen |= found
    assert seen == {"old", "new"}
    assert [p.name for p in place.parent.iterdir()] == ["b"]


def kill_at(number, write, place):
    """Write in a process that ends, without cleaning up, at its call of this number."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = iter(range(number - 1))
    for name in CALLS:
        real = getattr(os, name)

        def call(*args, real=real, **options):
            if next(left, None) is None:
                os._exit(9)
            return real(*args, **options)

        setattr(os, name, call)
    code = 1
    try:
        write(place, "new")
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes to kill")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("write", [put, write_atomically])
@pytest.mark.usefixtures("way")
def test_a_kill_at_each_call_leaves_one_whole_and_nothing_else(write, tmp_path):
    for number in range(1, 100):
        place = tmp_path / f"{number}/b"
        write(place, "old")
        is_killed = kill_at(number, write, place)
        repair(place)
        assert content_of(place) in ({"old"}, {"new"})
        assert [p.name for p in place.parent.iterdir()] == ["b"]
        if not is_killed:
            break
    assert number > 5
    assert content_of(place) == {"new"}


def test_a_reader_puts_back_what_a_killed_writer_took(tmp_path):
    taken = tmp_path / ".b-1-abcdefgh"
    folder(taken, "scratch")
    (taken / ".lock").touch()
    folder(taken / "fresh-old", "old")
    with pytest.raises(BundleError, match=r"bundle\.json, at .* is a folder of something else"):
        read_bundle(tmp_path / "b")
    assert content_of(tmp_path / "b") == {"old"}


def test_the_folder_of_a_living_process_stays(tmp_path):
    with scratch_folder(tmp_path / "b") as living:
        (living / "file").touch()
        put(tmp_path / "b", "new")
        assert (living / "file").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_only_folders_of_the_same_place_are_removed(tmp_path):
    others = [".b-old", ".b-1-x", ".b-2-1-abcdefgh", ".a-1-abcdefgh", "b-1-abcdefgh"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "aim").mkdir()
    (tmp_path / "aim/.lock").touch()
    (tmp_path / ".b-1-abcdefgh").symlink_to(tmp_path / "aim")
    repair(tmp_path / "b")
    assert len(list(tmp_path.iterdir())) == len(others) + 2
    assert (tmp_path / "aim/.lock").is_file()


def test_what_another_user_left_stays(monkeypatch, tmp_path):
    left = folder(tmp_path / ".b-1-abcdefgh", "left")
    (left / ".lock").touch()
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user + 1)
        repair(tmp_path / "b")
        assert content_of(left) == {"", "left"}
    repair(tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_rights_is_replaced(tmp_path):
    put(tmp_path / "b", "old")
    (tmp_path / "b/part").chmod(0o500)
    put(tmp_path / "b", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_text_that_utf_8_cannot_hold_is_written(tmp_path):
    write_atomically(tmp_path / "t", "a\udc80")
    assert (tmp_path / "t").read_bytes() == rb"a\udc80"


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "p")
    reader = os.open(tmp_path / "p", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "p", "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert (tmp_path / "p").is_fifo()


@notes_calls
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes to kill")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_folder_of_the_same_name_elsewhere_is_not_taken_for_the_one_aside(monkeypatch, tmp_path):
    def put_above(place, content):
        with fresh_folder(place, scratch=tmp_path) as fresh:
            (fresh / "file").write_text(content)

    def end_at_the_second(*names, rename=os.rename):
        if list(tmp_path.rglob("fresh-old")):
            os._exit(9)
        rename(*names)

    monkeypatch.setattr(files, "exchange", lambda *_: False)
    put_above(tmp_path / "one/m", "old")
    if not (child := os.fork()):
        os.rename = end_at_the_second
        put_above(tmp_path / "one/m", "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "one/m").exists()
    put_above(tmp_path / "two/m", "other")
    repair(tmp_path / "one/m", tmp_path)
    assert content_of(tmp_path / "one/m") == {"old"}
    assert content_of(tmp_path / "two/m") == {"other"}


def test_the_cache_of_the_disk_itself_is_emptied_on_macos(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(files.sys, "platform", "darwin")
    monkeypatch.setattr(files.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(files.fcntl, "fcntl", lambda _, what: asked.append(what))
    files.sync(tmp_path)
    assert asked == [51]
