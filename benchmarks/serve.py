"""``gesta serve`` under load and misuse: requests per second, latency, memory, broken uploads, slow senders, SIGTERM.

    python benchmarks/serve.py [--model r3d_tiny] [--seconds 20] [--requests 2000] [--malformed 500] [--json FILE]
                               [--write docs/serve.md] [--smoke]

A model with random weights is served by a process of its own, with its defaults but for the length of the queue.
Clients send made clips of 4 s as fast as they are answered, 1, 8 and 64 at once; "the model alone" is the same network
and batch size in this process, with the clips decoded already. Then it is misused: truncated, changed, empty and
foreign files, headers of huge pictures, containers without a frame, while a client with good clips measures whether
that delays it; clients that never finish; SIGTERM while 16 clients send. Exits with 1 if anything was lost, failed with
500, or was not answered as docs/serve.md says. ``--smoke`` does all of it with few requests. Clients run on the same
machine and take CPU time, too.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import httpx
import numpy as np
import torch
from robustness.mutations import BYTES, CODECS, FRAMES, HEIGHT, WIDTH, audio_only, encode, image

from gesta.checkpoint import save_model
from gesta.evaluation.scoring import score_views, views_per_pass
from gesta.files import write_text
from gesta.models import create_model

CLIENTS = (1, 8, 64)
CLIPS = 4
"""Clips of a video, as by default."""
RECEIVE_S = 5.0
BEGIN, END = "<!-- benchmarks/serve.py writes this table -->", "<!-- its end -->"


# --- what is sent ----------------------------------------------------------------------------------------------------


def good_clip(seed: int) -> bytes:
    """Four seconds of H.264, 320 x 240, in which a square moves."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(100):
            picture = np.full((240, 320, 3), (20 * seed + i) % 200, np.uint8)
            picture[80:160, 2 * i : 2 * i + 80] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def without_frames(kind: str) -> bytes:
    """A container with a video stream and no frame in it."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()
    return file.getvalue()


def broken_uploads(count: int, folder: Path) -> Iterator[bytes]:
    """Files that are broken in many ways, the same in every run."""
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    sources = [encode(folder / name, codec, pictures).read_bytes() for name, codec in CODECS.items()]
    others = [b"#EXTM3U\n#EXTINF:9,\n/etc/hostname\n", b"ffconcat version 1.0\nfile a.mp4\n", b"\0", bytes(5000)]
    others += [random.bytes(5000), audio_only("wav"), audio_only("mp4"), image(pictures[0], "PNG")]
    others += [without_frames(kind) for kind in ("mp4", "matroska", "avi")]
    kinds = list(BYTES.values())
    for number in range(count):
        if number % 4 == 3:
            yield others[number // 4 % len(others)]
        else:
            yield kinds[number % len(kinds)](sources[number % len(sources)], random)


# --- the server ------------------------------------------------------------------------------------------------------


class Running:
    """A server in a process of its own.

    Attributes:
        url: where it listens.
        log: its lines.
    """

    def __init__(self, model: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "gesta", "serve", str(model), "--port", "0", "--json", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(300) or not self.log:
            raise SystemExit("the server does not start:\n" + "".join(self.other))
        self.url: str = self.log[0]["url"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
                self._listening.set()
            except json.JSONDecodeError:
                self.other.append(line)
        self._listening.set()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(120)
        self._reader.join(10)
        return status

    def memory(self) -> float:
        """MiB of the server and its processes, shared pages once."""
        total = 0
        for process in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(OSError):  # of one that has just ended
                rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
                total += int(rollup.split("Pss:")[1].split()[0])
        return total / 1024


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            parents.setdefault(int(fields["PPid"]), []).append(int(fields["Pid"]))
    children = parents.get(process, [])
    return children + [each for child in children for each in descendants(child)]


@contextmanager
def running(model: Path, *flags: str) -> Iterator[Running]:
    server = Running(model, *flags)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


# --- clients ---------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What clients saw.

    Attributes:
        statuses: how often each status came; errors of connections by their names.
        latencies: seconds of the requests that were answered with 200.
        seconds: from the first request to the last answer.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        ordered = sorted(self.latencies) or [0.0]
        return {
            "requests_per_second": round(len(self.latencies) / self.seconds, 2) if self.seconds else 0.0,
            "p50_ms": round(1e3 * statistics.median(ordered), 1),
            "p95_ms": round(1e3 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
            "statuses": dict(self.statuses),
        }


async def send(client: httpx.AsyncClient, load: Load, body: bytes, url: str = "/v1/predict") -> None:
    begin = time.monotonic()
    try:
        response = await client.post(url, content=body, headers={"Content-Type": "video/mp4"})
    except httpx.TransportError as error:
        load.statuses[type(error).__name__] += 1
        return
    load.statuses[str(response.status_code)] += 1
    if response.status_code == 200:
        load.latencies.append(time.monotonic() - begin)


async def _clients(url: str, count: int, bodies: list[bytes], go_on: Callable[[Load], bool], load: Load) -> None:
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def work(number: int) -> None:
            while go_on(load):
                await send(client, load, bodies[(number + sum(load.statuses.values())) % len(bodies)])

        await asyncio.gather(*map(work, range(count)))


def send_for(url: str, clients: int, bodies: list[bytes], go_on: Callable[[Load], bool]) -> Load:
    """Let clients send one request after the other."""
    load, begin = Load(), time.monotonic()
    asyncio.run(_clients(url, clients, bodies, go_on, load))
    load.seconds = time.monotonic() - begin
    return load


def send_seconds(url: str, clients: int, bodies: list[bytes], seconds: float) -> Load:
    """Let clients send for a time."""
    until = time.monotonic() + seconds
    return send_for(url, clients, bodies, lambda _: time.monotonic() < until)


def send_count(url: str, clients: int, bodies: list[bytes], count: int) -> Load:
    """Let clients send so many requests, or a few more."""
    return send_for(url, clients, bodies, lambda load: sum(load.statuses.values()) < count)


# --- the measurements ------------------------------------------------------------------------------------------------


def model_alone(name: str, seconds: float) -> float:
    """Videos per second of the network, whose clips are decoded already."""
    network = create_model(name, classes=12).eval()
    spec, device = network.config.clip, torch.device("cpu")
    size = views_per_pass(16, device)
    clips = torch.zeros(size, spec.frames, spec.channels, spec.size, spec.size, dtype=torch.uint8)
    score_views(network, clips, "probabilities", device)
    count, begin = 0, time.monotonic()
    while time.monotonic() < begin + seconds:
        score_views(network, clips, "probabilities", device)
        count += size
    return count / CLIPS / (time.monotonic() - begin)


def throughput(model: Path, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """Requests per second and latency by number of clients."""
    with running(model, "--max-queue", "128") as server:
        send_count(server.url, 4, bodies, 8)
        loads = {str(n): send_seconds(server.url, n, bodies, seconds).figures() for n in CLIENTS}
        return loads | {"exit_status": server.stop()}


def memory(model: Path, bodies: list[bytes], requests: int) -> dict[str, Any]:
    """MiB after a tenth of the requests, and after all."""
    with running(model) as server:
        first = send_count(server.url, 4, bodies, max(8, requests // 10))
        early = server.memory()
        load = send_count(server.url, 4, bodies, requests)
        late = server.memory()
        return {
            "requests": sum((first.statuses + load.statuses).values()),
            "mib_early": round(early),
            "mib_late": round(late),
            "statuses": dict(load.statuses),
            "exit_status": server.stop(),
        }


def misuse(model: Path, bodies: list[bytes], count: int, folder: Path) -> dict[str, Any]:
    """Broken uploads while a client with good clips sends, and clients that never finish."""
    with running(model, "--receive-seconds", str(RECEIVE_S)) as server:
        send_count(server.url, 1, bodies, 4)
        alone = send_count(server.url, 1, bodies, max(10, count // 10))
        broken = list(broken_uploads(count, folder))
        bad, good, begin = Load(), Load(), server.memory()

        async def both() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:

                async def send_broken() -> None:
                    for body in broken:
                        await send(client, bad, body)

                sending = asyncio.create_task(send_broken())
                while not sending.done():
                    await send(client, good, bodies[0])

        asyncio.run(both())
        slow = [_slow(server.url, head) for head in (b"POST /v1/predict HTT", _HEAD + b"abc")]
        after = send_count(server.url, 1, bodies, 4)
        return {
            "uploads": count,
            "statuses": dict(bad.statuses),
            "good_alone": alone.figures(),
            "good_meanwhile": good.figures(),
            "good_afterwards": dict(after.statuses),
            "mib_before": round(begin),
            "mib_after": round(server.memory()),
            "never_finished": slow,
            "exit_status": server.stop(),
        }


_HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\nContent-Length: 99999\r\n\r\n"


def _slow(url: str, text: bytes) -> dict[str, Any]:
    """A client that sends a part of a request and waits: the status that it gets, and after how long."""
    address, begin = urlsplit(url), time.monotonic()
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=RECEIVE_S + 30) as connection:
        connection.sendall(text)
        answer = connection.recv(4096)
    return {"status": answer.split()[1].decode() if answer else "", "seconds": round(time.monotonic() - begin, 1)}


def stop_under_load(model: Path, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """SIGTERM while 16 clients send: what was accepted, and what came back."""
    with running(model) as server:
        send_count(server.url, 4, bodies, 8)
        load, is_over = Load(), threading.Event()

        def go_on(so_far: Load) -> bool:  # clients that are refused would only take the server's CPU time
            return not is_over.is_set() and not so_far.statuses["ConnectError"]

        sending = threading.Thread(
            target=lambda: asyncio.run(_clients(server.url, 16, bodies, go_on, load)), daemon=True
        )
        before = sum(line["event"] == "request" and line["status"] == 200 for line in server.log)
        sending.start()
        time.sleep(seconds)
        begin = time.monotonic()
        status = server.stop()
        is_over.set()
        sending.join(300)
        stopped = next(line for line in server.log if line["event"] == "stopped")
        return {
            "accepted": stopped["accepted"] - before,
            "answered": load.statuses["200"],
            "lost": stopped["accepted"] - before - load.statuses["200"],
            "cut_off": stopped["cut_off"],
            "seconds_to_stop": round(time.monotonic() - begin, 1),
            "exit_status": status,
        }


# --- results ---------------------------------------------------------------------------------------------------------


def faults(results: dict[str, Any]) -> list[str]:
    """What is not as docs/serve.md says."""
    found = [f"{part}: exit status {r['exit_status']}" for part, r in results.items() if r.get("exit_status")]
    for clients in map(str, CLIENTS):
        if set(results["throughput"][clients]["statuses"]) - {"200"}:
            found.append(f"{clients} clients: {results['throughput'][clients]['statuses']}")
    broken = results["misuse"]
    if set(broken["statuses"]) - {"200", "422"} or set(broken["good_meanwhile"]["statuses"]) - {"200"}:
        found.append(
            f"broken uploads: {broken['statuses']}, good ones meanwhile {broken['good_meanwhile']['statuses']}"
        )
    if [slow["status"] for slow in broken["never_finished"]] != ["408", "408"]:
        found.append(f"clients that never finish: {broken['never_finished']}")
    if results["stop"]["lost"] or results["stop"]["cut_off"]:
        found.append(f"lost at SIGTERM: {results['stop']}")
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    alone, kept, broken, stop = (results[name] for name in ("alone", "memory", "misuse", "stop"))
    lines = [
        f"`{results['command']}` – {results['machine']}, {results['model']} with random weights, videos of 4 s, "
        "320 × 240, four clips of each through the network; the clients run on the same machine.",
        "",
        "| clients | requests/s | of the model alone | p50 | p95 |",
        "|---:|---:|---:|---:|---:|",
    ]
    for clients in map(str, CLIENTS):
        r = results["throughput"][clients]
        share = f"{100 * r['requests_per_second'] / alone['videos_per_second']:.0f} %"
        lines.append(
            f"| {clients} | {r['requests_per_second']:.1f} | {share} | {r['p50_ms']:.0f} ms | {r['p95_ms']:.0f} ms |"
        )
    meanwhile, before = broken["good_meanwhile"], broken["good_alone"]
    slow = " and ".join(f"{s['status']} after {s['seconds']:.1f} s" for s in broken["never_finished"])
    lines += [
        "",
        f"The model alone: {alone['videos_per_second']:.1f} videos/s, decoded already.",
        "",
        "| misuse | outcome |",
        "|---|---|",
        f"| {kept['requests']} requests | {kept['mib_early']} MiB after a tenth, {kept['mib_late']} MiB at the end |",
        f"| {broken['uploads']} broken uploads | "
        + ", ".join(f"{n} × {status}" for status, n in sorted(broken["statuses"].items()))
        + f"; {broken['mib_before']} MiB before, {broken['mib_after']} MiB after |",
        f"| a good client meanwhile | p95 {meanwhile['p95_ms']:.0f} ms, alone {before['p95_ms']:.0f} ms |",
        f"| half a header, half a body, then silence (`--receive-seconds {RECEIVE_S:g}`) | {slow} |",
        f"| SIGTERM while 16 clients send | {stop['accepted']} accepted, {stop['answered']} answered, {stop['lost']} "
        f"lost; exit status {stop['exit_status']} after {stop['seconds_to_stop']:.1f} s |",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="r3d_tiny", help="name of a model (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="of each load (default %(default)g)")
    parser.add_argument("--requests", type=int, default=2000, help="for the memory (default %(default)s)")
    parser.add_argument("--malformed", type=int, default=500, help="broken uploads (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures there")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the table between its marks in a page")
    parser.add_argument("--smoke", action="store_true", help="few requests, to see that it runs")
    options = parser.parse_args()
    if options.smoke:
        options.seconds, options.requests, options.malformed = 1.0, 16, 24
    page = options.write.read_text(encoding="utf-8") if options.write else ""
    if options.write and not (BEGIN in page and END in page):
        parser.error(f"{options.write} has no lines {BEGIN} and {END}")
    arguments = " ".join(["python benchmarks/serve.py", *sys.argv[1:]])
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}"
    results: dict[str, Any] = {"command": arguments, "machine": machine, "model": options.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        classes = [f"class {i}" for i in range(12)]
        model = save_model(folder / "model.safetensors", create_model(options.model, classes=12), classes)
        bodies = [good_clip(seed) for seed in range(8)]
        results["alone"] = {"videos_per_second": model_alone(options.model, options.seconds)}
        results["throughput"] = throughput(model, bodies, options.seconds)
        results["memory"] = memory(model, bodies, options.requests)
        results["misuse"] = misuse(model, bodies, options.malformed, folder)
        results["stop"] = stop_under_load(model, bodies, min(5.0, options.seconds))
    results["faults"] = faults({name: part for name, part in results.items() if isinstance(part, dict)})
    text = table(results)
    print(text)
    for fault in results["faults"]:
        print(f"FAULT: {fault}")
    if options.json:
        write_text(options.json, json.dumps(results, indent=2) + "\n")
    if options.write:
        before, _, rest = page.partition(BEGIN)
        write_text(options.write, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    return int(bool(results["faults"]))


if __name__ == "__main__":
    sys.exit(main())
