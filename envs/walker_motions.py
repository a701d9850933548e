"""Labelled motions of a simulated walker under scripted controllers: what actions are recognised on (Struct-VRNN S2.1).

The paper recognises the 15 actions of Human3.6M, which is licensed. Here the planar walker of DeepMind Control does eight
motions (`walker_gaits`): its motors pull each joint towards a moving angle, with the torque that they have, and a harness
keeps the torso from tipping over. Speed, size, phase, leading leg, unsteadiness and posture differ from sequence to
sequence; walking forwards and backwards pass through the same postures in opposite order.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.envs.camera import to_image
from kpagent.envs.control import require_control
from kpagent.envs.control_frames import PREFIX, make_frames_env, require_frames
from kpagent.envs.walker_gaits import JOINTS, MOTIONS, Gait, draw_gait
from kpagent.errors import UsageError
from kpagent.fields import require, require_types

NAMES = ("torso", "right_hip", "right_knee", "right_ankle", "right_foot", "left_hip", "left_knee", "left_ankle", "left_foot")
"""The points whose true positions are known: the middles of torso and feet, and the joints between them."""

_TASK = f"{PREFIX}walker-stand-v0"
_CAMERA = 0
_BETWEEN = 2
"""Steps of the simulator, of 2.5 ms each, between two settings of the motors."""
_STIFFNESS, _DAMPING = np.array([800.0, 400.0, 80.0] * 2), np.array([45.0, 15.0, 2.0] * 2)
"""Torques of a joint for a radian away from its angle, and for a radian a second: N·m."""
_UPRIGHT, _UPRIGHT_DAMPING = 2000.0, 150.0
"""The same of the harness."""
_CARRIED = 0.4
"""Share of the walker's weight that the harness carries."""
_CONTACT = 0.02
"""Metres that the walker falls at first."""
_PLACES = (10.0, 20.0)
"""Where along the floor, which ends at -2, a motion begins: metres."""


@dataclass(frozen=True)
class MotionsConfig:
    """What of a motion is seen."""

    frames: int = 20
    """Of each sequence."""
    image_size: int = 64
    """Height and width of the frames."""
    interval: float = 0.075
    """Seconds from one frame to the next."""
    settling: float = 0.6
    """Seconds of the motion before the first frame; up to as many again are drawn."""
    lean: float = 0.1
    """Largest lean of the torso that the harness holds, in radians, to either side."""

    def __post_init__(self) -> None:
        require_types(self)
        checks = {
            "frames must be from 2 to 10,000": 2 <= self.frames <= 10_000,
            "image_size must be from 16 to 512": 16 <= self.image_size <= 512,
            "interval must be from 0.005 to 1": 0.005 <= self.interval <= 1,
            "settling must be from 0 to 10": 0 <= self.settling <= 10,
            "lean must be from 0 to 0.5": 0 <= self.lean <= 0.5,
        }
        require(self, checks)


