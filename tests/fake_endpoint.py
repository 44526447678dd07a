"""A chat endpoint of our own on loopback, for tests of what asks one."""

from __future__ import annotations

import json
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import numpy as np
import PIL.Image


class Server:
    """Answers from a list, the last one for ever: a text, (status, headers, body), or a function of what was asked that gives either.

    A body with headers of its length that do not fit it is cut off; without a status nothing at all is said.
    Remembers what it was asked, in order; close it when done.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = ["hello"]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(question)
                server.keys.append(self.headers["Authorization"])
                answer = server.answers[0] if len(server.answers) == 1 else server.answers.pop(0)
                answer = answer(question) if callable(answer) else answer
                if isinstance(answer, str):
                    usage = {"prompt_tokens": 7, "completion_tokens": 2}
                    answer = (200, {}, json.dumps({"choices": [{"message": {"content": answer}}], "usage": usage}))
                status, headers, body = answer
                if status is None:
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if not {"Content-Length", "Transfer-Encoding"} & set(headers):
                    self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: Any) -> None:
                """Tests are silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def shown_pictures(question: dict[str, Any], *, words_first: bool = True) -> tuple[list[np.ndarray], ...]:
    """The PNGs of a question, uint8 (H, W, 3): those after the first text, those after the second, …; those before it where not first."""
    found: list[list[np.ndarray]] = [] if words_first else [[]]
    for part in question["messages"][0]["content"]:
        if part["type"] == "text":
            found.append([])
        else:
            kind, _, data = part["image_url"]["url"].partition(";base64,")
            assert kind == "data:image/png"
            found[-1].append(np.asarray(PIL.Image.open(BytesIO(b64decode(data)), formats=["PNG"]).convert("RGB")))
    return tuple(found)


def brighter(question: dict[str, Any]) -> str:
    """The answer of a judge of two sets of pictures who likes light, whatever the order."""
    first, second, _ = (float(np.mean(pictures)) if pictures else 0.0 for pictures in shown_pictures(question))
    return json.dumps({"better": "tie" if first == second else "first" if first > second else "second"})


def rating(question: dict[str, Any]) -> str:
    """The answer of a judge of one set of pictures who likes light, in the forms that vlm_judge and unified_reward ask for."""
    light = float(np.mean([np.mean(pictures) for pictures in shown_pictures(question, words_first=False) if pictures]))
    score = 1 + 4 * light / 255
    lines = [json.dumps({"alignment": score, "quality": 6 - score})]
    lines += [f"{name} Score (1-5): {value:.6f}" for name, value in (("Alignment", score), ("Coherence", 1), ("Style", 6 - score))]
    return "\n".join([*lines, f"Final Score: {score:.6f}"])
