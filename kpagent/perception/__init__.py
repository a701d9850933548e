"""Perception: models that find keypoints in frames, and what trains and ships them; none of them sees a reward."""
