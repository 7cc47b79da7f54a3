"""Varied lighting, and the noise of a camera and of a depth camera.

Under ``varied`` light a clip may be dim, tinted, switched, dimmed or flickering, with the same distribution for all
classes. A dim picture is noisy. Depth does not depend on the light, but has the errors of a sensor: noise that grows
with the square of the distance, steps, and no reading at some edges and in patches that appear and disappear.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gesta.marionette.renderer import Array

Lighting = Literal["even", "varied"]


def varied_gain(seconds: Array, rng: np.random.Generator) -> Array:
    """Gain of the light by frame and colour, ``(T, 3)``, for frames at these times ``(T,)``."""
    level = np.exp(rng.uniform(np.log(0.1), np.log(1.4)))  # dim as often as bright
    warm, green = rng.uniform(-0.45, 0.45), rng.uniform(-0.2, 0.2)
    tint = np.exp(np.array([warm, green, -warm]))
    gain = np.ones_like(seconds)
    kind = rng.choice(["steady", "switched", "dimmed", "flickering"], p=[0.25, 0.25, 0.25, 0.25])
    if kind == "switched":
        period, dark = rng.uniform(0.5, 2.0), rng.uniform(0.05, 0.4)
        gain = np.where((seconds / period + rng.random()) % 1 < rng.uniform(0.3, 0.7), 1.0, dark)
    elif kind == "dimmed":
        low, fraction = rng.uniform(0.1, 0.5), seconds / max(float(seconds[-1]), 1e-6)
        gain = low + (1 - low) * (fraction if rng.random() < 0.5 else 1 - fraction)
    elif kind == "flickering":
        gain = 1 - rng.uniform(0.3, 0.8) * rng.random(len(seconds))
    return level * gain[:, None] * tint


def add_camera_noise(rgb: Array, rng: np.random.Generator) -> Array:
    """Frames ``(T, H, W, 3)`` uint8 with the noise of a sensor."""
    noise = rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.clip(rgb + np.sqrt(9 + 0.25 * rgb.astype(np.float32)) * noise + 0.5, 0, 255).astype(np.uint8)


def add_depth_noise(metres: Array, rng: np.random.Generator) -> Array:
    """Depth ``(T, H, W)`` in metres as measured: 0 where there is no reading."""
    seen = np.empty_like(metres)
    height, width = metres.shape[1:]
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    fraction = rng.uniform(0.1, 0.9)
    patches: list[tuple[float, ...]] = []
    for frame, true in enumerate(metres):
        noisy = true + 0.006 * true**2 * rng.standard_normal(true.shape, dtype=np.float32)
        step = 0.004 * true**2
        noisy = np.round(noisy / step) * step
        jump = np.zeros(true.shape, dtype=bool)
        for axis in (0, 1):
            big = np.abs(np.diff(true, axis=axis)) > 0.12
            for sides in ((0, 1), (1, 0)):
                jump |= np.pad(big, [sides if a == axis else (0, 0) for a in (0, 1)])
        lost = jump & (rng.random(true.shape, dtype=np.float32) < fraction)
        patches = [patch for patch in patches if rng.random() < 0.8]
        while len(patches) < 6:
            patches.append((*rng.uniform(0, 1, 2), rng.uniform(0.02, 0.13)))
        for y, x, radius in patches:
            lost |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        lost |= rng.random(true.shape, dtype=np.float32) < 0.02
        seen[frame] = np.where(lost, 0, noisy)
    return seen
