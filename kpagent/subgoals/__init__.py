"""Sequences to keyframes: KeyIn and its baselines."""
