"""What files from others may hold: JSON, tables, tar files, weights and pictures, changed in ways that have done harm.

Every function draws from the generator that it is given, so that a seed makes the same bytes again. What would run code
if it were believed writes the file :data:`CANARY` into the current folder.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import torch

Random = np.random.Generator

CANARY = "canary"
RUN = f"open({CANARY!r}, 'a').write('x')"
"""Python code that leaves a trace."""

STRINGS = (
    "", " ", "-", "--out", "~", "..", "../../../../etc/passwd", "/dev/zero", "pipe", "loop", "/proc/self/mem",
    "a" * 300,
    "x" * 100_000, "a\nb", "a\r\n\r\n1\n00:00:00,000 --> 00:00:09,000\nx", "\x1b[2J\x1b]0;t\x07", "\x00", "\x85",
    "\u2028",
    "\u202egnp.exe", "caf\u00e9", "cafe\u0301", "\U0001f600", "\ud800", "=cmd|' /C calc'!A1", "+1", "@SUM(1)",
    "$x^{", "\\frac{",
    "<img src=x onerror=document.title=1>", "</script><script>document.title=1</script>", "{0}", "%s%n", "NaN", "1e999",
    "0x10", "1_000", "\u0661", "9" * 5000, "true", "null", "http://127.0.0.1:9/a.mp4", "rtsp://u:p@127.0.0.1:9/a",
    "hf-hub:a/b",
    "local-dir:.", "file:///etc/passwd", "concat:a|b", "subfile,,start,0,end,9,,:/etc/passwd", "evil.pt",
    "canary_module:Evil",
    "os:system", "gesta.checkpoint:load", "builtins:eval", "TimmFramesConfig", "r3d_tiny",
)  # fmt: skip
"""Text for every place that takes text: paths, names, code, numbers."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 10**18, 999_999_999, -(10**9), 0.5, -0.0, 1e308, [], {}, [[]],
    [None], [0] * 7,
    {"class": "os:system"}, {"class": "canary_module:Evil"}, {"class": ["a"]}, {"class": "Recipe"}, {"a": {"b": 1}},
    {"class": "TimmFramesConfig", "image": "resnet18", "options": {"checkpoint_path": "evil.pt"}},
    {"class": "TimmFramesConfig", "image": "resnet18", "options": {"pretrained_cfg": {"file": "evil.pt"}}},
    {"class": "TimmFramesConfig", "image": "resnet18", "options": {"pretrained": True, "cache_dir": "x"}},
    {"class": "TimmFramesConfig", "image": "hf-hub:a/b"}, {"class": "Lists", "train": "/dev/zero"},
    {"class": "Lists", "train": "pipe"}, {"class": "Folder", "root": "loop"}, {"class": "Init", "weights": "evil.pt"},
    {"class": "R3DConfig", "depths": [10**5] * 4}, {"class": "R3DConfig", "width": 10**7},
    {"class": "STAN", "mode": "x"},
    {"class": "Insert", "at": 10**9, "layer": {"class": "STAN"}}, {"class": "ClipSpec", "frames": 10**9, "size": 10**6},
)  # fmt: skip

RAW = (
    "NaN", "-Infinity", "1e999", "9" * 5000, "1" + "0" * 30, "[" * 100_000, "[" * 3000 + "]" * 3000,
    '{"a":' * 1000 + "1" + "}" * 1000, '"\\ud800"', "-0", "1.0", "", "'a'", "/* */ 1", "1 2", "\ufeff1",
)  # fmt: skip
"""JSON text in place of a value that no Python value gives."""


def one_of(choices: Sequence[Any], random: Random) -> Any:
    return choices[int(random.integers(len(choices)))]


# --- JSON ------------------------------------------------------------------------------------------------------------


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Container and key of every value below one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in list(items) for place in [(value, key), *_places(item)]]


