"""W&B's server as far as saving a workspace and a report asks it: GraphQL over real HTTP.

The real server cannot be run here, so this one is a stand-in: it keeps views as the real one does
(an id makes an update, no id a new view) and knows one project. What the real server refuses, it
does not.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENTITY, PROJECT = "team", "orca"
VIEWER = {
    "id": "VXNlcjox", "name": "someone", "username": "someone", "email": "", "admin": False,
    "flags": "{}", "entity": ENTITY, "deletedAt": None,
    "teams": {"edges": [{"node": {"name": ENTITY}}]}, "apiKeys": {"edges": []},
}  # fmt: skip


class Views:
    """The saved views, by id, in a file that the test reads."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.views: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one request."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        self.asked.append(name)
        project = variables.get("projectName") or variables.get("name") or variables.get("project")
        data: dict[str, Any] = {"viewer": VIEWER}
        if name in ("UpsertView2", "upsertView"):
            data = {"upsertView": self._upsert(variables)}
        elif name in ("View", "ProjectViews"):
            data = {"project": self._project(variables) if project == PROJECT else None}
        elif name == "ProjectInternalId":
            known = {"id": "UHJvamVjdDox", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}
            data = {"project": known if project == PROJECT else None}
        elif "models(" in query or name in ("GetProjects", "Projects"):
            data = {"models": {"edges": [{"node": self._node(), "cursor": "1"}], **_one_page()}}
        elif "viewer" not in query and "serverInfo" not in query:
            self.unknown.append(name)
        if "serverInfo" in query:
            data["serverInfo"] = {"cliVersionInfo": {}, "latestLocalVersionInfo": None}
        self._write()
        return data

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = given.get("id") or f"VmlldzoyMDA{len(self.views)}"
        inserted = identity not in self.views
        if given.get("id") and inserted:
            raise KeyError(f"no view {identity}")
        kept = {key: given[key] for key in ("name", "displayName", "description", "type", "spec")}
        self.views[identity] = {"id": identity, **kept}
        project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
        view = {**self.views[identity], "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"view": view, "inserted": inserted}

    def _project(self, asked: dict[str, Any]) -> dict[str, Any]:
        kind, name = asked.get("viewType", "runs"), asked.get("viewName")
        nodes = [
            {**view, "user": {"username": "someone", "photoUrl": "", "email": ""},
             "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
            for view in self.views.values()
            if view["type"] == kind and name in (None, view["name"])
        ]  # fmt: skip
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        return {"allViews": {"edges": edges, **_one_page()}}

    def _node(self) -> dict[str, Any]:
        return {
            "id": "UHJvamVjdDox", "name": PROJECT, "entityName": ENTITY, "isBenchmark": False,
            "createdAt": "2026-01-01T00:00:00", "user": None,
        }  # fmt: skip

    def _write(self) -> None:
        told = {"views": self.views, "asked": self.asked, "unknown": self.unknown}
        self.file.write_text(json.dumps(told), encoding="utf-8")


def _one_page() -> dict[str, Any]:
    return {"pageInfo": {"endCursor": None, "hasNextPage": False}}


def main(file: Path) -> None:
    """Serve on a free port of loopback until killed."""
    views = Views(file)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.endswith("/graphql"):  # telemetry
                self._send({})
                return
            body = json.loads(content)
            try:
                answer = {"data": views.answer(body["query"], body.get("variables") or {})}
            except KeyError as error:
                answer = {"errors": [{"message": str(error)}]}
            self._send(answer)

        def _send(self, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
