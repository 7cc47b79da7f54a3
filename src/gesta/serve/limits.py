"""What one request, and all of them together, may cost."""

from __future__ import annotations

from gesta.config import Count, Positive, config


class Refusal(Exception):
    """A request that is not answered with predictions.

    Args:
        status: of HTTP.
        sentence: what is wrong, and the remedy.
        retry_s: seconds after which the client may try again; 0 says nothing about that.
    """

    def __init__(self, status: int, sentence: str, retry_s: int = 0) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_s = status, sentence, retry_s


@config
class Limits:
    """Limits of a server.

    Attributes:
        max_megabytes: of an upload, in 10**6 bytes.
        max_seconds: that a video may last.
        max_frames: that a video may have.
        max_pixels: of a frame, width times height.
        max_queue: requests that are received, wait or are worked on at once.
        max_connections: that are open at once.
        receive_seconds: in which a request must have come, from its first byte to its last.
        decode_seconds: that the server waits for the decoding of one video.
        decode_memory: MiB that a decoding process may take besides what it has at its start.
    """

    max_megabytes: Positive = 100.0
    max_seconds: Positive = 300.0
    max_frames: Count = 20_000
    max_pixels: Count = 4096 * 2304
    max_queue: Count = 32
    max_connections: Count = 512
    receive_seconds: Positive = 60.0
    decode_seconds: Positive = 60.0
    decode_memory: Count = 2048

    @property
    def bytes(self) -> int:
        """Of an upload."""
        return int(self.max_megabytes * 10**6)