def json_text(value: Any, random: Random) -> str:
    """JSON with one to three changes: types, numbers, names, keys, depth, lengths."""
    whole = [copy.deepcopy(value)]
    for _ in range(int(random.integers(1, 4))):
        if not (places := _places(whole)):
            break
        container, key = one_of(places, random)
        item, way = container[key], int(random.integers(10))
        if way < 3:
            container[key] = copy.deepcopy(one_of(VALUES, random))
        elif way < 5:
            container[key] = one_of(STRINGS, random)
        elif way == 5:
            container[key] = f"@RAW{int(random.integers(len(RAW)))}@"
        elif way == 6:
            container[key] = one_of(([item], {"a": item}, str(item), [item] * 1000), random)
        elif isinstance(container, dict) and way == 7:
            del container[key]
        elif isinstance(container, dict) and way == 8:
            container[one_of(STRINGS, random)] = item
        elif isinstance(container, dict):
            container[f"@TWICE@{key}"] = one_of(VALUES, random)
        else:
            container[key:] = container[key + 1 :] if way == 7 else container[key:] * (2 if way == 8 else 0)
    if not whole:
        return ""
    text = json.dumps(whole[0]).replace('"@TWICE@', '"')
    for number, raw in enumerate(RAW):
        text = text.replace(f'"@RAW{number}@"', raw)
    return text


# --- bytes and files -------------------------------------------------------------------------------------------------


def other_bytes(content: bytes, random: Random) -> bytes:
    """Cut, flipped, holed or spliced."""
    if len(content) < 8:
        return b""
    way = one_of((mutations.truncated, mutations.flipped, mutations.flipped_header, mutations.holed, _spliced), random)
    return way(content, random)


def _spliced(content: bytes, random: Random) -> bytes:
    """A range of bytes stands at another place, too."""
    begin, end, at = (int(number) for number in random.integers(0, len(content), 3))
    return content[:at] + content[min(begin, end) : max(begin, end)] + content[at:]


def write(path: Path, content: bytes | str, random: Random) -> Path:
    """Write a mutant; one of thirty is no regular file, or holds none of its bytes."""
    path.unlink(missing_ok=True)
    content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    way = int(random.integers(180))
    if way == 0:
        os.mkfifo(path)
    elif way == 1:
        path.symlink_to("/dev/zero")
    elif way == 2:
        path.symlink_to(path.name)
    elif way == 3:
        path.mkdir()
    elif way < 6:
        path.write_bytes((b"", random.bytes(3000))[way - 4])
    else:
        path.write_bytes(content)
    return path


# --- lists and class names -------------------------------------------------------------------------------------------


def table_bytes(lines: Sequence[str], random: Random) -> bytes:
    """Lines of a text table with one to three changes of fields, columns, quotes, delimiters or encoding."""
    lines = list(lines)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(len(lines)))
        delimiter = "," if "," in lines[at] else " "
        fields, way = lines[at].split(delimiter), int(random.integers(10))
        field = int(random.integers(len(fields)))
        if way < 4:
            fields[field] = one_of(
                (*STRINGS, "-1", "0", "999999999", "1e3", "0:00:01", "2.5", "train", '"', 'a"b'), random
            )
        elif way == 4:
            fields.insert(field, one_of(STRINGS, random))
        elif way == 5:
            del fields[field]
        elif way == 6:
            fields = fields * int(random.integers(2, 500))
        lines[at] = delimiter.join(fields)
        if way == 7:
            lines.insert(int(random.integers(len(lines))), lines[at])
        elif way == 8:
            lines = [line.replace(delimiter, one_of(("\t", ";", "|", "  ", ""), random)) for line in lines]
        elif way == 9:
            lines[0] = lines[0].upper() if int(random.integers(2)) else "a,b,c"
    text = one_of(("\n", "\n", "\n", "\r\n", "\r", "\n\n"), random).join(lines)
    encoding = one_of(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"), random)
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


# --- tar files -------------------------------------------------------------------------------------------------------


ODD_KINDS = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"Z", b"S")
ODD_TARGETS = ("000000.mp4", "000009.mp4", "nothing.mp4", "/etc/passwd", "../x")
ODD_NAMES = ("000000.mp4", "000000.json", "000000.cls", "._000000.mp4", "/000007.mp4", "../000007.mp4")
PAX_NAMES = ("size", "path", "linkpath", "GNU.sparse.map", "mtime")


