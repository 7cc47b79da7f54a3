"""Writing files so that they are there whole or not at all, and folders that one process at a time writes to.

Everything that gesta writes goes through :func:`write_atomically` or :func:`temporary_for`: the data go to a hidden
name of their own (``.NAME.PROCESS-RANDOM.part``), which replaces the file when it is complete. A disk that is full, a
process that is killed or a second writer leaves the old file or the new one, never a mixture.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gesta.errors import FolderInUse, GestaError

PART = ".part"
"""End of the names of files and folders that are not complete."""

LOCK = ".lock"
"""The file by which a folder is locked; it holds the number of the process and the name of its machine."""

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error numbers that only writing gives, and that the next file will meet, too."""

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) or choose another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n) or use fewer workers",
    errno.ENFILE: "close other programs, as the system has too many open files",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose a place that can be written, or change its permissions",
    errno.EPERM: "choose a place that can be written, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "free some memory or use fewer workers",
}


HUB = "hf:"
"""Beginning of what is no path but a repository of a model hub, see :mod:`gesta.checkpoint.hub`."""


PACKAGE = "package:"
"""Beginning of what is no path but an installed Python package that ships weights."""


def is_path(source: str | os.PathLike[str]) -> bool:
    """Whether weights are named by a path, not by a repository of a hub or a package."""
    return not os.fspath(source).startswith((HUB, PACKAGE))


def is_hub(source: str | os.PathLike[str]) -> bool:
    """Whether weights are named by a repository of a hub, not by a path."""
    return os.fspath(source).startswith(HUB)


def remedy(error: OSError) -> str:
    """What to do about an error of the operating system."""
    return _REMEDIES.get(error.errno or 0, "choose another place")


def machine_fault(error: BaseException) -> str:
    """A sentence about what the machine lacks or refuses (disk, memory, open files); empty for any other error."""
    text = str(error).strip().rpartition("\n")[2]
    number = error.errno if isinstance(error, OSError) else None
    if "ancdata" in text or "Too many open files" in text:  # ancdata: of open files that come from another process
        number = errno.EMFILE
    elif "shared memory" in text or "shm" in text:
        return f"shared memory is short ({text}); make /dev/shm larger or use fewer workers"
    elif isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        number = errno.ENOMEM
    if number not in _REMEDIES:
        return ""
    name = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{name}{os.strerror(number)}; {_REMEDIES[number]}"


def refusal(path: str | os.PathLike[str], error: OSError) -> GestaError:
    """The sentence that a path cannot be written, and what to do."""
    return GestaError(f"{path}: cannot be written ({error.strerror or error}); {remedy(error)}")


