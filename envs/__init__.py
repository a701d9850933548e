"""Environments: keypoints in place of pixels for any Gymnasium env, and the environments that kpagent itself uses."""

if __name__ != "kpagent.envs":
    raise ImportError("import kpagent.envs, not envs")

from kpagent.envs.keypoint_observation import KeypointObservation, KeypointVectorObservation

__all__ = ["KeypointObservation", "KeypointVectorObservation"]
