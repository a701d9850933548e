"""Pushing a puck around a wall: the scene, its physics, the environment, and a demonstrator (KeyIn sections 4 and 7)."""
