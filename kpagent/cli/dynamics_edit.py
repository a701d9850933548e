"""`kpagent dynamics edit`: move an observed keypoint and see what would follow."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.cli.terminal import console
from kpagent.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from kpagent.dynamics.struct_vrnn import StructVRNN

SAMPLES = 5


@dataclass(frozen=True)
class Edit:
    """Move observed keypoints and see what would follow, as a picture, a video, or on a page where they can be dragged."""

    weights: Path
    """Weights file of a Struct-VRNN."""
    data: Path
    """Sequences, an HDF5 file."""
    out: Path | None = None
    """Picture (.png) or video (.mp4) to write."""
    index: int = 0
    """Which sequence, counted from 0; past their number, the next part of each."""
    keypoint: tuple[int, ...] = ()
    """Which keypoints to move, counted from 0; pictures show their numbers."""
    to: tuple[float, ...] = ()
    """Where the keypoint is at the last observed frame, X Y from -1 to 1, y down. Several X Y: the corners of a path that it
    goes along, from where it is at the start, instead of its own movement."""
    by: tuple[float, ...] = ()
    """Or how far the keypoints are moved at the last observed frame, DX DY; the frame is 2 wide."""
    start: int = 0
    """First observed frame that is edited; from there the offset grows steadily."""
    observed: int | None = None
    """Frames to observe; as many as in training, if not given."""
    steps: int = 8
    """Frames to foretell."""
    samples: int | None = None
    """Futures to draw of each; 5 if not given, or 1 of a deterministic model."""
    seed: int = 0
    """Of the futures."""
    fps: float = 8
    """Frames a second of the video."""
    serve: bool = False
    """Open the page instead of writing a file."""
    port: int = 8400
    """Of the page, on this machine only; 0 takes any that is free."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Write the picture or the video and say so, or serve the page until Ctrl-C."""
        from kpagent.dynamics.editing import require_keypoints
        from kpagent.dynamics.struct_vrnn import StructVRNN
        from kpagent.training import pick_device

        self._require_arguments()
        model = StructVRNN.load(self.weights, pick_device(self.device))
        require_keypoints(model)
        frames, actions = self._window(model)
        samples = self.samples if self.samples is not None else SAMPLES if model.config.dynamics.stochastic else 1
        return self._serve(model, frames, actions, samples) if self.serve else self._write(model, frames, actions, samples)

    def _serve(self, model: StructVRNN, frames: np.ndarray, actions: Any, samples: int) -> int:
        from kpagent.dynamics.editing_page import EditingServer, Scene

        scene = Scene(model, frames, steps=self.steps, samples=samples, actions=actions, seed=self.seed)
        with EditingServer(scene, self.port) as server:
            console.print(f"{server.url} (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        return 0

    def _write(self, model: StructVRNN, frames: np.ndarray, actions: Any, samples: int) -> int:
        from kpagent.drawing import write_png, write_video
        from kpagent.dynamics.editing import counterfactual, render_futures
        from kpagent.dynamics.editing_pictures import draw_edit, edit_film

        assert self.out is not None
        codes = model.encode_sequence(frames[None])[0]
        futures = counterfactual(model, codes, self._moved(codes), self.steps, samples, self.seed, actions)
        rendered = render_futures(model, frames[0], futures)
        if self.out.suffix.lower() == ".png":
            write_png(self.out, draw_edit(frames[-1], futures, rendered))
        else:
            write_video(self.out, edit_film(futures, rendered), self.fps)
        console.print(f"wrote {self.out} ({samples} futures of {self.steps} frames after {len(frames)} observed)")
        return 0

    def _moved(self, codes: Tensor) -> Tensor:
        from kpagent.dynamics.editing import move_keypoint

        edited = codes
        for keypoint in self.keypoint:
            if self.by:
                edited = move_keypoint(edited, keypoint, by=self.by, start=self.start)
            elif len(self.to) == 2:
                edited = move_keypoint(edited, keypoint, to=self.to, start=self.start)
            else:
                corners = [self.to[i : i + 2] for i in range(0, len(self.to), 2)]
                begin = self._place(codes, keypoint)
                edited = move_keypoint(edited, keypoint, path=[begin, *corners], start=self.start)
        return edited

    def _place(self, codes: Tensor, keypoint: int) -> tuple[float, float]:
        """Where a keypoint is at the first frame that is edited; anywhere, if there is none: `move_keypoint` says so."""
        if not (0 <= self.start < len(codes) and 0 <= keypoint < codes.shape[1] // 3):
            return 0.0, 0.0
        x, y = codes[self.start, 3 * keypoint : 3 * keypoint + 2].tolist()
        return x, y

    def _window(self, model: StructVRNN) -> tuple[np.ndarray, Any]:
        """The observed frames, and the actions on them and on the frames to foretell, where the model has them."""
        from kpagent.collect.sequences import Sequences

        sequences = Sequences(self.data, memory=0)
        observed = self.observed or model.config.dynamics.observed
        wanted = model.config.dynamics.actions
        if wanted and sequences.action_dim != wanted:
            raise UsageError(f"{self.data} has actions of {sequences.action_dim} numbers; {self.weights} wants {wanted}")
        length = observed + (self.steps if wanted else 0)
        number = sequences.num_ordered(length)
        if not 0 <= self.index < number:
            raise UsageError(f"there is no --index {self.index}; {self.data} has 0 to {number - 1} of {length} frames")
        window = sequences.ordered(length, 1, first=self.index)
        actions = window["actions"][0, : length - 1] if wanted else None
        return window["frames"][0, :observed], actions

    def _require_arguments(self) -> None:
        from kpagent.drawing import require_writable

        if self.observed is not None and self.observed < 1:
            raise UsageError(f"--observed must be at least 1, not {self.observed}")
        if self.steps < 1:
            raise UsageError(f"--steps must be at least 1, not {self.steps}")
        if self.seed < 0:
            raise UsageError(f"--seed must be at least 0, not {self.seed}")
        if self.serve:
            if self.out is not None or self.keypoint or self.to or self.by:
                raise UsageError("--serve opens the page: leave out --out, --keypoint, --to and --by")
            return
        if self.out is None:
            raise UsageError("give --out FILE.png or FILE.mp4, or --serve to open the page")
        if self.out.suffix.lower() not in (".png", ".mp4"):
            raise UsageError(f"cannot write {self.out}: its name must end in .png or .mp4")
        if not self.keypoint:
            raise UsageError("give --keypoint, which keypoints to move")
        if bool(self.to) == bool(self.by):
            raise UsageError("say where the keypoint goes by either --to X Y or --by DX DY")
        if self.to and (len(self.to) % 2 or len(self.keypoint) > 1):
            raise UsageError("--to wants one keypoint and pairs of X Y; several keypoints are moved together with --by")
        if self.by and len(self.by) != 2:
            raise UsageError(f"--by wants two numbers, DX DY, not {len(self.by)}")
        if not self.fps > 0:
            raise UsageError(f"--fps must be above 0, not {self.fps}")
        require_writable(self.out, self.out.suffix.lower())
