"""A small model hub on the loopback address, for the real client: repositories with branches, read and written."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

TOKEN = "hf_of_the_tests"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Branches by name and commits by hash, each a hash or files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str = "") -> str:
        content = json.dumps([len(self.commits), sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items())])
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        self.messages.append(message)
        return commit

    def files(self, branch: str = "main") -> Files:
        return self.commits[self.branches[branch]]


class RefusedError(Exception):
    """An answer that is an error: its status, the hub's code for it, and perhaps a repository's address."""


@dataclass
class Hub:
    """What the server has, and all that has reached it: the files that were fetched, and every request's bytes."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def find(self, name: str, token: str | None, write: bool = False) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            raise RefusedError(401 if token is None else 404, "RepoNotFound")
        if write and token != TOKEN:
            raise RefusedError(403, "Forbidden")
        return repository

    def at(self, repository: Repository, revision: str) -> str:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound")
        return commit

    def get_api(self, parts: list[str], token: str | None) -> Any:
        """Answer api/models/ORG/NAME[/revision/REVISION], or .../tree/REVISION."""
        repository = self.find(name := "/".join(parts[2:4]), token)
        commit = self.at(repository, parts[5] if len(parts) > 5 else "main")
        files = repository.commits[commit]
        if parts[4:5] == ["tree"]:
            return [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings}

    def post(self, parts: list[str], body: bytes, token: str | None) -> Any:
        """Answer what writes: create, branch, preupload, commit, and the batch of large files."""
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            objects = json.loads(body)["objects"]
            return {
                "objects": [o | {"actions": {"upload": {"href": f"{self.address}/lfs/{o['oid']}"}}} for o in objects]
            }
        if parts == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if token != TOKEN or asked["organization"] == "others":
                raise RefusedError(403, "Forbidden")
            if name in self.repositories:
                raise RefusedError(409, "Conflict", f"{self.address}/{name}")
            made = self.repositories[name] = Repository(asked.get("visibility") == "private")
            made.commit("main", {".gitattributes": b""})
            return {"url": f"{self.address}/{name}"}
        repository = self.find(name := "/".join(parts[2:4]), token, write=True)
        if parts[4] == "branch":
            if parts[5] in repository.branches:
                raise RefusedError(409, "Conflict")
            repository.branches[parts[5]] = repository.branches["main"]
            return {}
        self.at(repository, parts[5])
        if parts[4] == "preupload":
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            large = [{**one, "uploadMode": modes[one["path"].endswith(".safetensors")]} for one in files]
            return {"files": [{**one, "shouldIgnore": False} for one in large]}
        return self._commit(name, repository, parts[5], body)

    def _commit(self, name: str, repository: Repository, branch: str, body: bytes) -> Any:
        files, message = dict(repository.files(branch)), ""
        for line in body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                assert key == "deletedFile", key
                del files[value["path"]]
        commit = repository.commit(branch, files, message)
        return {"commitUrl": f"{self.address}/{name}/commit/{commit}", "commitOid": commit}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _answer(self) -> None:
            body = self._body()
            hub.received += [self.requestline.encode(), str(self.headers).encode(), body]
            parts = [unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            headers = {"Content-Type": "application/json"}
            try:
                if self.command == "PUT":
                    hub.objects[parts[1]], content = body, b""
                elif self.command == "POST":
                    content = json.dumps(hub.post(parts, body, token)).encode()
                elif parts[0] == "api":
                    content = json.dumps(hub.get_api(parts, token)).encode()
                else:
                    content = self._file(parts, token, headers)
            except RefusedError as refused:
                status, code, *url = refused.args
                said = json.dumps({"error": code, "url": (url or [""])[0]}).encode()
                self._send(status, {"X-Error-Code": code}, said)
            else:
                self._send(200, headers, content)

        def _file(self, parts: list[str], token: str | None, headers: dict[str, str]) -> bytes:
            """Return the file of ORG/NAME/resolve/REVISION/PATH."""
            repository = hub.find("/".join(parts[:2]), token)
            commit, path = hub.at(repository, parts[3]), "/".join(parts[4:])
            if (content := repository.commits[commit].get(path)) is None:
                raise RefusedError(404, "EntryNotFound")
            headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            hub.fetched.extend([path] if self.command == "GET" else [])
            return content

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve a hub, whose address is known then."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    # `shutdown` waits until the server looks again whether it should end, which by default is half a second.
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders under their ids; give the hub's address, and the files that were fetched."""
    with served(Hub()) as found:
        for name, folder in repositories.items():
            found.repositories[name] = Repository()
            found.repositories[name].commit("main", files_in(folder))
        yield found.address, found.fetched


def files_in(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path, token: str | None = TOKEN) -> None:
    """Let the client in this process, which has read its environment, talk to the hub at an address."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(cache / "token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