@contextlib.contextmanager
def reporting(path: str | os.PathLike[str], part: Path | None = None) -> Iterator[None]:
    """Turn an error of the operating system into a sentence about ``path``; one about another file is left as it is."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has enough of it
        raise
    except OSError as error:
        if error.filename is not None and str(error.filename) not in (str(path), str(part)):
            raise
        raise refusal(path, error) from None


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str], keep: Path | None = None) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` only when it is complete and on the disk.

    What is not a file (``/dev/null``, ``/dev/stdout``, a pipe) is written directly and stays what it is. A symbolic
    link stays, too: the file that it names is replaced.

    Args:
        path: the file.
        keep: name under which the file that was there survives.

    Raises:
        GestaError: it cannot be written.
    """
    if _target(Path(path)) is None:
        with reporting(path), open(path, "wb") as file:
            yield file
        return
    with temporary_for(path, keep) as part, reporting(path, part), open(part, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8 with its line ends as they are, whole or not at all; see :func:`write_atomically`."""
    with write_atomically(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # of file names that are not UTF-8


@contextlib.contextmanager
def temporary_for(path: str | os.PathLike[str], keep: Path | None = None) -> Iterator[Path]:
    """Another name beside ``path`` for a file or folder, which becomes ``path`` at the end, or is removed.

    For what is written by its name; for everything else there is :func:`write_atomically`, whose arguments are the
    same. What is not a file is given as it is, to be written directly. The writer's errors are left as they are.
    """
    target = _target(Path(path))
    if target is None:
        yield Path(path)
        return
    part = _part(target)
    try:
        yield part
        if keep and os.path.exists(target):
            _link(target, keep)
        with reporting(path, part):
            os.replace(part, target)
    finally:
        remove(part)
    _keep_names(target.parent)


@contextlib.contextmanager
def replacement_for(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As :func:`temporary_for`, also where a folder is there already, which stays until the new one is complete."""
    target = Path(os.path.realpath(path))
    if not target.is_dir():
        with temporary_for(path) as part:
            yield part
        return
    part, old = _part(target), _part(target)
    try:
        yield part
        with reporting(path, part):
            os.rename(target, old)  # no system replaces a folder that holds files
            try:
                os.rename(part, target)
            except BaseException:
                os.rename(old, target)
                raise
        remove(old)
    finally:
        remove(part)
    _keep_names(target.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to be filled, which becomes ``path`` at the end, or is removed.

    Until then it lies beside it, in ``.NAME.part``. What a killed process left there is removed by the next one.

    Args:
        path: a folder that is new or empty.

    Raises:
        FolderInUse: another process is filling a folder that will be ``path``.
        GestaError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    place = target.with_name(f".{target.name}{PART}")
    new = place / "new"  # the lock is beside it, as an open file in a folder keeps some systems from renaming that
    try:
        with lock_folder(place):
            try:
                remove(new)
                make_folder(new)
                yield new
                with reporting(target, new):
                    if target.is_dir():
                        target.rmdir()  # not every system replaces an empty one
                    os.replace(new, target)
            finally:
                remove(new)
    finally:
        _remove_empty(place)
    _keep_names(target.parent)


def check_not_read(out: str | os.PathLike[str] | None, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that would take the place of what is read.

    Args:
        out: the file to be written; None for none.
        inputs: files that are read.

    Raises:
        GestaError: it is one of them.
    """
    if out is None or not os.path.isfile(out):
        return
    for path in inputs:
        if os.path.isfile(path) and os.path.samefile(path, out):
            raise GestaError(f"{out}: is itself read, and would be replaced; choose another file with --out")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, if they are not there.

    Raises:
        GestaError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from None
    return Path(path)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file or a folder with all that it holds, if it is there and can be removed.

    It never raises: it cleans up after errors, which must reach the user (a read-only disk refuses to remove, too).
    """
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def is_part(name: str) -> bool:
    """Whether a file or folder of this name is not complete."""
    return name.startswith(".") and name.endswith(PART)


def remove_parts(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left incomplete in a folder and below; only for who holds its lock."""
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if is_part(name):
                remove(os.path.join(parent, name))


# --- one writer at a time --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Keep other processes from writing to a folder that they lock, too.

    The folder is made if it is not there, and removed at the end if nothing was put into it. The lock is the operating
    system's (``flock``): it ends with the process, however that ends, and a file ``.lock`` that is left behind locks
    nothing.

    Yields:
        Empty, or a sentence for the user where the system or the disk knows no locks; then nothing is locked.

    Raises:
        FolderInUse: another process has locked it.
        GestaError: it cannot be written.
    """
    is_new = not os.path.isdir(folder)
    path = make_folder(folder) / LOCK
    with contextlib.ExitStack() as stack:
        if is_new:
            stack.callback(_remove_empty, folder)
        try:
            file, remark = _lock(path)
            stack.callback(os.close, file)
            if not remark:
                stack.callback(remove, path)  # while it is locked
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
        except OSError as error:
            raise refusal(folder, error) from None
        yield remark


def _lock(path: Path) -> tuple[int, str]:
    """The open and locked file, and a sentence if it cannot be locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            import fcntl  # absent from Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 300).decode(errors="replace") or "another process"
            os.close(file)
            raise FolderInUse(
                f"{path.parent}: {owner} is writing to it; wait for it to end, end it, or choose another folder"
            ) from None
        except (ImportError, OSError):
            return file, f"{path.parent}: cannot be locked here, so take care that no other process writes to it"
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file, ""
        os.close(file)  # its last owner has just removed it


# --- parts of the above ----------------------------------------------------------------------------------------------


def _target(path: Path) -> Path | None:
    """The file that a path names, links followed, or the name of one to be made; None for what is not a file."""
    for _ in range(40):  # links; the system follows as many
        if re.fullmatch(r"/proc/\d+/fd|/dev/fd", os.path.realpath(path.parent)):
            return None  # an open file: another one under its name would not be the one that is open
        if not os.path.islink(path):
            break
        path = path.parent / os.readlink(path)
    else:
        return None  # a circle of links, as opening it will say
    return path if os.path.isfile(path) or not os.path.exists(path) else None


def _keep_names(folder: Path) -> None:
    """Let a renaming in a folder survive a power cut."""
    if os.name != "posix":
        return
    file = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # not every disk can
        os.fsync(file)
    os.close(file)


def _remove_empty(folder: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):  # of one that holds files
        os.rmdir(folder)


def _link(path: Path, other: Path) -> None:
    """Let ``other`` name the same file as ``path``, so that it outlives it; not all disks can."""
    part = _part(other)
    with contextlib.suppress(OSError):
        os.link(path, part)
        os.replace(part, other)
    remove(part)


def _part(path: Path) -> Path:
    """A name that nobody else uses, for what will be ``path``; cut, as the whole must not be longer than 255 bytes."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
