"""CPU seconds of loading an epoch of training clips, without and with the cache of decoded frames.

python benchmarks/frame_cache.py ../shared/videos/egogestar data/marionette
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch

from gesta.data.frame_cache import FrameCache
from gesta.data.samples import TrainingClips
from gesta.recipes.experiments import equal_budget, gestures

MOST = 160
"""Videos of a data set that are loaded at most, spread evenly over its list."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("egogestar", help="folder of EgoGestAR, with videos and lists")
    parser.add_argument("marionette", help="folder of Marionette's videos")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for recipe in (gestures(root=options.egogestar), equal_budget("ctn_tiny", options.marionette)):
        records = recipe.data.records("train")
        records = records[:: -(-len(records) // MOST)]
        clips = TrainingClips(records, recipe.model.clip, recipe.train, recipe.data.classes())

        def load(epoch: int, clips: TrainingClips = clips) -> float:
            begin = time.process_time()
            for index in range(len(clips)):
                clips[epoch, index]
            return time.process_time() - begin

        without = load(0)
        with tempfile.TemporaryDirectory() as folder:
            clips.cache = FrameCache(folder, fills=True)
            first, later = load(0), load(1)
            size = sum(file.stat().st_size for file in clips.cache.folder.rglob("*.npy")) / 1e6
        seconds = f"without {without:.1f} s, first epoch {first:.1f} s, later {later:.1f} s"
        print(f"{type(recipe.data).__name__}, {len(records)} videos: {seconds}; {size:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
