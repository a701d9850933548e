"""A page on this machine where a person drags an observed keypoint and sees the futures change."""

from __future__ import annotations

import base64
import json
import re
import socketserver
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from kpagent.dynamics.editing import counterfactual, move_keypoint, render_futures, require_keypoints
from kpagent.dynamics.struct_vrnn import StructVRNN, to_keypoints
from kpagent.errors import UsageError

HOST = "127.0.0.1"

LARGEST_BODY = 1024
"""Bytes of a request; one that the page sends has under 100."""

LARGEST_SEED = 2**32 - 1

_PLACEHOLDER = "/*SCENE*/"
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?", re.IGNORECASE)
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Move:
    """A keypoint put elsewhere by hand."""

    keypoint: int
    """Index."""
    x: float
    """Where to, in [-1, 1]."""
    y: float
    """Where to, in [-1, 1]."""
    seed: int
    """Of the noise of the futures."""


class Scene:
    """What the page shows: observed frames, their keypoints, and the futures that follow a move.

    Args:
        model: whose codes have keypoints.
        frames: (T, S, S, 3) uint8, observed.
        steps: frames to foretell.
        samples: futures to draw; 1 for a deterministic model.
        actions: as of `counterfactual`.
        seed: that the page starts with.

    Raises:
        UsageError: as of `counterfactual`.
    """

    def __init__(
        self,
        model: StructVRNN,
        frames: np.ndarray,
        *,
        steps: int = 8,
        samples: int = 5,
        actions: Any = None,
        seed: int = 0,
    ) -> None:
        require_keypoints(model)
        if not 0 <= seed <= LARGEST_SEED:
            raise UsageError(f"seed must be from 0 to {LARGEST_SEED}, not {seed}")
        self.model, self.frames, self.actions, self.seed = model, frames, actions, seed
        self.steps, self.samples = steps, samples
        self.codes = model.encode_sequence(frames[None])[0].cpu()
        # One request at a time: two would only make each other wait.
        self._busy = threading.Lock()
        counterfactual(model, self.codes, self.codes, steps, samples, seed, actions)

    def describe(self) -> dict[str, Any]:
        """What the page knows from the start, as plain JSON values."""
        keypoints = to_keypoints(self.codes)
        return {
            "steps": self.steps,
            "samples": self.samples,
            "seed": self.seed,
            "observed": _places(self.codes),
            "presence": keypoints.presence[-1].tolist(),
            "frame": _png(self.frames[-1]),
        }

    def answer(self, move: Move) -> dict[str, Any]:
        """Futures of what was observed and of what the move makes of it, as plain JSON values.

        Returns:
            `edited`, (T, K, 2) observed places after the move; `futures`, of `original` and `counterfactual`, each
            (samples, steps, K, 2) places; `frames`, of the same two, each T + steps PNG files in base64, of sample 0.

        Raises:
            UsageError: there is no such keypoint, or its place is outside the frame.
        """
        with self._busy:
            edited = move_keypoint(self.codes, move.keypoint, to=(move.x, move.y))
            futures = counterfactual(
                self.model, self.codes, edited, self.steps, self.samples, seed=move.seed, actions=self.actions
            )
            original, changed = render_futures(self.model, self.frames[0], futures)
        return {
            "edited": _places(futures.edited),
            "futures": {"original": _places(futures.original), "counterfactual": _places(futures.counterfactual)},
            "frames": {
                "original": [_png(frame) for frame in original],
                "counterfactual": [_png(frame) for frame in changed],
            },
        }


class EditingServer(ThreadingHTTPServer):
    """Serves one page, at /, and its answers, at /futures, to this machine alone.

    Args:
        scene: what the page shows.
        port: to listen on; 0 takes any that is free.

    Raises:
        UsageError: the port cannot be listened on.
    """

    daemon_threads = True

    def __init__(self, scene: Scene, port: int = 8400) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"port must be from 0 to 65535, not {port}")
        self.scene = scene
        page = files("kpagent.dynamics").joinpath("editing_page.html").read_text(encoding="utf-8")
        self.page = page.replace(_PLACEHOLDER, json.dumps(scene.describe(), allow_nan=False)).encode()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot listen on port {port}: {reason}; choose another with --port") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind, without asking the network for the name of this machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: EditingServer
    timeout = 10.0
    server_version, sys_version = "kpagent", ""

    def do_GET(self) -> None:
        try:
            _require_local(self.headers)
        except UsageError as error:
            self._answer(400, "text/plain", str(error).encode())
            return
        if self.path == "/":
            self._answer(200, "text/html", self.server.page)
        else:
            self._answer(404, "text/plain", b"there is only one page here, at /")

    def do_POST(self) -> None:
        try:
            _require_local(self.headers)
            if self.path != "/futures":
                self._answer(404, "text/plain", b"what can be asked is at /futures")
                return
            move = read_move(self.rfile.read(_body_length(self.headers)))
            answer = self.server.scene.answer(move)
        except UsageError as error:
            self._answer(400, "text/plain", str(error).encode())
            return
        self._answer(200, "application/json", json.dumps(answer, allow_nan=False).encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One plain line, where http.server would send a page."""
        self._answer(code, "text/plain", (message or self.responses.get(code, ("error",))[0]).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the terminal shows the address alone."""

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def read_move(body: bytes) -> Move:
    """The move that a request asks for.

    Args:
        body: JSON, an object of keypoint, x, y and seed, and no more.

    Raises:
        UsageError: anything else, or numbers out of range.
    """
    try:
        values = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise UsageError("the request must be JSON") from None
    names = ("keypoint", "x", "y", "seed")
    if not isinstance(values, dict) or set(values) != set(names):
        raise UsageError(f"the request must be an object of {', '.join(names[:-1])} and {names[-1]}")
    for name, largest in (("keypoint", 2**31), ("seed", LARGEST_SEED)):
        if type(values[name]) is not int or not 0 <= values[name] <= largest:
            raise UsageError(f"{name} must be a whole number from 0 to {largest}")
    for name in ("x", "y"):
        # NaN, which Python reads though it is no JSON, is in no range.
        if type(values[name]) not in (int, float) or not -1 <= values[name] <= 1:
            raise UsageError(f"{name} must be a number from -1 to 1")
    return Move(values["keypoint"], float(values["x"]), float(values["y"]), values["seed"])


def _require_local(headers: Any) -> None:
    """Refuse what did not come from a page of this server.

    A name that was made to point at this machine (DNS rebinding) shows in Host; another page's request shows in Origin.
    """
    hosts = headers.get_all("Host", [])
    if len(hosts) != 1 or not _LOCAL.fullmatch(hosts[0]):
        raise UsageError("the host must be localhost or 127.0.0.1")
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{hosts[0]}".lower():
        raise UsageError("the request comes from another page")


def _body_length(headers: Any) -> int:
    # A page elsewhere cannot send JSON here unasked, as it could a form.
    if headers.get_content_type() != "application/json":
        raise UsageError("the content type must be application/json")
    length = headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,9}", length) or headers.get("Transfer-Encoding") is not None:
        raise UsageError("the request must say its length")
    if int(length) > LARGEST_BODY:
        raise UsageError(f"the request must be of at most {LARGEST_BODY} bytes")
    return int(length)


def _places(codes: Tensor) -> Any:
    xy = codes.unflatten(-1, (-1, 3))[..., :2].double()
    return _rounded(xy.tolist())


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else round(values, 4)


def _png(frame: np.ndarray) -> str:
    _, png = cv2.imencode(".png", frame[..., ::-1])
    return base64.b64encode(png.tobytes()).decode("ascii")
