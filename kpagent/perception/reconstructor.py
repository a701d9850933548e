"""Detectors that learn by painting a target frame from a source frame and the target's keypoints, whatever the painting."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from kpagent.frames import to_images
from kpagent.perception.painting import FramePainter, picture_loss


class Reconstructor(FramePainter):
    """Base of methods whose loss is the squared error of `reconstruct`.

    Since a frame can be painted without some of the keypoints, it can be asked what each of them brings
    (`kpagent.perception.revival`, `kpagent.perception.pruning`).
    """

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error between the target frame and its reconstruction from the source frame (Transporter section 3.1).

        Args:
            batch: `source` and `target`, (N, H, W, 3) uint8, N frame pairs; optionally `weight`, (size, size), by which
                the squared error of each pixel is multiplied, and `tolerance`, c: the loss ℓ of a pair then enters as
                c log(1 + ℓ / c) (see `kpagent.perception.painting.picture_loss`).

        Returns:
            The loss, a scalar, and metrics: `l2`, the mean squared error without weights.

        Raises:
            UsageError: these weights were saved for inference only.
        """
        target = to_images(batch["target"], self.image_size, self.device)
        image, _ = self.reconstruct(to_images(batch["source"], self.image_size, self.device), target)
        loss, l2 = picture_loss(image, target, batch)
        return loss, {"l2": l2}

    @abstractmethod
    def reconstruct(self, source: Tensor, target: Tensor, *, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The target painted from the source frame and what the target's keypoints bring.

        Args:
            source: (N, 3, size, size) in [0, 1]; no gradient flows back to it.
            target: (N, 3, size, size) in [0, 1].
            without: keypoints that are left out, as if they were not there.

        Returns:
            The reconstruction, (N, 3, size, size), and the target's keypoints, (N, K, 2).

        Raises:
            UsageError: these weights were saved for inference only.
        """

    def select(self, keypoints: Sequence[int]) -> Self:
        """A model with these keypoints alone, in this order; it paints what this one paints without the others.

        Args:
            keypoints: numbers of this model's keypoints, at least one.
        """
        model = self.fresh(dataclasses.replace(self.config, num_keypoints=len(keypoints)))
        if self.inference_only:
            model.drop_training_only()
        model.load_state_dict(self._selected(list(keypoints)))
        return model.to(self.device).train(self.training)

    def _selected(self, keypoints: list[int]) -> dict[str, Tensor]:
        """The state of a model with these keypoints alone."""
        state = self.state_dict()
        return state | {name: state[name][keypoints] for name in ("keynet.1.weight", "keynet.1.bias")}
