"""What this machine has, what is missing and how to get it: text to paste into an issue (``gesta doctor``)."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from gesta.processes import memory

PACKAGES = ("gesta", "torch", "torchvision", "lightning", "timm", "av", "numpy", "scipy", "torchmetrics", "safetensors",
            "huggingface_hub", "tyro", "rich", "matplotlib", "jinja2", "pillow", "tensorboard")  # fmt: skip
DECODERS = ("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg", "gif")
EXTRAS = {
    "torchcodec": (("torchcodec",), "a second video decoder (decoder=torchcodec)"),
    "analysis": (("sklearn",), "t-SNE figures"),
    "parquet": (("pyarrow",), "features in Parquet files (--format parquet)"),
    "flow": (("cv2",), "optical flow (gesta data prepare --flow)"),
    "lora": (("peft",), "training with adapters (train.lora)"),
    "export": (("onnx", "onnxscript", "onnxruntime"), "exported ONNX files (gesta export --to onnx)"),
    "serve": (("fastapi", "uvicorn", "python_multipart", "prometheus_client"), "predictions over HTTP (gesta serve)"),
    "ray": (("ray", "pyarrow"), "parts on a Ray cluster (--ray)"),
    "wandb": (("wandb",), "curves of trainings in W&B (train.logger)"),
}
"""Extras of pyproject.toml: the modules that the extra brings, and what it is for."""

DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python-headless",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""What brings a module of another name."""


