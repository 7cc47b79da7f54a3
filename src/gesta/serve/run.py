"""The server process: its socket, its signals and its stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gesta.checkpoint import TrainedModel
from gesta.config import read_text
from gesta.errors import GestaError
from gesta.serve.app import Queue, make_app
from gesta.serve.guard import Guard, Metrics, is_loopback, log
from gesta.serve.limits import Limits
from gesta.serve.service import Service, Serving
from gesta.serve.upload import private_folder

TOKEN_VARIABLE = "GESTA_TOKEN"

TOKEN_LENGTH = 16
"""Characters that a token has at least: a short one could be guessed."""

LAST_REQUESTS_S = 0.5
"""Seconds after the stop in which a connection that is open already may still send a request, and is answered."""


def read_token(host: str, file: str | None) -> str | None:
    """The token of a server: from a file, else from the environment; None on a loopback address without either.

    Raises:
        GestaError: any other address without a token, a file that cannot be read, or a token that could be guessed.
    """
    source = f"the environment variable {TOKEN_VARIABLE}" if file is None else file
    token = (os.environ.get(TOKEN_VARIABLE) if file is None else read_text(file)) or ""
    token = token.strip()
    if not token and file is None:
        if is_loopback(host):
            return None
        raise GestaError(
            f"--host {host} lets other machines ask, so a token is needed: put one into a file and name it "
            f"(--token-file), or into the environment variable {TOKEN_VARIABLE}"
        )
    if len(token) < TOKEN_LENGTH or not (token.isascii() and token.isprintable()) or " " in token:
        raise GestaError(
            f"{source}: a token is one line of {TOKEN_LENGTH} or more letters, digits and signs, without spaces; make "
            "another, for example with openssl rand -hex 32"
        )
    return token


def check_page(page: str | None) -> None:
    """Refuse a folder that holds no page.

    Raises:
        GestaError: it has no ``index.html``.
    """
    if page is not None and not (Path(page) / "index.html").is_file():
        raise GestaError(f"{page}: holds no index.html; give a folder that gesta export --to web has made (--page)")


def open_socket(host: str, port: int) -> socket.socket:
    """A socket with its address, which does not listen yet: nobody waits while a model is loaded.

    Raises:
        GestaError: the address is not one of this machine, or it is in use.
    """
    opened = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not busy for a minute after the last server
        opened.bind(address)
        return opened
    except (OSError, OverflowError) as error:
        if opened:
            opened.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise GestaError(
            f"{host}, port {port}: cannot be listened on ({reason}); choose another --port or --host"
        ) from None


def serve(
    model: TrainedModel,
    serving: Serving,
    listening: socket.socket,
    *,
    token: str | None = None,
    page: str | None = None,
    as_json: bool = False,
) -> int:
    """Answer requests until SIGINT or SIGTERM, and then those that were accepted.

    Args:
        model: what is served.
        serving: how.
        listening: of :func:`open_socket`; it is closed at the end.
        token: that every request must bring, see :func:`read_token`.
        page: folder that is shown at ``/``, see :func:`check_page`.
        as_json: log lines are JSON.

    Returns:
        The exit status: 0 if every accepted request was answered, else 1.

    Raises:
        GestaError: settings that do not fit the model.
    """
    metrics = Metrics()
    host, port = listening.getsockname()[:2]
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening)
        folder = stack.enter_context(private_folder())
        service = Service(model, serving, metrics.restarts.inc, metrics.count_pass)
        stack.callback(service.close)
        queue = Queue(serving.limits, serving.decoders, metrics)
        app = make_app(service, queue, metrics, folder, page)
        service.warm_up()
        guard = Guard(
            app,
            metrics=metrics,
            token=token,
            loopback=is_loopback(host),
            as_json=as_json,
            is_ending=lambda: queue.is_ending,
        )
        config = uvicorn.Config(
            guard,
            http=_connection_with(serving.limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(serving.grace)),
        )
        for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what it warns of may hold what strangers sent
        log("listening", {"url": _url(host, port), "model": service.summary(), "token": bool(token)}, as_json)
        asyncio.run(_Server(config, queue).serve(sockets=[listening]))
        log("stopped", {"accepted": queue.accepted, "cut_off": queue.cut_off}, as_json)
        return int(queue.cut_off > 0)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's server, which signals stop with status 0 after what was accepted is answered."""

    def __init__(self, config: uvicorn.Config, queue: Queue) -> None:
        super().__init__(config)
        self._queue = queue

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals ask for the stop; uvicorn would raise them again at the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and answer for a moment the requests that are on their way in open connections.

        Connections end with their next answer (:class:`gesta.serve.guard.Guard`), or when they are idle after that.
        """
        for server in self.servers:
            server.close()
        self._queue.is_ending = True
        await asyncio.sleep(LAST_REQUESTS_S)
        self._queue.is_stopping = True
        await super().shutdown(sockets)


def _connection_with(limits: Limits) -> type[H11Protocol]:
    """A connection that ends if a request's headers do not come in time, or if there are too many connections."""

    class Connection(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                self._end(b"503 Service Unavailable", b"too many connections are open; try again later")
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.timer:
                self.timer.cancel()

        def _watch(self) -> None:
            """Let the time run while headers are expected, or what is left of a body that was refused."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self.timer:
                    self.timer.cancel()
                self.timer = None
            elif self.timer is None:
                self.timer = self.loop.call_later(limits.receive_seconds, self._late)

        def _late(self) -> None:
            if self.cycle is None:
                self._end(b"408 Request Timeout", b"the request did not come in time; send it faster")
            self.transport.close()

        def _end(self, status: bytes, sentence: bytes) -> None:
            body = b'{"error": "' + sentence + b'"}'
            head = (
                b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
            )
            self.transport.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            self.transport.close()

    return Connection
