"""The page as a browser meets it: a real server on a free port, and requests good and bad."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from drawn_sequences import config, drawn

from kpagent.dynamics.editing import counterfactual, move_keypoint, render_futures
from kpagent.dynamics.editing_page import LARGEST_BODY, EditingServer, Scene, read_move
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

SIZE, OBSERVED, STEPS, SAMPLES, KEYPOINTS = 32, 4, 3, 2, 3
MOVE = {"keypoint": 1, "x": 0.25, "y": -0.5, "seed": 3}


def small(code: dict[str, Any] | None = None, **dynamics: Any) -> StructVRNN:
    torch.manual_seed(0)
    return StructVRNN(config({"image_size": SIZE} | (code or {}), **dynamics)).eval()


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(small(), drawn(1, OBSERVED, SIZE)[0], steps=STEPS, samples=SAMPLES, seed=5)


@pytest.fixture(scope="module")
def server(scene: Scene) -> Iterator[EditingServer]:
    with EditingServer(scene, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: EditingServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def post(server: EditingServer, body: bytes, **headers: str) -> tuple[int, str]:
    return ask(server, "POST", "/futures", body, **({"Content_Type": "application/json"} | headers))[:2]


def exchange(server: EditingServer, request: bytes) -> bytes:
    """What comes back for bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def picture(png: str) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found[..., ::-1]


def test_the_page_holds_the_scene_and_asks_for_nothing_elsewhere(server: EditingServer, scene: Scene) -> None:
    status, page, headers = ask(server, "GET", "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    described = json.loads(found[1])
    assert (described["steps"], described["samples"], described["seed"]) == (STEPS, SAMPLES, 5)
    assert np.shape(described["observed"]) == (OBSERVED, KEYPOINTS, 2)
    assert np.shape(described["presence"]) == (KEYPOINTS,)
    assert np.array_equal(picture(described["frame"]), scene.frames[-1])
    assert not re.search(r"https?:|['\"]//|@import|url\(|src=|href=(?!\"data:,)", page.replace(found[1], ""))


def test_futures_are_those_of_the_library(server: EditingServer, scene: Scene) -> None:
    status, text = post(server, json.dumps(MOVE).encode())
    assert status == 200
    answer = json.loads(text)
    edited = move_keypoint(scene.codes, 1, to=(0.25, -0.5))
    futures = counterfactual(scene.model, scene.codes, edited, STEPS, SAMPLES, seed=3)
    for name, codes in (("original", futures.original), ("counterfactual", futures.counterfactual)):
        assert np.allclose(answer["futures"][name], codes.unflatten(-1, (-1, 3))[..., :2], atol=1e-4)
    assert answer["edited"][-1][1] == [0.25, -0.5]
    rendered = render_futures(scene.model, scene.frames[0], futures)
    for name, frames in zip(("original", "counterfactual"), rendered, strict=True):
        assert np.array_equal([picture(png) for png in answer["frames"][name]], frames)


def test_localhost_on_any_port_is_welcome(server: EditingServer) -> None:
    assert ask(server, "GET", "/", Host="localhost:9000")[0] == 200
    body = json.dumps(MOVE).encode()
    assert post(server, body, Host="LocalHost:9000", Origin="http://localhost:9000")[0] == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoint": KEYPOINTS}, "there is no keypoint 3; the model has 0 to 2"),
        ({"keypoint": -1}, "keypoint must be a whole number"),
        ({"keypoint": 1.0}, "keypoint must be a whole number"),
        ({"keypoint": True}, "keypoint must be a whole number"),
        ({"x": 1.01}, "x must be a number from -1 to 1"),
        ({"x": float("nan")}, "x must be a number from -1 to 1"),
        ({"y": float("-inf")}, "y must be a number from -1 to 1"),
        ({"y": "0"}, "y must be a number from -1 to 1"),
        ({"y": None}, "y must be a number from -1 to 1"),
        ({"x": 10**400}, "x must be a number from -1 to 1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"steps": 9}, "the request must be an object of keypoint, x, y and seed"),
    ],
)
def test_moves_that_cannot_be_get_one_line(server: EditingServer, changes: dict[str, Any], message: str) -> None:
    status, text = post(server, json.dumps(MOVE | changes).encode())
    assert status == 400
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * LARGEST_BODY, b"9" * LARGEST_BODY, b'{"x": 1, "y": 2}']
)
def test_bodies_that_are_no_move_get_one_line(server: EditingServer, body: bytes) -> None:
    status, text = post(server, body)
    assert (status, text.count("\n")) == (400, 0)
    assert text.startswith("the request must be")


