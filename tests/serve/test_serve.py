"""The server in this process: its answers, limits and checks; decoding is done without processes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import re
import shlex
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from conftest import write_video
from gesta.checkpoint import TrainedModel
from gesta.cli import make_parser
from gesta.cli.serve import LIMITS
from gesta.errors import GestaError
from gesta.files import LOCK, lock_folder
from gesta.models import create_model
from gesta.prediction.predict import predict
from gesta.prediction.timeline import TimelineConfig, timeline
from gesta.recipe import EvaluateConfig
from gesta.serve import decoding, pool, upload
from gesta.serve.app import Queue, make_app
from gesta.serve.guard import Guard, Metrics
from gesta.serve.limits import Limits
from gesta.serve.run import check_page, open_socket, read_token
from gesta.serve.service import Service, Serving

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef"


class _Inline:
    """A :class:`gesta.data.workers.Worker` that works in the thread that asks."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def begin(self, _: int, item: Any, seconds: float) -> None:
        self._outcome = self._work(item)

    def wait(self) -> tuple[Any, str]:
        return self._outcome, ""

    def run(self, item: Any, seconds: float) -> tuple[Any, str]:
        return self._work(item), ""

    def restart(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


class Server:
    """A served model, and what it is asked.

    Attributes:
        passes: clips of each forward pass.
    """

    def __init__(self, model: TrainedModel, folder: Path, **settings: Any) -> None:
        guard = {name: settings.pop(name) for name in ("token", "loopback") if name in settings}
        self.passes: list[int] = []
        settings = {"views": EvaluateConfig(clips=3), "batch_size": 4, "batch_wait": 50, "decoders": 4} | settings
        self.serving = Serving(**settings)
        self.service = Service(model, self.serving, on_pass=lambda clips, _: self.passes.append(clips))
        self.metrics, self.folder = Metrics(), folder
        self.queue = Queue(self.serving.limits, 4, self.metrics)
        self.app = Guard(make_app(self.service, self.queue, self.metrics, folder), metrics=self.metrics, **guard)

    def ask(self, *requests: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> list[httpx.Response]:
        """Send requests at once."""

        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                return await asyncio.gather(*(request(client) for request in requests))

        return asyncio.run(all_of_them())

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask(lambda client: client.get(path, headers=headers))[0]

    def post(self, path: str, content: Any, **how: Any) -> httpx.Response:
        return self.ask(lambda client: client.post(path, content=content, **video_type(how)))[0]


def video_type(how: dict[str, Any]) -> dict[str, Any]:
    return {"headers": {"Content-Type": "video/mp4"}} | how


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    torch.manual_seed(2)
    network = create_model("r3d_tiny", classes=4)
    return TrainedModel(model=network.eval(), classes=["wave", "jump", "<b>run", "sit"], metadata={"licence": "CC0"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(folder / f"{i}.mp4", frames=n, shade=9 * i) for i, n in enumerate((90, 40, 20))]


@pytest.fixture
def serve(model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(pool, "start_workers", lambda work, count, _: [_Inline(work) for _ in range(count)])
    monkeypatch.setattr(decoding, "_is_limited", True)  # of this process's memory
    (folder := tmp_path / "uploads").mkdir()
    servers: list[Server] = []

    def start(**settings: Any) -> Server:
        servers.append(Server(model, folder, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.service.close()
        assert not list(folder.iterdir()), "uploads are removed"


def expected(model: TrainedModel, path: Path, name: str) -> tuple[Any, Any]:
    """What gesta predict prints of a file, and its timeline, under the name of an upload."""
    whole = list(predict(model, path, views=EvaluateConfig(clips=3, workers=0)))
    parts = list(timeline(model, path, config=TimelineConfig(threshold=0.26)))
    assert len(parts) == 1 or path.name != "0.mp4"
    return tuple([p.to_json() | {"path": name} for p in predictions] for predictions in (whole, parts))


def near(ours: Any, theirs: Any) -> bool:
    """Whether two answers are the same but for the rounding of probabilities."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(near(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(near, ours, theirs))
    return math.isclose(ours, theirs, abs_tol=2e-6) if isinstance(ours, float) else ours == theirs


def test_answers_are_those_of_predict_also_for_requests_that_share_forward_passes(
    serve: Callable[..., Server], model: TrainedModel, clips: list[Path]
) -> None:
    server = serve(timeline=TimelineConfig(threshold=0.26))
    requests, answers = [], []
    for path in clips:
        for kind, answer in zip(("predict", "timeline"), expected(model, path, path.name)):
            form = {"video": (f"C:\\of others\\{path.name}", path.read_bytes())}
            requests.append(lambda client, kind=kind, form=form: client.post(f"/v1/{kind}", files=form))
            answers.append(answer)
    for response, answer in zip(server.ask(*requests), answers):
        assert response.status_code == 200 and near(response.json(), answer), (response.text, answer)
    assert max(server.passes) == 4 and len(server.passes) < sum(server.passes)
    raw = server.post("/v1/predict?top=1", clips[0].read_bytes())
    assert near(raw.json()[0]["labels"], answers[0][0]["labels"][:1]) and raw.json()[0]["path"] == upload.UNNAMED


def test_what_is_beyond_a_limit_is_refused_with_its_status_and_a_sentence(
    serve: Callable[..., Server], clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    video = clips[0].read_bytes()  # 90 frames, 12 a second

    async def in_parts(data: bytes = video) -> AsyncIterator[bytes]:
        yield data[:1000]
        yield data[1000:]

    async def without_end() -> AsyncIterator[bytes]:
        yield video[:1000]
        await asyncio.sleep(9)

    usual = serve()

    def refused(limits: dict[str, Any], content: Any, status: int, sentence: str, **how: Any) -> None:
        response = (serve(limits=Limits(**limits)) if limits else usual).post("/v1/predict", content, **how)
        assert response.status_code == status and re.search(sentence, response.json()["error"]), response.text

    refused({"max_megabytes": 0.001}, video, 413, "more than the 0.001 MB")
    refused({"max_megabytes": 0.001}, in_parts(), 413, "more than the 0.001 MB")  # without Content-Length
    refused({"receive_seconds": 0.1}, without_end(), 408, "did not come within 0.1 seconds")
    refused({"max_seconds": 7}, video, 422, "lasts 7.5 seconds, and 7 are allowed")
    refused({"max_frames": 80}, video, 422, "has 90 frames, and 80 are allowed")
    refused({"max_pixels": 3000}, video, 422, "64 x 48 pixels, and 3000 are allowed")
    refused({}, video, 415, "Content-Type", headers={"Content-Type": "text/plain"})
    refused({}, b"", 422, "is empty")
    refused({}, b"not a video", 422, "^the upload: cannot be opened as a video")
    refused({}, video[:300], 422, "^the upload: ")
    refused({}, b"ffconcat version 1.0\nfile other.mp4\n", 422, "is a playlist")
    refused({}, video, 422, "url: is no parameter", params={"url": "http://localhost/clip.mp4"})
    refused({}, video, 422, "top: input should be greater", params={"top": 0})
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="video"; filename="secret.mp4"\r\n\r\nabc\r\n'
    refused({}, part, 400, "ends before its last boundary", headers=form)

    async def and_more() -> AsyncIterator[bytes]:
        yield part + b"--x--\r\n"
        for _ in range(3):
            yield bytes(2**15)

    refused({}, and_more(), 413, "too much besides the video", headers=form)  # behind the last boundary
    refused({}, part + part + b"--x--\r\n", 422, "several files", headers=form)
    refused({}, part.replace(b"filename", b"other") + b"--x--\r\n", 422, "video: is a field", headers=form)
    refused({}, b"--y", 400, "form cannot be read", headers=form)
    refused({}, part + b"--x--\r\n", 422, "^secret.mp4: ", headers=form)
    for name in ("視頻.mp4", "été.mp4"):  # as browsers and curl send them, in UTF-8
        named = part.replace(b"secret.mp4", name.encode())
        refused({}, named + b"--x--\r\n", 422, f"^{name}: ", headers=form)
    long = {"Content-Type": "multipart/form-data; boundary=" + "x" * 999}
    refused({}, part, 400, "form cannot be read", headers=long)
    log = capsys.readouterr().err
    assert "route=/v1/predict status=422" in log and "secret" not in log and "localhost" not in log


def test_a_full_queue_says_when_to_come_again_and_a_stop_ends_the_readiness(
    serve: Callable[..., Server], clips: list[Path]
) -> None:
    server = serve(limits=Limits(max_queue=2))
    busy = [lambda client: client.post("/v1/timeline", content=clips[0].read_bytes(), **video_type({}))] * 5
    responses = server.ask(*busy)
    assert sorted(response.status_code for response in responses) == [200, 200, 503, 503, 503]
    full = next(response for response in responses if response.status_code == 503)
    assert int(full.headers["Retry-After"]) >= 1 and "queue is full with 2 videos" in full.json()["error"]
    assert "gesta_accepted_total 2.0" in server.get("/metrics").text
    assert server.get("/healthz").json() == {"ready": True}
    server.queue.is_ending = server.queue.is_stopping = True
    assert server.get("/healthz").status_code == 503
    assert "is stopping" in server.post("/v1/predict", b"").json()["error"]


def test_only_who_may_ask_is_answered(serve: Callable[..., Server]) -> None:
    local = serve()
    for host, status in (("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]:8000", 200), ("evil.example", 421)):
        assert local.get("/v1/model", Host=host).status_code == status, host
    assert local.get("/healthz", Host="evil.example:8000").status_code == 421
    assert local.get("/v1/model", Origin="http://evil.example").status_code == 403
    assert local.get("/v1/model", Origin="http://127.0.0.1:8000").status_code == 200
    public = serve(token=TOKEN, loopback=False)
    basic = base64.b64encode(f"any:{TOKEN}".encode()).decode()
    for path in ("/", "/v1/model", "/metrics", "/docs", "/openapi.json", "/nothing"):
        assert public.get(path, Host="gesta.example").status_code == 401
        for wrong in ("Bearer", "Bearer 0123456789abcdeg", f"Digest {TOKEN}", "Basic !", f"Bearer {TOKEN}0"):
            assert public.get(path, Authorization=wrong).status_code == 401, wrong
        for right in (f"Bearer {TOKEN}", f"Basic {basic}"):
            assert public.get(path, Authorization=right).status_code == (404 if path == "/nothing" else 200)
    assert public.post("/v1/predict", b"abc").status_code == 401
    assert public.get("/healthz").status_code == 200


def test_pages_and_card_say_what_the_model_is_and_load_nothing_from_elsewhere(serve: Callable[..., Server]) -> None:
    server = serve()
    card = server.get("/v1/model").json()
    assert card["classes"][2] == "<b>run" and card["licence"] == "CC0" and card["clip"]["frames"] == 16
    assert card["protocol"]["clips"] == 3 and card["limits"]["max_queue"] == 32
    assert set(json.loads(server.get("/openapi.json").text)["paths"]) == {
        *("/v1/predict", "/v1/timeline", "/v1/model", "/healthz", "/metrics")
    }
    for path in ("/", "/docs"):
        page = server.get(path)
        assert not re.search(r"(?:src|href)=.?(?:https?:)?//", page.text) and "R3D" in page.text
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; connect-src 'self'") and "unsafe" not in policy
    assert server.get("/docs").text.count("503") >= 2
    assert (server.get("/nothing").status_code, server.get("/v1/predict").status_code) == (404, 405)


def test_tokens_are_not_averaged_as_something_else(model: TrainedModel) -> None:
    with pytest.raises(GestaError, match=r"views\.average is 'tokens'.*choose 'probabilities'"):
        Service(model, Serving(views=EvaluateConfig(average="tokens")))


def test_a_model_of_several_streams_is_refused() -> None:
    pair = TrainedModel(model=create_model("mfst_rgbd_tiny", num_classes=2), classes=["a", "b"], metadata={})
    with pytest.raises(GestaError, match="takes rgb and depth, and an upload is one video"):
        Service(pair, Serving())


def test_what_the_server_starts_with_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GESTA_TOKEN", raising=False)
    assert read_token("127.0.0.1", None) is None and read_token("::1", None) is None
    for host in ("0.0.0.0", "gesta.example"):
        with pytest.raises(GestaError, match=f"--host {host} lets other machines ask"):
            read_token(host, None)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token("0.0.0.0", str(tmp_path / "token")) == TOKEN
    for text in ("", "short", "with spaces in it, though"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(GestaError, match="token: a token is one line of 16"):
            read_token("127.0.0.1", str(tmp_path / "token"))
    monkeypatch.setenv("GESTA_TOKEN", TOKEN)
    assert read_token("0.0.0.0", None) == TOKEN
    with pytest.raises(GestaError, match="holds no index"):
        check_page(str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(GestaError, match="cannot be listened on"):
        open_socket("127.0.0.1", other.getsockname()[1])


def test_folders_of_killed_servers_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload.tempfile, "tempdir", str(tmp_path))
    killed, living, link = (tmp_path / f"{upload.PREFIX}{name}" for name in ("killed", "living", "link"))
    for folder in (killed, living, tmp_path / "other"):
        folder.mkdir()
        (folder / "upload").touch()
        (folder / LOCK).touch()
    link.symlink_to(tmp_path / "other")
    with lock_folder(living), upload.private_folder() as own:
        assert own.stat().st_mode & 0o777 == 0o700
        assert sorted(tmp_path.iterdir()) == sorted([living, link, own, tmp_path / "other"])
        assert (living / "upload").exists() and (tmp_path / "other" / "upload").exists()
    assert not own.exists()


def test_the_page_of_the_server_names_every_limit_and_its_default() -> None:
    page, usual = (ROOT / "docs" / "serve.md").read_text().replace(" 000", "000").replace(" 437 ", "437"), Limits()
    for field in LIMITS:
        row = next(line for line in page.splitlines() if f"| `--{field.replace('_', '-')}` |" in line)
        assert f"| {getattr(usual, field):.8g} " in row, row


def test_the_dockerfile_copies_what_there_is_and_starts_a_command_that_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    assert '".[serve,export]"' in text  # an exported file is served, too
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    steps = [(word, rest) for word, rest in lines]
    for word, rest in steps:
        assert word in {
            "FROM",
            "ARG",
            "WORKDIR",
            "COPY",
            "RUN",
            "USER",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "ENTRYPOINT",
            "CMD",
        }
        if word == "COPY":
            *sources, _ = (part for part in shlex.split(rest) if not part.startswith("--"))
            assert all((ROOT / source).exists() for source in sources), rest
    last = dict(steps)
    assert last["USER"] not in ("root", "0")
    command = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    assert command[0] == "gesta"
    options = make_parser().parse_args(command[1:])
    assert options.host == "0.0.0.0" and str(options.port) in last["EXPOSE"]
    interval, _, check = last["HEALTHCHECK"].partition(" CMD ")
    assert "--start-period" in interval and f":{options.port}/healthz" in json.loads(check)[-1]
    with contextlib.suppress(SyntaxError):
        compile(json.loads(check)[-1], "HEALTHCHECK", "exec")
        return
    raise AssertionError("the health check is no Python")
