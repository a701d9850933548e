"""Metrics, and nothing else."""
