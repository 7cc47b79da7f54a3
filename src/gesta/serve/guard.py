"""Who may ask, and what is written down of a request: never a name, an address or a content of its sender."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gesta.progress import json_text, one_line
from gesta.serve.limits import Refusal

ROUTES = frozenset({"/", "/docs", "/openapi.json", "/v1/predict", "/v1/timeline", "/v1/model", "/healthz", "/metrics"})
"""Paths that the log and the metrics name; all others are "other"."""

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})

FAILED = "the server failed at this request; its log says why"

OPEN = "/healthz"
"""The only path that needs no token."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CLIPS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What ``/metrics`` shows, in the words of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        how: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("gesta_requests", "Answered requests", ["route", "status"], **how)
        self.seconds = Histogram("gesta_request_seconds", "From headers to answer", ["route"], buckets=SECONDS, **how)
        self.in_progress = Gauge("gesta_in_progress", "Videos received, waiting or worked on", **how)
        self.accepted = Counter("gesta_accepted", "Videos for which there was room in the queue", **how)
        self.restarts = Counter("gesta_process_restarts", "Decoding processes that were replaced", **how)
        self.clips = Histogram("gesta_pass_clips", "Clips in a forward pass", buckets=CLIPS, **how)
        self.model_seconds = Counter("gesta_model_seconds", "Time in forward passes", **how)

    def count_pass(self, clips: int, seconds: float) -> None:
        """Note a forward pass."""
        self.clips.observe(clips)
        self.model_seconds.inc(seconds)


def is_loopback(host: str) -> bool:
    """Whether a name or address of a host is this machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON, as ``gesta predict --json`` writes it."""
    content = json_text(value).encode("utf-8", "replace")
    return Response(content, status, {"Cache-Control": "no-store"} | (headers or {}), "application/json")


def refuse(refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    """The answer to a request that is refused."""
    headers = dict(headers or {})
    if refusal.retry_s:
        headers["Retry-After"] = str(refusal.retry_s)
    return answer({"error": refusal.sentence}, refusal.status, headers)


class Guard:
    """Checks every request before the application sees it, logs and counts it afterwards.

    - On a loopback address the header Host must name one, too, so that no page can reach the server by a name of its
      own that it points there (DNS rebinding).
    - A request that a page of another origin sends is refused.
    - With a token, every path but ``/healthz`` needs it: as Bearer token, or as the password of HTTP Basic (any user),
      for which browsers ask.

    Args:
        app: the application.
        metrics: to count in.
        token: None for none.
        loopback: whether the server listens on a loopback address.
        as_json: log lines are JSON.
        is_ending: whether connections should end with their answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        token: str | None = None,
        loopback: bool = True,
        as_json: bool = False,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.metrics, self.loopback, self.as_json = app, metrics, loopback, as_json
        self.token, self.is_ending = None if token is None else token.encode(), is_ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status, size = time.monotonic(), 0, 0

        async def receive_and_count() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
                headers += [(b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": headers + [(b"connection", b"close")] * self.is_ending()}
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await refusal(scope, receive, send_and_note)
            else:
                await self.app(scope, receive_and_count, send_and_note)
        except asyncio.CancelledError:
            if not status:
                await refuse(Refusal(503, "the server had to stop; try again later", 5))(scope, receive, send_and_note)
            raise
        except Exception:  # the application has answered, if it could
            traceback.print_exc()
            if not status:
                await refuse(Refusal(500, FAILED))(scope, receive, send_and_note)
        finally:
            self._note(scope, status or 499, time.monotonic() - begin, size)  # 499: the client went away

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if self.loopback and not is_loopback(name):
            return refuse(Refusal(421, "the header Host is not that of a loopback address; ask http://127.0.0.1"))
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refuse(Refusal(403, "a page of another origin sent the request; ask from the server's own page"))
        if self.token is not None and scope["path"] != OPEN and not self._is_token(headers.get("authorization", "")):
            response = refuse(Refusal(401, "the token is missing or wrong; send it as Authorization: Bearer"))
            for challenge in ('Basic realm="gesta", charset="UTF-8"', "Bearer"):  # browsers ask for the former
                response.headers.append("WWW-Authenticate", challenge)
            return response
        return None

    def _is_token(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        given = value.strip().encode("latin-1")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        assert self.token is not None
        return hmac.compare_digest(given, self.token)

    def _note(self, scope: Scope, status: int, seconds: float, size: int) -> None:
        route = scope["path"] if scope["path"] in ROUTES else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4), "bytes": size}
        log("request", fields, self.as_json)


def log(event: str, fields: dict[str, Any], as_json: bool) -> None:
    """Write a line to standard error: the time, what happened, and its fields."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if as_json:
        line = json.dumps({"time": moment, "event": event, **fields})
    else:
        line = one_line(" ".join([moment, event, *(f"{name}={value}" for name, value in fields.items())]))
    print(line, file=sys.stderr, flush=True)
