"""Threads of torch and OpenCV where environments step in worker processes.

Neither pool of threads survives a fork: a forked worker that puts OpenCV's to rest waits for ever for threads that only its
parent has. So they rest while a process forks.
"""

from __future__ import annotations

import multiprocessing
import os

import cv2
import torch

_before_fork: list[int] = []


def limit_worker_threads() -> bool:
    """Whether this is a worker process of a vector environment; if so, it takes one thread from here on.

    As many workers as there are cores need no more than one each.
    """
    if not multiprocessing.current_process().daemon:
        return False
    torch.set_num_threads(1)
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    return True


def _rest() -> None:
    _before_fork.append(cv2.getNumThreads())
    cv2.setNumThreads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_rest, after_in_parent=lambda: cv2.setNumThreads(_before_fork.pop()))
