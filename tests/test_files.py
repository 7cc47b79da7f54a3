"""Files are there whole or not at all, whatever the disk does; a folder has one writer at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gesta.errors import GestaError
from gesta.files import LOCK, lock_folder, remove_parts, temporary_for, write_atomically, write_text

fcntl = pytest.importorskip("fcntl")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond this many bytes: what a full disk does, without one."""
    import resource
    import signal

    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    with largest_file(1000), pytest.raises(GestaError, match=r"result\.json: cannot be written \(File too large\); "):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.json"]


def test_a_folder_that_is_not_there_or_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match=r"absent/file: cannot be written \(No such file or directory\)"):
        write_text(tmp_path / "absent" / "file", "x")
    (tmp_path / "file").touch()
    with (
        pytest.raises(GestaError, match=r"file/run: cannot be written \(Not a directory\)"),
        lock_folder(tmp_path / "file/run"),
    ):
        pytest.fail("a folder inside a file")


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_atomically(tmp_path / "file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), temporary_for(tmp_path / "folder") as part:
        part.mkdir()
        (part / "1.jpg").touch()
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)


def test_another_files_error_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "out"):
        (tmp_path / "absent").read_bytes()


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "file") as one, write_atomically(tmp_path / "file") as other:
        one.write(b"one" * 10_000)
        other.write(b"other")
    assert (tmp_path / "file").read_bytes() == b"one" * 10_000  # it ended last
    assert os.listdir(tmp_path) == ["file"]


def test_long_names(tmp_path: Path) -> None:
    name = "é" * 127
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(GestaError, match=r"cannot be written .*; choose a shorter name"):
        write_text(tmp_path / (name + "éé"), "x")


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to("disk/file")
    for text in ("first", "second"):
        write_text(link, text)
        assert link.is_symlink() and (tmp_path / "disk" / "file").read_text() == text
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(GestaError, match="circle: cannot be written"):
        write_text(tmp_path / "circle", "x")


def test_what_is_not_a_file_is_written_through(tmp_path: Path) -> None:
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    for path in ("/dev/null", null):
        before = os.lstat(path)
        write_text(path, "nothing")
        assert os.path.samestat(before, os.lstat(path))
    with pytest.raises(GestaError, match=r"/dev/full: cannot be written \(No space left on device\); free some space"):
        write_text("/dev/full", "x")
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join()
    assert read == ["through"] and (tmp_path / "pipe").is_fifo()
    with pytest.raises(GestaError, match=r"cannot be written \(Is a directory\)"):
        write_text(tmp_path, "x")


def test_standard_output_by_its_name(tmp_path: Path) -> None:
    """The shell's ``> file`` has opened the file; one that replaced it would not be seen by what is printed next."""
    code = "import os; from gesta.files import write_text; write_text('/dev/stdout', 'a\\n'); os.write(1, b'b\\n')"
    with open(tmp_path / "out", "ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "a\nb\n"


def test_a_locked_folder_names_its_owner(tmp_path: Path) -> None:
    with lock_folder(tmp_path) as remark:
        assert remark == ""
        with (
            pytest.raises(GestaError, match=rf"process {os.getpid()} on .* is writing to it; wait"),
            lock_folder(tmp_path),
        ):
            pytest.fail("two owners")
    assert not os.listdir(tmp_path)
    with lock_folder(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import os, sys; from gesta.files import *; lock = lock_folder(sys.argv[1]); lock.__enter__(); os.kill(0, 9)"
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    assert process.returncode == -9
    assert os.listdir(tmp_path) == [LOCK], "the process was killed before it could remove it"
    with lock_folder(tmp_path) as remark:
        assert remark == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_disks_without_locks_are_used_with_a_remark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_folder(tmp_path) as remark:
        assert "cannot be locked here" in remark


def test_remains_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".a.12-ab.part", "sub/.b.3-cd.part", "sub/kept.part", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".folder.1-ef.part").mkdir()
    remove_parts(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        ".hidden",
        "sub",
        "sub/kept.part",
    ]


def test_cleaning_up_never_hides_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that has become read-only, where nothing can be removed either."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir", "replace"):
            patch.setattr(os, name, refuse)
        with pytest.raises(GestaError, match=r"a\.json: cannot be written \(Read-only file system\); choose a place"):
            write_text(tmp_path / "a.json", "x")
        with pytest.raises(ZeroDivisionError), lock_folder(tmp_path / "run"):
            raise ZeroDivisionError


def test_a_folder_made_for_nothing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old", "used"):
        with lock_folder(tmp_path / name):
            (tmp_path / "used" / "file").touch() if name == "used" else None
    assert sorted(os.listdir(tmp_path)) == ["old", "used"]
