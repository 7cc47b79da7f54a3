"""The command that answers requests over HTTP."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from gesta.cli.options import CommandParser, Commands, count, device_options, trust_option
from gesta.cli.predict import given_timeline, timeline_options
from gesta.cli.public_weights import check_model_options, load_model, model_options, runtime_option
from gesta.errors import GestaError
from gesta.serve.limits import Limits

LIMITS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "max_megabytes": (float, "MB", "largest upload"),
    "max_seconds": (float, "S", "longest video"),
    "max_frames": (count, "N", "most frames of a video"),
    "max_pixels": (count, "N", "most pixels of a frame (width × height)"),
    "max_queue": (count, "N", "most videos that are received, waiting or processed at once"),
    "max_connections": (count, "N", "most open connections"),
    "receive_seconds": (float, "S", "time limit for receiving a request"),
    "decode_seconds": (float, "S", "time limit for decoding a video"),
    "decode_memory": (count, "MIB", "memory limit of a decoding process, beyond what it uses at start"),
}
"""Field of :class:`gesta.serve.limits.Limits` → type of its flag, metavar, help."""


def add_commands(commands: Commands) -> None:
    sub = commands.add("serve", _serve, "answer requests over HTTP with a model's predictions", result=False)
    model_options(sub)
    sub.add_argument("--host", default="127.0.0.1", help="address (default %(default)s; any other needs a token)")
    sub.add_argument("--port", type=int, default=8000, help="0 for one that is free (default %(default)s)")
    text = "file with the token that requests must bring (or the environment variable GESTA_TOKEN)"
    sub.add_argument("--token-file", metavar="FILE", help=text)
    sub.add_argument("--page", metavar="DIR", help="folder of a page for / (default: a form)")
    sub.add_argument("--clips", type=count, help="clips per video (default 4)")
    sub.add_argument("--crops", type=int, choices=[1, 3], help="crops per clip (default 1)")
    text = "probability at which a segment begins, least one of a label, if a request names none (default as predict's)"
    timeline_options(sub, text)
    device_options(sub)
    runtime_option(sub)
    sub.add_argument("--decoders", type=count, help="processes that decode (default: half of the cores, 2 at least)")
    text = "clips in a forward pass at most (default 16, on a CPU 2)"
    sub.add_argument("--batch-size", type=count, help=text)
    text = "milliseconds that a forward pass waits to be full (default %(default)g)"
    sub.add_argument("--batch-wait", type=float, default=5.0, metavar="MS", help=text)
    _limit_options(sub)
    text = "seconds in which accepted requests are answered after SIGTERM or Ctrl-C (default %(default)g)"
    sub.add_argument("--grace", type=float, default=30.0, metavar="S", help=text)
    sub.add_argument("--json", action="store_true", help="log lines are JSON")
    trust_option(sub)


def _limit_options(sub: CommandParser) -> None:
    usual = Limits()
    for name, (kind, metavar, text) in LIMITS.items():
        default = f" (default {getattr(usual, name):.8g})"
        sub.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text + default)


def _serve(options: argparse.Namespace) -> int:
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client")):
        raise GestaError("gesta serve needs FastAPI and uvicorn, which are not installed: pip install 'gesta[serve]'")
    from gesta.evaluation.scoring import prediction_protocol
    from gesta.processes import choose_device, limit_threads, loader_workers
    from gesta.serve.run import TOKEN_VARIABLE, check_page, open_socket, read_token, serve
    from gesta.serve.service import Serving, check_serving

    check_model_options(options)
    token = read_token(options.host, options.token_file)
    os.environ.pop(TOKEN_VARIABLE, None)  # the processes that decode what strangers send need not know it
    check_page(options.page)
    listening = open_socket(options.host, options.port)
    limits = {name: value for name in LIMITS if (value := getattr(options, name)) is not None}
    serving = Serving(
        timeline=given_timeline(options, True),
        threshold=options.threshold,
        limits=Limits(**limits),
        batch_size=options.batch_size,
        batch_wait=options.batch_wait,
        decoders=options.decoders or max(2, loader_workers(-1, shared=True)),
        grace=options.grace,
        device=options.device,
        precision=options.precision,
    )
    check_serving(serving)  # before minutes of loading
    limit_threads(choose_device(options.device), serving.decoders)  # an exported model takes its threads when loaded
    model = load_model(options)
    serving.views = prediction_protocol(model, clips=options.clips, crops=options.crops)
    if options.runtime == "auto":
        from gesta.export.fastest import with_fastest

        model = with_fastest(model, options.device, options.precision, trust_code=options.trust_code)
    return serve(model, serving, listening, token=token, page=options.page, as_json=options.json)