def test_large_bodies_are_not_read(server: EditingServer) -> None:
    assert post(server, b" " * (LARGEST_BODY + 1)) == (400, f"the request must be of at most {LARGEST_BODY} bytes")
    head = b"POST /futures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (b"Content-Length: 999999999999\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b""):
        answer = exchange(server, head + length + b"\r\n")
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert answer.endswith(b"the request must say its length")


def test_bodies_that_end_early_are_refused(server: EditingServer) -> None:
    head = b"POST /futures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
    assert exchange(server, head).startswith(b"HTTP/1.0 400 ")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8400", "0.0.0.0", "", "localhost:8400@evil"]
)
def test_other_names_for_this_machine_are_refused(server: EditingServer, host: str) -> None:
    for status, text in (ask(server, "GET", "/", Host=host)[:2], post(server, json.dumps(MOVE).encode(), Host=host)):
        assert (status, text) == (400, "the host must be localhost or 127.0.0.1")


def test_a_missing_or_doubled_host_is_refused(server: EditingServer) -> None:
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        assert exchange(server, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n").startswith(b"HTTP/1.0 400 ")


def test_other_pages_cannot_ask(server: EditingServer) -> None:
    body = json.dumps(MOVE).encode()
    for origin in ("http://evil.example", "null", "https://localhost", "http://localhost:1"):
        assert post(server, body, Host="localhost:8400", Origin=origin) == (400, "the request comes from another page")
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert post(server, body, Content_Type=kind) == (400, "the content type must be application/json")
    status, _, headers = ask(server, "OPTIONS", "/futures", Origin="http://evil.example")
    assert status == 501
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("path", ["/editing_page.py", "/../editing_page.html", "/?", "/futures", "/favicon.ico", "/%2e%2e/"])
def test_nothing_but_the_page_is_served(server: EditingServer, path: str) -> None:
    status, text, _ = ask(server, "GET", path)
    assert (status, text) == (404, "there is only one page here, at /")
    assert ask(server, "POST", "/", b"{}", Content_Type="application/json")[0] == 404
    assert ask(server, "PUT", "/", b"")[:2] == (501, "Unsupported method ('PUT')")


def test_it_listens_to_this_machine_alone(server: EditingServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_rubbish_and_departures_are_borne_in_silence(server: EditingServer, capfd: pytest.CaptureFixture[str]) -> None:
    assert exchange(server, b"\x00\x01\x02 / HTTP/9\r\n\r\n") == b"Bad request version ('HTTP/9')"
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.close()
    assert ask(server, "GET", "/")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_requests_at_the_same_time_are_all_answered(server: EditingServer) -> None:
    answers: list[int] = []
    bodies = [json.dumps(MOVE | {"seed": seed}).encode() for seed in range(8)]
    threads = [threading.Thread(target=lambda body=body: answers.append(post(server, body)[0])) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_a_port_that_is_taken_or_is_none_is_refused(server: EditingServer, scene: Scene) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on port {server.server_port}: address already in use"):
        EditingServer(scene, server.server_port)
    with pytest.raises(UsageError, match="port must be from 0 to 65535"):
        EditingServer(scene, 65536)


def test_scenes_that_cannot_be_are_refused_at_once() -> None:
    frames = drawn(1, OBSERVED, SIZE)[0]
    with pytest.raises(UsageError, match="no keypoints to move"):
        Scene(small({"kind": "vector"}), frames)
    with pytest.raises(UsageError, match="deterministic"):
        Scene(small(stochastic=False), frames, samples=2)
    with pytest.raises(UsageError, match="seed must be from 0"):
        Scene(small(), frames, seed=2**32)
    with pytest.raises(UsageError, match="wants actions"):
        Scene(small(actions=2), frames)


def test_numbers_at_the_limits_are_read() -> None:
    move = read_move(b'{"keypoint": 0, "x": -1, "y": 1.0, "seed": 4294967295}')
    assert (move.keypoint, move.x, move.y, move.seed) == (0, -1.0, 1.0, 2**32 - 1)
