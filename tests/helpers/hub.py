"""A small model hub on the loopback address, for the real client: it lists a repository's files and gives them out."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0" * 40


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve folders under their ids; give the hub's address, and the files that were fetched, as they are."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in repositories:
                name = "/".join(parts[2:4])
                files = sorted(p for p in repositories[name].rglob("*") if p.is_file())
                siblings = [{"rfilename": str(p.relative_to(repositories[name]))} for p in files]
                entries = [{"type": "file", "path": s["rfilename"], "size": 1, "oid": COMMIT} for s in siblings]
                about = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
                content = json.dumps(entries if parts[4:5] == ["tree"] else about).encode()
                headers = {"Content-Type": "application/json"}
            else:
                name, file = "/".join(parts[:2]), "/".join(parts[4:])
                path = repositories.get(name, Path("/nowhere")) / file
                if not path.is_file():
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.end_headers()
                    return
                content = path.read_bytes()
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                fetched.extend([file] if body else [])
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