State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check.

    Attributes:
        group: heading under which it is printed.
        name: what was checked.
        value: the outcome.
        state: ``wrong`` stops work, ``note`` is optional or worth knowing.
        remedy: what to do about it; empty if nothing.
    """

    group: str
    name: str
    value: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order of the checks."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (notes do not count)."""
        return all(f.state != "wrong" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``ok`` and the findings as plain values."""
        return {"ok": self.ok, "findings": [asdict(f) for f in self.findings]}

    def __str__(self) -> str:
        mark = {"ok": " ", "note": "-", "wrong": "x"}
        width = max((len(f.name) for f in self.findings), default=0)
        lines, group = [], ""
        for f in self.findings:
            if f.group != group:
                group = f.group
                lines.append(group)
            lines.append(f" {mark[f.state]} {f.name:<{width}}  {f.value}")
            if f.remedy:
                lines.append(f"   {'':<{width}}  -> {f.remedy}")
        notes = sum(f.state == "note" for f in self.findings)
        wrong = [f.name for f in self.findings if f.state == "wrong"]
        lines.append(f"{'wrong: ' + ', '.join(wrong) if wrong else 'all well'}; {notes} note{'s' * (notes != 1)}")
        return "\n".join(lines)


Add = Callable[..., None]
"""Adds a finding of one group: name, value, state, remedy; the last is left out where nothing is wrong."""


def diagnose() -> Diagnosis:
    """Check versions, the machine, its devices, decoders and optional packages, and try to write and read a video."""
    findings: list[Finding] = []
    for group, check in CHECKS.items():

        def add(name: str, value: str, state: State = "ok", remedy: str = "", group: str = group) -> None:
            remedy = "" if state == "ok" else remedy
            findings.append(Finding(group=group, name=name, value=value, state=state, remedy=remedy))

        try:
            check(add)
        except Exception as error:  # a broken installation may fail anywhere: report it and continue
            add(group, f"{type(error).__name__}: {error}", "wrong")
    return Diagnosis(findings)


def _versions(add: Add) -> None:
    add("python", f"{platform.python_version()} ({platform.python_implementation()})")
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            remedy = "pip install gesta brings it; is this the environment gesta was installed in?"
            add(name, "missing", "wrong", remedy)
            continue
        module = {"pillow": "PIL"}.get(name, name)
        error = _import_error(module)
        version = getattr(sys.modules.get(module), "__version__", version)  # torch's says for which devices it is built
        add(name, version if not error else f"{version} does not load: {error}", "wrong" if error else "ok",
            _TORCHVISION if name in ("torchvision", "timm", "torchmetrics") else "")  # fmt: skip


_TORCHVISION = "torch and torchvision must come from the same index: pip install --force-reinstall torch torchvision"


def _machine(add: Add) -> None:
    import torch

    add("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("CPU cores", f"{usable} usable of {os.cpu_count()}; torch computes with {torch.get_num_threads()} threads")
    if (known := memory()) is not None:
        total, free = known
        add("memory", f"{_gb(free)} free of {_gb(total)}", "note" if free < 2 * 2**30 else "ok",
            "close other programs, or take a smaller batch_size and fewer workers")  # fmt: skip
    if os.path.isdir("/dev/shm"):
        shared = shutil.disk_usage("/dev/shm").free
        add("shared memory", f"{_gb(shared)} free", "note" if shared < 2**30 else "ok",
            "loader workers pass batches through it: start the container with more (docker run --shm-size 8g)",
        )  # fmt: skip
    folder = os.getcwd()
    disk = shutil.disk_usage(folder)
    add("disk", f"{_gb(disk.free)} free of {_gb(disk.total)} in this folder",
        "note" if disk.free < 2 * 2**30 else "ok", "make room: checkpoints of a large model take gigabytes",
    )  # fmt: skip
    try:
        with tempfile.TemporaryFile(dir=folder):
            add("working folder", "can be written")
    except OSError as error:
        add("working folder", f"cannot be written: {error.strerror}", "note", "runs/ is made in it: cd elsewhere")


def _devices(add: Add) -> None:
    import torch

    if torch.cuda.is_available():
        kind = "rocm" if torch.version.hip else "cuda"
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            free, _ = torch.cuda.mem_get_info(i)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no fast bfloat16"
            add(f"{kind}:{i}", f"{p.name}, {_gb(free)} free of {_gb(p.total_memory)}, capability {p.major}.{p.minor}, "
                f"{bf16}")  # fmt: skip
        built_for = torch.version.hip or torch.version.cuda
        add("libraries", f"built for {kind} {built_for}, cuDNN {torch.backends.cudnn.version()}")
    elif torch.version.cuda or torch.version.hip:
        add("cuda", f"torch is built for {torch.version.cuda or torch.version.hip}, but no device is usable", "note",
            "if there is a GPU, see nvidia-smi: driver missing, too old for this torch, or hidden by "
            "CUDA_VISIBLE_DEVICES")  # fmt: skip
    else:
        add("cuda", "this torch is built without it", "note", "if there is a GPU, install torch from the index for it")
    if torch.backends.mps.is_available():
        add("mps", f"usable, {'bfloat16' if torch.backends.mps.is_macos_or_newer(14, 0) else 'no bfloat16'}")
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None and other.type not in ("cuda", "mps"):
        add(other.type, f"{torch.accelerator.device_count()} devices")
    capability = torch.backends.cpu.get_cpu_capability()
    add("cpu", f"{capability} instructions")


def _video(add: Add) -> None:
    import av
    from av.codec import Codec

    libraries = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in sorted(av.library_versions.items()))
    add("FFmpeg in PyAV", libraries)

    def has(name: str, mode: Literal["r", "w"]) -> bool:
        try:
            Codec(name, mode)
        except Exception:  # UnknownCodecError moved between PyAV's modules
            return False
        return True

    present = [name for name in DECODERS if has(name, "r")]
    missing = [name for name in DECODERS if name not in present and name != "libdav1d"]
    rebuild = "pip install --force-reinstall --only-binary av av brings the wheel with all of them"
    add("decoders", ", ".join(present) + (f"; missing: {', '.join(missing)}" if missing else ""),
        "note" if missing else "ok", rebuild)  # fmt: skip
    if has("libx264", "w"):
        add("H.264 encoder", "libx264")
    else:
        add("H.264 encoder", "missing, so no synthetic data set, no annotated videos, no demo", "wrong", rebuild)


def _optional(add: Add) -> None:
    for extra, (modules, use) in EXTRAS.items():
        for module in modules:
            _package(add, module, use, f'pip install "gesta[{extra}]"')


def _package(add: Add, module: str, use: str, remedy: str) -> None:
    """Whether a package is installed and loads; if not, what it is needed for."""
    name = DISTRIBUTIONS.get(module, module)
    try:  # the current folder may hold a folder of that name (W&B makes one), which Python would import
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        add(name, f"not installed; needed for {use}", "note", remedy)
        return
    error = _import_error(module)
    if not error:
        add(name, f"{version} loads")
        return
    if module == "torchcodec":
        ffmpeg = "FFmpeg's shared libraries (4 to 8; apt or brew install ffmpeg)"
        remedy = f"it needs {ffmpeg} and the torch it was built for"
    add(name, f"does not load; needed for {use}: {error}", "note", remedy)


def _self_test(add: Add) -> None:
    """Encode and decode a video, run a convolution on each device."""
    import torch

    tests: dict[str, Callable[[], str]] = {"video": _round_trip, "cpu": partial(_convolve, "cpu")}
    if torch.accelerator.is_available() and (device := torch.accelerator.current_accelerator()) is not None:
        tests[device.type] = partial(_convolve, device.type)
    for name, test in tests.items():
        try:
            add(name, test())
        except Exception as error:
            add(name, f"failed: {type(error).__name__}: {error}", "wrong", "paste this page into an issue")


def _round_trip() -> str:
    """Encode eight grey frames and decode them."""
    import av
    import numpy as np

    levels = range(0, 240, 30)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in levels:
            image = np.full((48, 64, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as source:
        decoded = [float(f.to_ndarray(format="rgb24").mean()) for f in source.decode(video=0)]
    error = max((abs(a - b) for a, b in zip(decoded, levels)), default=0.0)
    if len(decoded) != 8 or error > 8:
        raise RuntimeError(f"8 grey frames came back as {[round(x) for x in decoded]}")
    return "8 frames encoded as H.264 and decoded again"


def _convolve(device: str) -> str:
    import torch

    video = torch.ones(1, 3, 4, 16, 16, device=device)
    weight = torch.ones(2, 3, 3, 3, 3, device=device)
    mean = float(torch.nn.functional.conv3d(video, weight).float().mean())
    if mean != 81.0:
        raise RuntimeError(f"a convolution that must give 81 gave {mean}")
    return "computes"


CHECKS: dict[str, Callable[[Add], None]] = {
    "versions": _versions,
    "machine": _machine,
    "devices": _devices,
    "video": _video,
    "optional": _optional,
    "self test": _self_test,
}
"""By the heading of their findings."""


def _import_error(module: str) -> str:
    """Why a module cannot be imported, in one line; empty if it can."""
    if module in sys.modules:
        return ""
    try:
        with warnings.catch_warnings():  # deprecations in other packages are no fault of this machine
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            importlib.import_module(module)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return ""


def _gb(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
