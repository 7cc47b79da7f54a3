"""A model hub on this machine: as much of the HTTP interface of the public one as ``huggingface_hub`` asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

TOKEN = "hf_secret"


@dataclass
class Repository:
    """Its files, and who may see them.

    Attributes:
        is_lfs: files that are kept outside git, whose ETag is their SHA-256.
        token: that is needed; empty for none.
        gated: asks for terms to be accepted, which no token has done.
    """

    files: dict[str, bytes]
    token: str = ""
    gated: bool = False

    def is_lfs(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin", ".pth"))

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def oid(self, name: str) -> str:
        data = self.files[name]
        return sha256(data) if self.is_lfs(name) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """All repositories by name, and how the next answers are wrong.

    Attributes:
        requests: method and path of all that was asked.
        cut: so many downloads of weights end after half of their bytes.
        corrupt: downloads of weights have a wrong byte.
        status: of all answers, where it is not 0.
        large: objects that were uploaded, by their SHA-256.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut: int = 0
    corrupt: bool = False
    status: int = 0
    large: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def downloads(self) -> list[str]:
        """Names of the files that were downloaded since the last call."""
        names = [match[1] for r in self.requests if (match := re.match(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.*)", r))]
        self.requests.clear()
        return names


def serve(hub: Hub) -> ThreadingHTTPServer:
    """A server on a free port; ``serve_forever`` is the caller's."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            self._answer(self.hub.status)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if repository := self._repository(match[1], match[2] or "main"):
                self._json({"id": match[1], "sha": repository.commit, "siblings": self._siblings(repository)})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repository := self._repository(match[1], match[2]):
                self._file(repository, match[3])
        else:
            self._answer(404)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"X-Error-Message": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                return self._json({"url": f"{self.hub.address}/{name}"}, status=409)
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repositories[name] = Repository({}, token=TOKEN if private else "")
            return self._json({"url": f"{self.hub.address}/{name}"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            repository = self.hub.repositories[match[1]]
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            return self._json(
                {
                    "files": [
                        {"path": f, "uploadMode": modes[repository.is_lfs(f)], "shouldIgnore": False} for f in files
                    ]
                }
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            upload = {"upload": {"href": f"{self.hub.address}/lfs/"}}
            objects = json.loads(body)["objects"]
            actions = [o | {"actions": {"upload": {"href": upload["upload"]["href"] + o["oid"]}}} for o in objects]
            return self._json({"transfer": "basic", "objects": actions})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            repository = self.hub.repositories[match[1]]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repository.files[value["path"]] = self.hub.large[value["oid"]]
            address = f"{self.hub.address}/{match[1]}/commit/{repository.commit}"
            return self._json({"success": True, "commitUrl": address, "commitOid": repository.commit})
        return self._answer(404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[sha256(data)] = data
        self._answer(200)

    def _siblings(self, repository: Repository) -> list[dict[str, Any]]:
        siblings: list[dict[str, Any]] = []
        for name, data in repository.files.items():
            siblings.append({"rfilename": name, "size": len(data), "blobId": repository.oid(name)})
            if repository.is_lfs(name):
                siblings[-1]["lfs"] = {"sha256": repository.oid(name), "size": len(data), "pointerSize": 130}
        return siblings

    def _repository(self, name: str, revision: str) -> Repository | None:
        """The repository; None where its absence has been answered."""
        repository = self.hub.repositories.get(name)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None or (repository.token and given != repository.token):
            self._answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        elif repository.gated:
            self._answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif revision not in ("main", repository.commit):
            self._answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        else:
            return repository
        return None

    def _file(self, repository: Repository, name: str) -> None:
        if name not in repository.files:
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        data = repository.files[name]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{repository.oid(name)}"', "Accept-Ranges": "bytes"}
        status, begin = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, begin = 206, int(match[1])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        part = data[begin:]
        if self.hub.corrupt and repository.is_lfs(name):
            part = part[:-1] + bytes([part[-1] ^ 1])
        if self.command == "GET" and self.hub.cut and repository.is_lfs(name):
            self.hub.cut -= 1
            self._answer(status, headers, part[: len(part) // 2], length=len(part))
            self.close_connection = True
            return None
        return self._answer(status, headers, part)

    def _json(self, content: Any, status: int = 200) -> None:
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


# --- for tests: import both fixtures ---------------------------------------------------------------------------------


@pytest.fixture(name="server", scope="module")
def server_fixture() -> Iterator[Hub]:
    hub = Hub()
    http = serve(hub)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield hub
    huggingface_hub.close_session()
    http.shutdown()
    http.server_close()


@pytest.fixture(name="hub")
def hub_fixture(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty hub with an empty cache, for this process."""
    server.__init__(address=server.address)  # type: ignore[misc]
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return server