def tar_bytes(videos: Sequence[bytes], random: Random) -> bytes:
    """A shard of four samples: odd members beside or in place of them, or fields of a header that are not true."""
    file = io.BytesIO()
    way, odd = int(random.integers(14)), int(random.integers(4))
    form = tarfile.PAX_FORMAT if way in (7, 8) else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as tar:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "", **pax: str) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname, member.pax_headers = len(content), kind, target, pax
            tar.addfile(member, io.BytesIO(content))

        for number in range(4):
            name, video, label = f"{number:06d}", one_of(videos, random), b"%d" % (number % 2)
            note = json.dumps({"name": f"wave/{number}.mp4", "label": number % 2})
            if number == odd:
                text = _text_of_a_tar(random)
                name = text[:5000] or "x" if way == 1 else name
                video = other_bytes(video, random) if way == 2 else video
                note = json_text(json.loads(note), random) if way == 3 else note
                label = text.encode() if way == 4 else label
            add(f"{name}.mp4", video)
            add(f"{name}.json", note.encode("utf-8", "surrogatepass"))
            add(f"{name}.cls", label)
        if way == 5:
            add("000009.mp4", kind=one_of(ODD_KINDS, random), target=one_of(ODD_TARGETS, random))
        elif way == 6:
            add(one_of(ODD_NAMES, random), videos[0])
        elif way == 7:
            add("000008.mp4", videos[0], **{one_of(PAX_NAMES, random): _text_of_a_tar(random)[:2000]})
    content = bytearray(file.getvalue())
    if way in (9, 10, 11):
        _change_header(content, random)
    elif way in (12, 13):
        return other_bytes(bytes(content), random)
    return bytes(content)


def _text_of_a_tar(random: Random) -> str:
    """Text that can be written into a header."""
    return one_of(STRINGS, random).replace("\0", "").encode("utf-8", "replace").decode()


def _change_header(content: bytearray, random: Random) -> None:
    """Another value in a field of a member's header, whose checksum is made to agree."""
    heads = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = one_of(heads, random)
    begin, end = one_of(
        ((0, 100), (100, 108), (124, 136), (124, 136), (136, 148), (156, 157), (157, 257), (345, 500)), random
    )
    value = one_of(
        (
            b"77777777777\0",
            b"-0000000001\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"\0" * 12,
            b"zzz",
            b"00000000000\0",
        ),
        random,
    )
    content[at + begin : at + end] = (value if int(random.integers(3)) else random.bytes(end - begin))[
        : end - begin
    ].ljust(end - begin, b"\0")
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])


# --- weights ---------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickled, it runs :data:`RUN`."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, (RUN,)


def payload(random: Random) -> bytes:
    """A pickle that runs code, in one of the wrappings that are taken for weights."""
    holder = one_of(
        (Runs(), {"state_dict": {"a": Runs()}}, OrderedDict(a=Runs()), [Runs()], argparse.Namespace(a=Runs())), random
    )
    plain, file = pickle.dumps(holder, protocol=int(random.integers(0, 5))), io.BytesIO()
    way = int(random.integers(4))
    if way == 0:
        return plain
    if way == 1:
        torch.save(holder, file)
    elif way == 2:
        torch.save(holder, file, _use_new_zipfile_serialization=False)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for name in ("a/data.pkl", "a/constants.pkl", "a/version", "a/byteorder"):
                archive.writestr(name, plain if name.endswith("pkl") else b"3\n")
    return file.getvalue()


def changed_weights(weights: dict[str, Any], random: Random) -> dict[Any, Any]:
    """Named tensors with one to three changes of shapes, types, values, names or wrappings."""
    changed: dict[Any, Any] = dict(weights)
    for _ in range(int(random.integers(1, 4))):
        name = one_of(list(changed), random)
        tensor = changed[name] if isinstance(changed[name], torch.Tensor) else torch.zeros(3)
        way = int(random.integers(8))
        if way < 5:
            others = (one_of(VALUES, random), one_of(STRINGS, random), changed)
            changed[name] = one_of(others, random) if int(random.integers(6)) == 0 else _other_tensor(tensor, random)
        elif way == 5:
            changed[one_of((*STRINGS, 7, (1, 2), None), random)] = changed.pop(name)
        elif way == 6:
            changed = {one_of(("state_dict", "model_state", "model", "state", "magic"), random): changed}
        else:
            deep: Any = tensor
            for _ in range(300):
                deep = {"state_dict": deep} if int(random.integers(2)) else [deep]
            changed["model"] = deep
    return changed