class WalkerMotions:
    """Motions for `sequence_making.write_sequences`: frames, true positions, and the motion as the label.

    Motions take turns, so classes are as equal as can be. A sequence depends on the seed and its own number alone. A point
    that leaves the frame keeps its place, outside of [-1, 1].

    Args:
        count: sequences. A test set has another seed.
        seed: with the number of a sequence, it decides everything.
        config: what is seen.

    Raises:
        UsageError: a count below 1, a seed below 0, or DeepMind Control is not installed.
    """

    def __init__(self, count: int, seed: int = 0, config: MotionsConfig | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(f"count must be at least 1 and seed at least 0; got {count} and {seed}")
        require_control("motions")
        self.count, self.seed, self.config = count, seed, config or MotionsConfig()

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        versions = {name: version(name) for name in ("dm-control", "mujoco")}
        config = dataclasses.asdict(self.config) | {"versions": versions}
        return Provenance("motions", "motions", config, seed=self.seed, truth_names=NAMES, label_names=MOTIONS)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Motions `start` to `stop`.

        Raises:
            UsageError: nothing can be rendered on this machine.
        """
        with contextlib.closing(make_frames_env(_TASK, self.config.image_size, _CAMERA)) as env:
            require_frames(env, _TASK)
            for number in range(start, stop):
                yield self._record(env, number)

    def _record(self, env: Any, number: int) -> FrameSequence:
        label, config = number % len(MOTIONS), self.config
        generator = np.random.default_rng((self.seed, number))
        walker = _Walker(env.unwrapped.physics, draw_gait(MOTIONS[label], generator), generator, config.lean)
        walker.go(config.settling * generator.uniform(1, 2))
        frames, truth = [], []
        for _ in range(config.frames):
            frames.append(env.render())
            truth.append(walker.points())
            walker.go(config.interval)
        return FrameSequence(np.stack(frames), truth=np.stack(truth).astype(np.float32), label=label)


class _Walker:
    """The simulator, begun in the posture with which a gait begins."""

    def __init__(self, physics: Any, gait: Gait, generator: np.random.Generator, lean: float) -> None:
        self.physics, self.gait = physics, gait
        self.lean, place = float(generator.uniform(-lean, lean)), float(generator.uniform(*_PLACES))
        number, model = physics.model.name2id, physics.model
        self._joints = np.array([model.jnt_qposadr[number(name, "joint")] for name in JOINTS])
        self._height, along, self._pitch = (
            int(model.jnt_qposadr[number(name, "joint")]) for name in ("rootz", "rootx", "rooty")
        )
        self._strength = model.actuator_gear[:, 0]
        self._lift = _CARRIED * float(model.body_mass.sum()) * -float(model.opt.gravity[2])
        self._step = float(model.opt.timestep)
        self._steps, self._aim = 0, gait.targets(0.0)
        begin = np.zeros(model.nq)
        begin[self._joints], begin[self._pitch], begin[along] = self._aim, self.lean, place
        with physics.reset_context():
            physics.data.qpos[:] = begin
        begin[self._height] = _CONTACT - min(self._lowest(number(name, "geom")) for name in ("right_foot", "left_foot"))
        with physics.reset_context():
            physics.data.qpos[:] = begin

    def go(self, seconds: float) -> None:
        """Let time pass, in whole settings of the motors."""
        data = self.physics.data
        for _ in range(max(1, round(seconds / (self._step * _BETWEEN)))):
            angles, speeds = data.qpos[self._joints], data.qvel[self._joints]
            before, self._aim = self._aim, self.gait.targets(self._steps * self._step)
            pace = (self._aim - before) / (self._step * _BETWEEN)
            torque = _STIFFNESS * (self._aim - angles) + _DAMPING * (pace - speeds)
            self.physics.set_control(np.clip(torque / self._strength, -1, 1))
            data.qfrc_applied[self._height] = self._lift
            tipping = data.qpos[self._pitch] - self.lean
            data.qfrc_applied[self._pitch] = -_UPRIGHT * tipping - _UPRIGHT_DAMPING * data.qvel[self._pitch]
            self.physics.step(_BETWEEN)
            self._steps += _BETWEEN

    def points(self) -> np.ndarray:
        """(P, 2) image coordinates of `NAMES`."""
        data, model = self.physics.data, self.physics.model
        anchors = [data.xanchor[model.name2id(name, "joint")] for name in JOINTS]
        torso, *feet = (data.geom_xpos[model.name2id(name, "geom")] for name in ("torso", "right_foot", "left_foot"))
        places = np.array([torso, *anchors[:3], feet[0], *anchors[3:], feet[1]])
        return to_image(self.physics, places, _CAMERA)

    def _lowest(self, foot: int) -> float:
        """Height of the lowest point of a foot, a capsule along its z axis."""
        data, model = self.physics.data, self.physics.model
        radius, half, *_ = model.geom_size[foot]
        return float(data.geom_xpos[foot][2] - radius - half * abs(data.geom_xmat[foot][8]))
