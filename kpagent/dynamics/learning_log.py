"""TensorBoard logs of a Struct-VRNN that learns: scalars, pictures with keypoints, films of imagined futures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from kpagent.dynamics.learning_evaluation import Evaluation

_MS_A_FRAME = 200


class LearningLog:
    """Logs in a folder, as a context.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder)

    def __enter__(self) -> LearningLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def evaluation(self, group: str, evaluation: Evaluation, step: int) -> None:
        """Held-out figures; code errors under the number of the step ahead, from 1."""
        image, future = evaluation.image, evaluation.future
        values = {"loss": evaluation.loss, "l2": image.l2, "share_of_copying": evaluation.copy_share}
        self.scalars(f"{group}_held_out", values, step)
        if future is not None:
            for name, errors in (("code_error", future.errors), ("constant_error", future.constant_errors)):
                self.scalars(f"{group}_{name}", {f"{ahead:02d}": error for ahead, error in enumerate(errors, 1)}, step)

    def picture(self, tag: str, frame: np.ndarray, step: int) -> None:
        """One frame (H, W, 3) uint8."""
        self._writer.add_image(tag, frame, step, dataformats="HWC")

    def film(self, tag: str, frames: Sequence[np.ndarray], step: int) -> None:
        """Frames (H, W, 3) uint8 as an animated GIF, which TensorBoard plays."""
        # SummaryWriter.add_video makes the same summary, and needs moviepy for it.
        from tensorboard.compat.proto.summary_pb2 import Summary

        first, *others = [Image.fromarray(frame).quantize(64) for frame in frames]
        gif = io.BytesIO()
        first.save(gif, "GIF", save_all=True, append_images=others, duration=_MS_A_FRAME, loop=0)
        height, width = frames[0].shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.getvalue())
        writer: Any = self._writer.file_writer
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
        self._writer.flush()
