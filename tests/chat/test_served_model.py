"""What a server does wrong in the middle of an answer is a sentence, and not an answer."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orca.chat import Conversation, Turn
from orca.chat.server import ServedModel
from orca.errors import UserError
from orca.teacher import Endpoint

ENDINGS = {
    "stops": [
        'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
        "data: [DONE]",
    ],
    "has no end": ["data: [DONE]"],
    "is no JSON": ["data: {half"],
    "errs": ['data: {"error": {"message": "dead \\u001b]0;engine"}}'],
}


class Handler(BaseHTTPRequestHandler):
    """Half an answer, and what the model's name says."""

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        if name == "dies":
            self.send_header("content-length", "100000")
        self.end_headers()
        half = 'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}'
        for event in (half, *ENDINGS.get(name, [])):
            self.wfile.write(f"{event}\n\n".encode())


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def answer(base_url: str, name: str) -> tuple[str, str]:
    model = ServedModel(Endpoint(base_url, name))
    pieces = model.answer(Conversation(turns=[Turn("Hello?")]), 0.0, 9, 0)
    return "".join(pieces), model.finish_reason


def test_an_answer_has_an_end_only_where_the_server_says_so(base_url: str) -> None:
    assert answer(base_url, "stops") == ("half", "stop")
    assert answer(base_url, "has no end") == ("half", "no end was sent")


@pytest.mark.parametrize(
    ("name", "told"),
    [("dies", "no answer"), ("is no JSON", "property name"), ("errs", r"dead \\x1b\]0;engine")],
)
def test_a_broken_answer_is_a_sentence_without_escape_sequences(
    base_url: str, name: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        answer(base_url, name)
    assert "\x1b" not in str(error.value)
