"""The Batch API of one endpoint: its calls, what their failures mean, and the lines of its files.

API: developers.openai.com/api/docs/guides/batch and /api/reference/resources/batches.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar

import openai
from openai.types import Batch as Remote

from orca.errors import UserError
from orca.teacher.client import Refused, Retry, connect, read_answer, read_refusal
from orca.teacher.request import Reply, Request
from orca.teacher.settings import Endpoint, Teacher

PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TOKEN = "orca_batch"  # key in the remote batch's metadata
T = TypeVar("T")


class NotNow(Exception):
    """A call failed in a way that another may not; ``sure``: it had no effect."""

    def __init__(self, why: str, sure: bool = False) -> None:
        super().__init__(why)
        self.sure = sure


class BatchClient:
    """Calls of one endpoint, each once.

    Every method raises :class:`NotNow`; :class:`orca.teacher.client.Refused` where the endpoint
    will take no batch at all, and ``UserError`` where it will not take this one.
    """

    def __init__(self, name: str, endpoint: Endpoint, teacher: Teacher) -> None:
        self.name, self.endpoint = name, endpoint
        self._openai = connect(endpoint, teacher.timeout)

    async def upload(self, name: str, content: bytes) -> str:
        """Store a file of requests; the server's name of it."""
        files = self._openai.files
        return _id(await self._call(files.create(file=(name, content), purpose="batch")))

    async def create(self, file: str, token: str) -> str:
        """Have the batch made; the server's name of it."""
        create = self._openai.batches.create(
            input_file_id=file,
            endpoint=PATH,
            completion_window="24h",
            metadata={TOKEN: token},
        )
        return _id(await self._call(create))

    async def find(self, file: str | None, token: str) -> str | None:
        """The server's name of the batch with this token or of this file, if it has one."""
        return await self._call(self._find(file, token))

    async def _find(self, file: str | None, token: str) -> str | None:
        try:
            async for remote in self._openai.batches.list(limit=100):
                if (remote.metadata or {}).get(TOKEN) == token or remote.input_file_id == file:
                    return _id(remote)
        except AttributeError:  # the package takes any body, a proxy's HTML page too, for a list
            raise NotNow("the answer is malformed") from None
        return None

    async def look(self, remote: str) -> Remote | None:
        """How far the batch is; None where the server does not know it."""
        found = await self._call(_or_none(self._openai.batches.retrieve(remote)))
        if found is not None and not isinstance(getattr(found, "status", None), str):
            raise NotNow("the answer is malformed")
        return found

    async def lines(self, file: str) -> list[bytes] | None:
        """A file's lines; None where the server does not know it."""
        content = await self._call(_or_none(self._openai.files.content(file)))
        # Not splitlines: a JSON text may hold U+2028.
        return None if content is None else content.content.split(b"\n")

    async def close(self) -> None:
        await self._openai.close()

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except openai.APIStatusError as error:
            status, body = error.status_code, error.body
        except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise NotNow(f"{type(error).__name__} at {self.endpoint.base_url}") from None
        try:
            answer = read_refusal(status, body, self.name, self.endpoint)
        except Refused as refused:
            asks = "; does it have a Batch API?" if status == 404 else ""
            raise Refused(f"{refused}{asks}", refused.status) from None
        if isinstance(answer, Retry):
            raise NotNow(f"status {status}", sure=status < 500 and status != 408)
        raise UserError(f"endpoint {self.name} takes no batch ({answer.error}: {answer.reason!r})")

    def read_row(self, line: bytes, latency: float) -> tuple[int, Reply | Retry] | None:
        """Number and answer of a line of an output or error file; None: it is empty or cut.

        Raises:
            Refused: as :func:`orca.teacher.client.read_refusal`.
        """
        try:
            row = json.loads(line)
            number = int(row["custom_id"])
        except (KeyError, TypeError, ValueError):
            return None
        response, error = row.get("response"), row.get("error")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status == 200 and not error:
            return number, read_answer(body, self.name, latency)
        if error or not isinstance(status, int) or status < 400:  # 0 occurs: nothing was answered
            code = error.get("code") or error.get("type") if isinstance(error, dict) else None
            return number, Retry(str(code or "no_answer"))
        inner = body.get("error") if isinstance(body, dict) else None
        try:
            return number, read_refusal(status, inner, self.name, self.endpoint)
        except Refused:
            return number, Retry("refused")


def write_row(number: int, request: Request, endpoint: str, teacher: Teacher) -> bytes:
    """The line of a request in an input file, without its end."""
    model = teacher.endpoints[endpoint].model
    body = {"model": model, "messages": request.messages(), **teacher.body}
    row = {"custom_id": str(number), "method": "POST", "url": PATH, "body": body}
    return json.dumps(row, ensure_ascii=False).encode()


def _id(thing: Any) -> str:
    name = getattr(thing, "id", None)  # the package turns an HTML page into a str
    if not isinstance(name, str) or not name:
        raise NotNow("the answer is malformed")
    return name


async def _or_none(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except openai.NotFoundError:
        return None
