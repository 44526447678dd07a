"""An OpenAI-compatible server of our own on loopback, for the tests of what asks one."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server:
    """Answers from a list, the last one for ever: a text, or (status, headers, body). Remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Any] = ["hello"]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                server.keys.append(self.headers["Authorization"])
                answer = server.answers[0] if len(server.answers) == 1 else server.answers.pop(0)
                if isinstance(answer, str):
                    usage = {"prompt_tokens": 7, "completion_tokens": 2}
                    answer = (200, {}, json.dumps({"choices": [{"message": {"content": answer}}], "usage": usage}))
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: Any) -> None:
                """Tests are silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
