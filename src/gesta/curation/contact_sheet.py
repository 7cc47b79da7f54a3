"""A picture of what a Marionette set shows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gesta.files import make_folder, write_atomically
from gesta.marionette.dataset import Marionette
from gesta.marionette.puppet import SUBJECTS
from gesta.records import SPLITS, by_space, label_in
from gesta.video.read import read


def contact_sheet(root: str | os.PathLike[str], out: str | os.PathLike[str], columns: int = 8, side: int = 80) -> Path:
    """A picture of the set: a row per action, ``columns`` frames across time, each ``side`` × ``side`` pixels."""
    data = Marionette(root=str(root))
    records = [record for split in SPLITS for record in data.records(split)]
    space, names = next(iter(by_space(data.classes()).items()))
    margin = 104
    sheet = Image.new("RGB", (margin + columns * side, len(names) * side), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for row, name in enumerate(names):
        in_row = [record for record in records if label_in(record, space) == row]
        if not in_row:
            continue
        subject = f"_S{1 + (5 * row + 4) % SUBJECTS:02d}_"  # another one in every row, if there are enough clips
        shown = next((record for record in in_row if subject in record.name), in_row[0])
        draw.text((8, (row + 0.5) * side), _lines(name), fill="black", font=font, anchor="lm")
        video = read(
            shown.path,
            lambda n: np.linspace(0.04 * n, 0.96 * n - 1, columns).round().astype(np.int64),
            start=shown.start,
            end=shown.end,
        )
        for column, frame in enumerate(video.permute(0, 2, 3, 1).numpy()):
            small = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(small, (margin + column * side, row * side))
    path = Path(out)
    make_folder(path.parent)
    # 256 well-chosen colours keep the file small; refined, because the walls alone would take most of them
    image = sheet.quantize(256, Image.Quantize.MEDIANCUT, kmeans=5, dither=Image.Dither.NONE)
    with write_atomically(path) as file:
        image.save(file, "PNG", optimize=True)
    return path


def _lines(name: str) -> str:
    """A class name with spaces for underscores, on two lines if it is long."""
    words = name.split("_")
    if len(name) <= 14:
        return " ".join(words)
    half = (len(words) + 1) // 2
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])
