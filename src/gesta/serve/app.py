"""The addresses of a server, and its pages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.metadata
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from gesta.prediction.prediction import Prediction
from gesta.serve.guard import FAILED, Metrics, answer, refuse
from gesta.serve.limits import Limits, Refusal
from gesta.serve.service import Service
from gesta.serve.upload import received


class Label(BaseModel):
    """A class and its probability."""

    name: str = Field(alias="class")
    probability: float


class Answer(BaseModel):
    """A prediction, as ``gesta predict --json`` writes it."""

    path: str
    start: float | None
    end: float | None
    labels: list[Label]
    error: str | None


class Problem(BaseModel):
    """Why a request is not answered."""

    error: str


Top = Annotated[int | None, Query(ge=1, description="how many classes are named")]
Threshold = Annotated[float | None, Query(ge=0, le=1, description="least probability of a label or of a segment")]

ANSWERED = "what gesta predict --json prints of the video"

REFUSALS = {
    400: "the form cannot be read",
    401: "the token is missing or wrong",
    403: "a page of another origin sent the request",
    408: "the request did not come in time",
    413: "the video has too many bytes",
    415: "the body is no video by its type",
    421: "the header Host is that of another machine",
    422: "the video cannot be read, or it is too long or too large; or a parameter is wrong",
    500: "the model or the server failed, which its log explains",
    503: "the queue or the disk is full, or the server is stopping; Retry-After says when to come again",
    504: "decoding the video takes too long",
}

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["video"],
                    "properties": {"video": {"type": "string", "format": "binary"}},
                }
            },
            "video/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class Queue:
    """How many videos may be received, waiting or worked on at once.

    Attributes:
        accepted: for which there was room.
        cut_off: those of them that were not answered because the server had to stop.
        is_ending: the server answers the requests that are on their way, and then stops.
        is_stopping: no more are accepted.
    """

    def __init__(self, limits: Limits, decoders: int, metrics: Metrics) -> None:
        self._most, self._decoders, self._metrics = limits.max_queue, decoders, metrics
        self.accepted = self.cut_off = self._in_progress = 0
        self.is_ending = self.is_stopping = False
        self._mean_s = 1.0  # of the last requests, the newer the more

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue.

        Raises:
            Refusal: there is none.
        """
        if self.is_stopping:
            raise Refusal(503, "the server is stopping; try again later", retry_s=5)
        if self._in_progress >= self._most:
            retry = min(60, max(1, math.ceil(self._mean_s * self._in_progress / self._decoders)))
            raise Refusal(503, f"the queue is full with {self._most} videos; try again in {retry} s", retry_s=retry)
        self.accepted += 1
        self._metrics.accepted.inc()
        self._count(1)
        begin = time.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self._count(-1)
            self._mean_s += 0.1 * (time.monotonic() - begin - self._mean_s)

    def _count(self, change: int) -> None:
        self._in_progress += change
        self._metrics.in_progress.set(self._in_progress)


Predict = Callable[[str, str, int | None, float | None], Awaitable[list[Prediction]]]


def make_app(service: Service, queue: Queue, metrics: Metrics, folder: Path, page: str | None = None) -> FastAPI:
    """The application, without :class:`~gesta.serve.guard.Guard`.

    Args:
        service: answers.
        queue: of the videos.
        metrics: what ``/metrics`` shows.
        folder: for uploads.
        page: folder of a page that is shown at ``/``; None for the page of this module.
    """
    version = importlib.metadata.version("gesta")
    app = FastAPI(title="gesta", version=version, description=service.summary(), docs_url=None, redoc_url=None)
    _add_answers(app, service, queue, folder)

    @app.get("/v1/model", summary="the card of the model")
    async def model() -> Response:
        versions = {name: importlib.metadata.version(name) for name in ("gesta", "torch", "av")}
        return answer(service.card() | {"versions": versions})

    @app.get("/healthz", summary="whether requests can be answered")
    async def health() -> Response:
        is_ready = service.is_ready and not queue.is_ending
        return answer({"ready": is_ready}, 200 if is_ready else 503)

    @app.get("/metrics", summary="figures for Prometheus")
    async def figures() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", summary="this page", include_in_schema=False)
    async def docs() -> Response:
        return _page("docs.html", api=app.openapi())

    if page is None:

        @app.get("/", summary="a page to try it", include_in_schema=False)
        async def index() -> Response:
            return _page("index.html", summary=service.summary(), limits=service.serving.limits)

    else:
        app.mount("/", StaticFiles(directory=page, html=True))
    return app


def _add_answers(app: FastAPI, service: Service, queue: Queue, folder: Path) -> None:
    """The two addresses that take videos, and how what goes wrong is said."""
    limits = service.serving.limits
    problems = {status: {"model": Problem, "description": text} for status, text in REFUSALS.items()}
    how: dict[str, Any] = {
        "openapi_extra": UPLOAD,
        "responses": {200: {"model": list[Answer], "description": ANSWERED}, **problems},
    }

    async def answered(request: Request, predict: Predict, top: int | None, threshold: float | None) -> Response:
        for name in request.query_params:
            if name not in ("top", "threshold"):
                raise Refusal(
                    422, f"{name}: is no parameter of this address, which has top and threshold; leave it out"
                )
        with queue.place():
            async with received(request, folder, limits) as (path, name):
                predictions = await predict(path, name, top, threshold)
        return answer([prediction.to_json() for prediction in predictions])

    @app.post("/v1/predict", summary="the actions of a video", **how)
    async def predict(request: Request, top: Top = None, threshold: Threshold = None) -> Response:
        return await answered(request, service.predict, top, threshold)

    @app.post("/v1/timeline", summary="the timed actions of a video", **how)
    async def timeline(request: Request, top: Top = None, threshold: Threshold = None) -> Response:
        return await answered(request, service.timeline, top, threshold)

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        text = f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}; correct it or leave it out"
        return refuse(Refusal(422, text))

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        words = {404: "there is nothing at this address; /docs lists those that there are"}
        words[405] = "this address does not take this method; /docs says which it takes"
        return refuse(
            Refusal(error.status_code, words.get(error.status_code, str(error.detail))), dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return refuse(Refusal(500, FAILED))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return refuse(Refusal(499, "the client went away"))


# --- pages -----------------------------------------------------------------------------------------------------------

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def _page(name: str, **parts: Any) -> Response:
    """A page that may load nothing, and run nothing but its own script."""
    text = _PAGES.get_template(name).render(**parts)
    policy = ["default-src 'none'", "connect-src 'self'", "form-action 'self'", "base-uri 'none'"]
    for kind in ("style", "script"):
        hashes = [f"'sha256-{_sha256(inner)}'" for inner in re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)]
        policy.append(f"{kind}-src " + (" ".join(hashes) or "'none'"))
    return HTMLResponse(text, headers={"Content-Security-Policy": "; ".join(policy), "X-Frame-Options": "DENY"})


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
