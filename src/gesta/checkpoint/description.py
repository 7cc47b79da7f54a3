"""What lies beside public weights: ``config.json`` with sizes and class names, and how pixels become floats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesta.config import from_json, read_json, to_json
from gesta.errors import CheckpointError, GestaError
from gesta.model import ClipSpec
from gesta.records import class_name

_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class Pixels:
    """How pixels in [0, 1] become floats, in the words of :class:`gesta.model.ClipSpec`.

    Attributes:
        mean, std: for each channel.
        source: the file that says so, and why they are not what it prints.
        size: edge of a clip in pixels; None if it does not say.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    size: int | None

    def take(self, clip: ClipSpec) -> list[str]:
        """Give a clip's description these values; sentences on what that changed, and what it did not."""
        before = words(clip)
        clip.mean, clip.std = self.mean, self.std
        remarks = [] if words(clip) == before else [f"the public code of its model has {before}"]
        if self.size not in (None, clip.size):
            remarks.append(
                f"clips of {clip.size} px, as the positions in the weights; {self.source} says {self.size} px"
            )
        return remarks

    def remark(self, clip: ClipSpec) -> str:
        """A sentence that compares these with what a model does."""
        ours, theirs = words(clip), words(self)
        if ours == theirs:
            return f"pixels: {theirs} from {self.source}"
        flags = "--model.clip.mean and --model.clip.std"
        return f"pixels: {ours} in the model, but {theirs} from {self.source}; {flags} change them"


def read_config(weights: Path) -> dict[str, Any] | None:
    """The ``config.json`` beside a file of weights.

    Raises:
        GestaError: it is not valid.
    """
    path = weights.with_name("config.json")
    return read_json(path, dict) if path.is_file() else None


def class_names(config: dict[str, Any]) -> list[str] | None:
    """The names of the classes in a ``config.json``; None where it has none but ``LABEL_0`` …."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names or names.keys() != {str(i) for i in range(len(names))}:
        return None
    listed = [names[str(i)] for i in range(len(names))]
    if not all(isinstance(name, str) and name.strip() and not name.startswith("LABEL_") for name in listed):
        return None
    listed = list(map(class_name, listed))
    return listed if len(set(listed)) == len(listed) else None


def read_pixels(weights: Path) -> Pixels | None:
    """How pixels become floats, from the description beside a file of weights; None if there is none, or it does not
    say (then a class of another library has them).

    Raises:
        GestaError: it is not valid, or has no values that can be used.
    """
    path = next((p for name in _PROCESSORS if (p := weights.with_name(name)).is_file()), None)
    if path is None:
        return None
    given = read_json(path, dict)
    normalise, why = given.get("do_normalize", True), ""
    try:
        scale = 255 * float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 255.0
        mean, std = [0.0] * 3, [1 / scale] * 3
        if given.get("offset"):  # ViViT: x / 127.5 - 1
            mean, why = std, " (x · rescale_factor − 1"
            why += "; do_normalize would do it twice, which is not how they were trained)" if normalise else ")"
        elif not normalise:
            why = " (do_normalize: false)"
        elif "image_mean" not in given:
            return None
        else:
            mean, std = ([float(v) / scale for v in given[f"image_{name}"]] for name in ("mean", "std"))
        clip: ClipSpec = from_json(to_json(ClipSpec()) | {"mean": mean, "std": std}, ClipSpec)
    except (GestaError, TypeError, ValueError, KeyError, ZeroDivisionError):
        raise CheckpointError(f"{path}: has no image_mean and image_std that can be used; correct it") from None
    crop = given.get("crop_size") or given.get("size")
    size = crop.get("height") if isinstance(crop, dict) else crop
    return Pixels(clip.mean, clip.std, f"{path.name}{why}", size if isinstance(size, int) else None)


def words(clip: ClipSpec | Pixels) -> str:
    """Mean and standard deviation, each once if they are the same for all channels."""
    both = (("mean", clip.mean), ("std", clip.std))
    return ", ".join(f"{name} {' '.join(f'{value:.4g}' for value in dict.fromkeys(values))}" for name, values in both)
