"""A real chat-completions server on 127.0.0.1 that says what a script tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS, COMPLETION_TOKENS = 40, 5
KEY = "sk-test-2f9c1b77"


@dataclass(frozen=True)
class Reply:
    """What the server answers, after a delay; no status closes the connection without a word."""

    body: bytes
    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    body: dict[str, Any]
    authorization: str
    path: str
    at_seconds: float

    @property
    def item(self) -> dict[str, str]:
        """Question, gold and prediction; without a JSON object in the user's message that message."""
        text = self.body["messages"][-1]["content"]
        try:
            (item,) = json.loads(text).values()
        except ValueError:
            return {"prediction": text}
        return item


def say(content: Any, delay_seconds: float = 0.0, finish: str = "stop") -> Reply:
    """A chat completion; an object is written as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 45}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    completion = {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    return Reply(json.dumps(completion).encode(), delay_seconds=delay_seconds)


def reject(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps({"error": {"message": message, "code": code}}).encode(), status, named)


def honest(seen: Seen, attempt: int) -> Reply:
    """Right where gold and prediction are one text."""
    return say({"correct": seen.item["gold"] == seen.item["prediction"]})


class JudgeServer(ThreadingHTTPServer):
    """Counts what it is asked; ``script`` gets a request and how often its prediction was asked about before."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # with socketserver's 5 the kernel resets connections that many clients make at once

    def __init__(self, script: Callable[[Seen, int], Reply] = honest) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.seen: list[Seen] = []
        self.attempts: Counter[str] = Counter()
        self.concurrent = self.most_concurrent = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> JudgeServer:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def asked(self) -> list[str]:
        """The predictions in the order they came."""
        with self.lock:
            return [seen.item["prediction"] for seen in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = Seen(body, self.headers["Authorization"], self.path, time.monotonic())
        server = self.server
        with server.lock:
            server.seen.append(seen)
            attempt = server.attempts[seen.item["prediction"]]
            server.attempts[seen.item["prediction"]] += 1
            server.concurrent += 1
            server.most_concurrent = max(server.most_concurrent, server.concurrent)
        reply = server.script(seen, attempt)
        server.closing.wait(reply.delay_seconds)
        with server.lock:
            server.concurrent -= 1
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.close_connection = reply.status is None
        if reply.status is None:
            return
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass
