"""A video that an engine takes as such: its sampled frames, and what the model is told of them.

vLLM takes frames as ``data:video/jpeg;base64,FRAME,FRAME``; despite the name they may be PNG files
(``multimodal/media/video.py``). Where in the video they stand is said beside the messages, in
``media_io_kwargs``: the number of each frame, and frames a second. Frames are numbered in
milliseconds here, so the rate is 1000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pybase64

from belvedere.images.geometry import VideoGeometry
from belvedere.images.prepared import FrameTime, PreparedImage, StageTimes
from belvedere.images.video import Frame

__all__ = ["clip", "frame_kwargs", "frames_url"]

_PER_SECOND = 1000
_MEDIA_TYPE = "image/png"


def clip(frames: Sequence[Frame], model: VideoGeometry) -> tuple[PreparedImage, ...]:
    """`frames`, which have the size that `model` wants, with the times that it is told.

    Qwen3-VL merges `temporal_patch_size` frames into one step and is told the middle between the
    first and the last of them; a missing last one is a copy of the last there is
    (``qwen3_vl.py:1070`` of vLLM 0.32).
    """
    prepared = []
    for index, frame in enumerate(frames):
        first = index - index % model.temporal_patch_size
        last = min(first + model.temporal_patch_size, len(frames)) - 1
        middle_s = (_number(frames[first]) + _number(frames[last])) / 2 / _PER_SECOND
        image = PreparedImage(
            frame.original_size,
            frame.size,
            frame.png,
            _MEDIA_TYPE,
            hashlib.sha256(frame.png).hexdigest(),
            StageTimes(),
            frame=FrameTime(frame.time_s, step_s=middle_s, leads=index == first),
        )
        prepared.append(image)
    return tuple(prepared)


def frames_url(images: Sequence[PreparedImage]) -> str:
    """All frames as one URL."""
    return "data:video/jpeg;base64," + ",".join(
        pybase64.b64encode_as_string(image.data) for image in images
    )


def frame_kwargs(images: Sequence[PreparedImage]) -> dict[str, Any]:
    """``media_io_kwargs`` of a request with these frames."""
    numbers = [round(image.frame.time_s * _PER_SECOND) for image in images if image.frame]
    assert len(numbers) == len(images), "frames have times"
    return {
        "video": {
            "num_frames": len(numbers),
            "fps": _PER_SECOND,
            "frames_indices": numbers,
            "total_num_frames": max(numbers[-1] + 1, len(numbers)),
            "do_sample_frames": False,
        }
    }


def _number(frame: Frame) -> int:
    return round(frame.time_s * _PER_SECOND)
