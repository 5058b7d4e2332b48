"""A stand-in for the hub: as much of its HTTP API as uploading and downloading small files needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, STRANGER = "hf_of_the_owner", "hf_of_a_stranger"


@dataclass
class Hub:
    """Repositories by name, each a list of commits, each all files by path; and those made private."""

    address: str
    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)

    def files(self, repo: str) -> dict[str, bytes]:
        """Of the last commit."""
        return self.repositories[repo][-1]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def sha(number: int) -> str:
    """The name of the n-th commit."""
    return f"{number:040x}"


class Answers(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""

    @property
    def hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)(/revision/\w+)?", path):
            self.info(found[1])
        elif found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/tree/\w+", path):
            self.tree(found[1])
        elif found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/\w+/([\w.-]+)", path):
            self.file(found[1], found[2])
        else:
            self.answer(404, {"error": f"no route {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, _, _ = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(403 if self.headers.get("Authorization") else 401, {"error": "not yours"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            known = repo in self.hub.repositories
            self.hub.repositories.setdefault(repo, [{}])
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            self.answer(409 if known else 200, {"url": f"{self.hub.address}/{repo}", "id": repo})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, {"error": f"no route {path}"})

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.files(repo))
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.hub.repositories[repo].append(files)
        oid = sha(len(self.hub.repositories[repo]))
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{repo}/commit/{oid}"})

    def info(self, repo: str) -> None:
        if repo not in self.hub.repositories:
            self.missing("RepoNotFound", 401)
            return
        commit = sha(len(self.hub.repositories[repo]))
        siblings = [{"rfilename": name} for name in self.hub.files(repo)]
        self.answer(
            200, {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        )

    def tree(self, repo: str) -> None:
        if repo not in self.hub.repositories:
            self.missing("RepoNotFound", 401)
            return
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.hub.files(repo).items()
        ]
        self.answer(200, entries)

    def file(self, repo: str, name: str) -> None:
        if repo not in self.hub.repositories:
            self.missing("RepoNotFound", 401)
        elif name not in self.hub.files(repo):
            self.missing("EntryNotFound", 404)
        else:
            content = self.hub.files(repo)[name]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            self.answer(200, content, headers | {"X-Repo-Commit": sha(len(self.hub.repositories[repo]))})

    def missing(self, code: str, status: int) -> None:
        self.answer(status, {"error": code}, {"X-Error-Code": code})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
