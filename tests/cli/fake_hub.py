"""A hub on this machine that keeps its repositories in memory: the requests that huggingface_hub makes for `push` and `pull`.

It answers as the real one does in what matters here: who may write, what it has, where a large file lies, and when a commit
comes too late. A test may make it lie.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_aTokenThatNobodyMaySee"
FIRST = hashlib.sha1(b"first commit").hexdigest()
LARGE = (".vqrf", ".webp")
"""Endings of what is kept apart as large files; the rest lies in git."""

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Kept:
    """A repository: its files at each commit, the newest last."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {FIRST: {".gitattributes": b"*.vqrf lfs\n"}})
    is_private: bool = False

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


def blob_of(data: bytes) -> str:
    """Git's name for it."""
    return hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


class FakeHub(ThreadingHTTPServer):
    """The server; `requests` are what was asked, as METHOD PATH, and `tokens` who asked on which host."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.strange: list[str] = []  # requests that it knows nothing of
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that has had enough of an answer goes away."""

    def reset(self) -> None:
        self.repositories: dict[str, Kept] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: list[tuple[str, str | None]] = []
        self.sent: Callable[[bytes], bytes] = lambda data: data  # what goes out in place of a file
        self.said_size: Callable[[int], Any] = lambda n_bytes: n_bytes  # what the list says of it
        self.before_commit: Callable[[Kept], None] = lambda kept: None
        self.answers: dict[str, Answer] = {}  # to a request, in place of its own

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, name: str, files: dict[str, bytes], commit: str | None = None) -> str:
        """A commit by somebody else."""
        kept = self.repositories.setdefault(name, Kept())
        commit = commit or hashlib.sha1(f"{kept.head}{files}".encode()).hexdigest()
        kept.commits[commit] = {**kept.commits[kept.head], **files}
        return commit

    def files(self, name: str) -> dict[str, bytes]:
        kept = self.repositories[name]
        return {path: data for path, data in kept.commits[kept.head].items() if path != ".gitattributes"}

    def wrote(self) -> list[str]:
        """Requests that changed something."""
        return [request for request in self.requests if re.match(r"PUT|POST .*/(commit|create)", request)]


def as_json(tree: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(tree).encode()


def error(status: int, code: str, text: str) -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": text}, b""


NO_REPOSITORY = error(404, "RepoNotFound", "Repository not found")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        asked = f"{self.command} {path}"
        authorization = self.headers.get("Authorization")
        self.server.requests.append(asked)
        self.server.tokens.append((self.headers["Host"].partition(":")[0], authorization))
        status, headers, data = self.server.answers.get(asked) or self.find(path, body, authorization == f"Bearer {TOKEN}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if "Connection" in headers:
            self.close_connection = True

    def find(self, path: str, body: bytes, is_known: bool) -> Answer:
        if self.headers.get("Authorization") and not is_known:
            return error(401, "", "Invalid credentials in Authorization header")
        if found := re.fullmatch(r"/cdn/(\w+)", path):
            return 200, {}, self.server.sent(self.server.uploads[found[1]])
        if self.command == "POST" and not is_known:
            return error(401, "", "Invalid username or password.")
        if found := re.fullmatch(r"/lfs/(\w+)", path):  # an address that is signed, and asks for no token
            self.server.uploads[found[1]] = body
            return as_json({})
        if found := re.fullmatch(r"/(\w+/[\w.-]+)/resolve/(\w+)/(.+)", path):
            return self.resolve(*found.groups(), is_known)
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)(?:/revision/(.+))?", path):
            return self.info(found[1], found[2], is_known)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/preupload/main", path):
            return self.preupload(found[1], json.loads(body)["files"])
        if found := re.fullmatch(r"/(\w+/[\w.-]+).git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body)["objects"])
        if found := re.fullmatch(r"/api/models/(\w+/[\w.-]+)/commit/main", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        self.server.strange.append(path)
        return error(404, "", f"no such thing as {path}")

    def kept(self, name: str, is_known: bool) -> Kept | None:
        kept = self.server.repositories.get(name)
        return kept if kept and (is_known or not kept.is_private) else None

    def info(self, name: str, revision: str | None, is_known: bool) -> Answer:
        kept = self.kept(name, is_known)
        if kept is None:
            return NO_REPOSITORY
        commit = kept.head if revision in (None, "main") else revision
        if commit not in kept.commits:
            return error(404, "RevisionNotFound", "Invalid rev id")
        siblings = []
        for path, data in kept.commits[commit].items():
            size = self.server.said_size(len(data))
            entry = {"rfilename": path, "size": size, "blobId": blob_of(data)}
            if is_large(path):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 130}
            siblings.append(entry)
        return as_json({"id": name, "sha": commit, "private": kept.is_private, "tags": [], "siblings": siblings})

    def resolve(self, name: str, commit: str, path: str, is_known: bool) -> Answer:
        kept = self.kept(name, is_known)
        if kept is None:
            return NO_REPOSITORY
        data = kept.commits[commit].get(path)
        if data is None:
            return error(404, "EntryNotFound", "Entry not found")
        if not is_large(path):
            return 200, {}, self.server.sent(data)
        digest = hashlib.sha256(data).hexdigest()
        self.server.uploads[digest] = data
        return 302, {"Location": f"http://localhost:{self.server.server_address[1]}/cdn/{digest}"}, b""

    def create(self, asked: dict[str, Any]) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return as_json({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
        is_private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories[name] = Kept(is_private=is_private)
        return as_json({"url": f"{self.server.address}/{name}"})

    def validate(self, content: str) -> Answer:
        try:
            tree = yaml.safe_load(content.split("---\n")[1])
        except (yaml.YAMLError, IndexError) as fault:
            return as_json({"errors": [{"message": str(fault)}], "warnings": []}, 400)
        named = tree.get("license") != "other" or tree.get("license_name")
        return as_json({"errors": [], "warnings": []}) if named else as_json({"errors": [{"message": "license"}]}, 400)

    def preupload(self, name: str, asked: list[dict[str, Any]]) -> Answer:
        modes = {True: "lfs", False: "regular"}
        files = [{"path": file["path"], "uploadMode": modes[is_large(file["path"])], "shouldIgnore": False} for file in asked]
        return as_json({"files": files}) if name in self.server.repositories else NO_REPOSITORY

    def batch(self, asked: list[dict[str, Any]]) -> Answer:
        for entry in asked:
            if entry["oid"] not in self.server.uploads:
                entry["actions"] = {"upload": {"href": f"{self.server.address}/lfs/{entry['oid']}"}}
        return as_json({"transfer": "basic", "objects": asked})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        kept = self.server.repositories[name]
        self.server.before_commit(kept)
        if lines[0]["value"].get("parentCommit") not in (None, kept.head):
            return error(412, "", "A commit has happened since. Please refresh and try again.")
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
                assert value["oid"] == hashlib.sha256(files[value["path"]]).hexdigest()
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        commit = self.server.put(name, files)
        return as_json({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})