def _other_tensor(tensor: torch.Tensor, random: Random) -> torch.Tensor:
    """A tensor with other values, another shape or another type, or one that claims to be huge."""
    if tensor.numel() > 10**6:  # a change before has made it so; converting it would need its memory
        tensor = torch.zeros(3)
    new: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor * float("nan"), lambda: tensor.flatten(), lambda: tensor[..., None],
        lambda: tensor.reshape(-1)[:0], lambda: torch.zeros(1).expand(10**12), lambda: torch.empty(0, 10**9),
        lambda: torch.zeros(1).expand(10**6, 10**5), lambda: tensor.to(torch.complex64), lambda: tensor.to(torch.int8),
        lambda: tensor.double(), lambda: tensor.bool(), lambda: tensor.to_sparse(), lambda: tensor.to("meta"),
        lambda: torch.nn.Parameter(tensor.float()), lambda: torch.tensor(1.0),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8),
    )  # fmt: skip
    return one_of(new, random)()


def torch_bytes(content: Any, random: Random) -> bytes:
    """What ``torch.save`` writes, at times in its old format."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=bool(random.integers(4)))
    return file.getvalue()


def safetensors_bytes(content: bytes, key: str, seal: Callable[[str], str], random: Random) -> bytes:
    """A .safetensors file with another model description (most), other entries of its header, or other bytes.

    Args:
        content: an intact one.
        key: of the description in its metadata.
        seal: gives a description the checksum that belongs to it.
        random: where changes are drawn from.
    """
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    way = int(random.integers(10))
    if way < 8:
        header["__metadata__"][key] = seal(json_text(json.loads(header["__metadata__"][key]), random))
        text = json.dumps(header)
    elif way == 8:
        text = json_text(header, random)
    else:
        return other_bytes(content, random)
    new = text.encode("utf-8", "surrogatepass")
    length = len(new) if int(random.integers(20)) else one_of((0, 2**63, 2**64 - 1, len(new) * 2, 10**9), random)
    return struct.pack("<Q", length) + new + content[8 + size :]


# --- pictures --------------------------------------------------------------------------------------------------------


def picture_bytes(random: Random) -> bytes:
    """Pictures of formats that start programs or that few have tried, and pictures that grow when they are read."""
    png = mutations.image(np.zeros((48, 64), np.uint8), "PNG")
    spider = struct.pack(">27f", 1, 48, 0, 0, 1, *[0] * 6, 64, 1, *[0] * 8, 256, 1024, *[0] * 4)
    return one_of(
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(canary) (w) file closefile showpage\n",
            spider.ljust(20_000, b"\0"), mutations.png_of_size(png, 60_000, 60_000), mutations.png_of_size(png, 0, 0),
            mutations.image(np.zeros((48, 64), np.uint8), "GIF"), mutations.image(np.zeros((48, 64), np.uint8), "TIFF"),
            mutations.image(np.zeros((48, 64, 3), np.uint8), "BMP"),
            mutations.image(np.zeros((48, 64, 4), np.uint8), "PNG"),
            mutations.image(np.zeros((1, 1), np.uint8), "JPEG"),
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>",
            b"#define x_width 64\n#define x_height 48\nstatic char x_bits[] = {", b"P6\n999999 999999\n255\n",
            b"icns\0\0\0\x10",
        ),
        random,
    )  # fmt: skip


def with_exif(jpeg: bytes, random: Random) -> bytes:
    """A JPEG with an EXIF block whose orientation, type or offsets are not true."""
    kind, count, value = (
        one_of((1, 2, 3, 4, 5, 7, 12, 99), random),
        one_of((0, 1, 2, 2**31, 2**32 - 1), random),
        int(random.integers(12)),
    )
    exif = b"Exif\0\0II*\0" + struct.pack(
        "<IHHHIII", one_of((8, 0, 2**31), random), 1, 0x112, kind, count, value, one_of((0, 8), random)
    )
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
