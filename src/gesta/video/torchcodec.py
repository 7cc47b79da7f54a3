"""Frames out of video files through torchcodec, where it is installed and loads."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from gesta.errors import GestaError
from gesta.video.decode import VideoFile
from gesta.video.picture import FrameBuffer, scaled_size


def video_decoder() -> Any:
    """torchcodec's ``VideoDecoder`` class.

    Raises:
        GestaError: torchcodec is not installed, or finds no FFmpeg libraries.
    """
    try:  # an optional dependency
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError:
        raise GestaError(
            "torchcodec is not installed; pip install 'gesta[torchcodec]', or use the decoder pyav"
        ) from None
    except (ImportError, OSError, RuntimeError):
        raise GestaError(
            "torchcodec cannot load FFmpeg's shared libraries; install FFmpeg (apt-get install ffmpeg or conda "
            "install ffmpeg), or use the decoder pyav"
        ) from None
    return VideoDecoder


class TorchcodecFile(VideoFile):
    """Source of frames: a video file through torchcodec, which counts exactly and gives frames by number.

    torchcodec orders frames by timestamp, so a file whose timestamps are unusable (AVI, repeated or missing times) is
    left to PyAV, and so is one in which its decoder meets damage.
    """

    def __enter__(self) -> TorchcodecFile:
        decoder = video_decoder()
        super().__enter__()
        self._decoder: Any = None
        if self._index.keys and os.path.isfile(self.path):  # not a member of a tar file
            try:
                self._decoder = decoder(self.path, stream_index=self.stream.index, seek_mode="exact")
            except Exception:  # a codec that this FFmpeg lacks, or damage
                return self
            self.frames = len(self._decoder)
        return self

    def fill(self, buffer: FrameBuffer) -> int:
        """Decode the chosen frames into the buffer."""
        if self._decoder is not None:
            try:
                frames: Tensor = self._decoder.get_frames_at(buffer.numbers).data
            except Exception:  # damage
                self._decoder = None
            else:
                height, width = frames.shape[-2:]
                width, height = scaled_size(width, height, buffer.short_side, buffer.enlarge)
                if (height, width) != frames.shape[-2:]:
                    frames = interpolate(frames, (height, width), mode="bilinear", antialias=True)
                for number, image in zip(buffer.numbers, frames.numpy()):
                    buffer.add_image(number, image)
                return self.frames
        return super().fill(buffer)
