"""A chat server that answers with planted reviews: python judge_server.py PLANTED LOG.

PLANTED is JSON: text of a user message's part → a review, a list of them (one a request), a
status to answer with, or {"text", "finish_reason"}. What matches nothing gets "8 4". LOG gets every
body that came.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PLANTED: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
LOG = Path(sys.argv[2])
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = body["messages"][-1]["content"]
        with LOCK:
            with LOG.open("a", encoding="utf-8") as log:
                log.write(json.dumps(body) + "\n")
            found = next((v for part, v in PLANTED.items() if part in user), "8 4\nBecause.")
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(found, int):
            self._send(found, {"error": {"message": "planted", "code": "planted"}})
            return
        found = found if isinstance(found, dict) else {"text": found, "finish_reason": "stop"}
        message = {"role": "assistant", "content": found["text"]}
        choice = {"message": message, "finish_reason": found["finish_reason"]}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        self._send(200, {"id": "1", "model": "judge-1", "choices": [choice], "usage": usage})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
