"""A small model hub for tests, standard library only: two origins on 127.0.0.1, the hub and its CDN, with faults to order.

Speaks the protocol that huggingface_hub speaks (`test_real_client.py` proves it) and writes down every request. Knows nothing of Paddock.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40
PIECE_BYTES = 16 << 10
PAUSE_S = 0.01  # between the pieces of a slow answer
BAD_TOKEN = "Invalid credentials in Authorization header"


class HubFile:
    """A file of a repository: large ones (LFS) come from the CDN and have a SHA-256."""

    def __init__(self, data: bytes, lfs: bool | None = None) -> None:
        self.data = data
        self.lfs = len(data) > 1024 if lfs is None else lfs
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """As the list of a tree shows it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass
class HubRepo:
    """A repository at one commit."""

    files: dict[str, HubFile]
    commit: str = COMMIT
    private: bool = False
    gated: bool = False
    branches: tuple[str, ...] = ("main",)
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next `count` requests (-1: all) whose path matches; `value` is a status, a length, a rate or seconds."""

    kind: str  # status | drop | truncate | corrupt | slow | hang | norange | forgetful | overlong | shifted | redirect | body
    path: str = ".*"
    count: int = 1
    value: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass
class Seen:
    """A request that came."""

    role: str  # hub or cdn
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0  # bytes of the body handed to the socket

    @property
    def start(self) -> int:
        """Where the asked range begins."""
        match = re.match(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else 0


class HubServer:
    """The two servers, their repositories, faults and log."""

    def __init__(self, page: int = 1000) -> None:
        self.repos: dict[str, HubRepo] = {}
        self.tokens: dict[str, tuple[str, ...]] = {}  # token → repositories its owner may read
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.etag = ""  # if set, sent instead of the right one
        self.page = page
        self._lock = threading.Lock()
        self._servers: list[ThreadingHTTPServer] = []

    def add(self, repo: str, files: dict[str, bytes], **facts: Any) -> HubRepo:
        """A repository with these files; one of a data set is called datasets/owner/name."""
        self.repos[repo] = HubRepo({path: HubFile(data) for path, data in files.items()}, **facts)
        return self.repos[repo]

    def fault(self, kind: str, path: str = ".*", **values: Any) -> None:
        """Order a fault."""
        self.faults.append(Fault(kind, path, **values))

    def start(self) -> HubServer:
        """Listen on two free ports of this machine."""
        for handler in (HubHandler, CdnHandler):
            server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def stop(self) -> None:
        """End both servers."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self.seen.clear()

    def gets(self, role: str, part: str = "") -> list[Seen]:
        """The GET requests so far for paths that contain `part`."""
        with self._lock:
            return [seen for seen in self.seen if seen.role == role and seen.method == "GET" and part in seen.path]

    def sent(self, role: str = "cdn") -> int:
        """Bytes of bodies sent so far."""
        with self._lock:
            return sum(seen.sent for seen in self.seen if seen.role == role)

    def note(self, seen: Seen) -> None:
        """Write a request down."""
        with self._lock:
            self.seen.append(seen)

    def take(self, path: str) -> Fault | None:
        """The fault that this request meets."""
        with self._lock:
            for fault in self.faults:
                if fault.count and re.search(fault.path, path):
                    fault.count -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these tests go away in the middle."""


class Handler(BaseHTTPRequestHandler):
    """What both origins have in common: the log, the faults, bodies by range."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    role = ""
    fault: Fault | None = None

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.seen = Seen(self.role, self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.hub.note(self.seen)
        self.fault = fault = self.hub.take(self.path)
        if fault and fault.kind == "hang":
            time.sleep(fault.value)
        if fault and fault.kind == "status":
            return self.answer(int(fault.value), {"error": "ordered"}, fault.headers)
        if fault and fault.kind == "redirect":
            return self.answer(302, b"", fault.headers)
        if fault and fault.kind == "body":
            return self.answer(200, fault.body, fault.headers)
        return self.serve(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))

    def serve(self, path: str) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.begin(status, {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(raw))})
        if self.command != "HEAD":
            self.wfile.write(raw)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def give(self, data: bytes, headers: dict[str, str]) -> None:
        """The bytes of a file, by range and with the ordered fault."""
        kind, value = (self.fault.kind, self.fault.value) if self.fault else ("", 0.0)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, start, end = 200, 0, len(data)
        if match and kind not in ("norange", "forgetful"):
            status, start, end = 206, int(match[1]), min(int(match[2]) + 1 if match[2] else len(data), len(data))
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            shown = start + (7 if kind == "shifted" else 0)
            headers = {**headers, "Content-Range": f"bytes {shown}-{end - 1}/{len(data)}"}
        body = data[start:end]
        if kind == "corrupt":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        elif kind == "truncate":
            body = body[: int(value)]
        elif kind == "overlong":
            body += b"x" * int(value)
        chunked = {"Transfer-Encoding": "chunked"} if kind == "overlong" else {"Content-Length": str(len(body))}
        self.begin(status, {**headers, "Accept-Ranges": "bytes", **chunked})
        if self.command != "HEAD":
            self._send(body, kind, value)
        return None

    def _send(self, body: bytes, kind: str, value: float) -> None:
        piece = max(1, int(value * PAUSE_S)) if kind == "slow" else PIECE_BYTES
        limit = int(value) if kind in ("drop", "forgetful") else len(body)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        try:
            for begin in range(0, limit, piece):
                raw = body[begin : min(begin + piece, limit)]
                self.wfile.write(b"%x\r\n" % len(raw) + raw + b"\r\n" if kind == "overlong" else raw)
                self.seen.sent += len(raw)
                if kind == "slow":
                    time.sleep(PAUSE_S)
            if kind == "overlong":
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        if kind in ("drop", "forgetful"):  # reset, not a polite end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True


class CdnHandler(Handler):
    """Signed addresses of large files."""

    role = "cdn"

    def serve(self, path: str) -> None:
        match = re.fullmatch(r"/lfs/((?:datasets/)?[^/]+/[^/]+)/(.+)", path)
        repo = self.hub.repos.get(match[1]) if match else None
        if match is None or repo is None or match[2] not in repo.files:
            return self.answer(404, {"error": "not found"})
        return self.give(repo.files[match[2]].data, {"Content-Type": "application/octet-stream"})


def within(row: dict[str, Any], bounds: str) -> bool:
    """Whether a model is of a size as the hub is asked for it: min:6B,max:128B. One whose size is not known is of none."""
    total = (row.get("safetensors") or row.get("gguf") or {}).get("total", 0)
    for name, number, unit in re.findall(r"(min|max):([0-9.]+)([KMBT]?)", bounds):
        limit = float(number) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[unit]
        if not total or (total < limit if name == "min" else total > limit):
            return False
    return True


class HubHandler(Handler):
    """The API and the addresses of files."""

    role = "hub"
    section = ""  # of the repository that is asked for: models have none

    def serve(self, path: str) -> None:
        self.section = "datasets/" if path.startswith(("/api/datasets/", "/datasets/")) else ""
        path = path.removeprefix("/datasets") if path.startswith("/datasets/") else path.replace("/api/datasets/", "/api/models/", 1)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if path == "/api/whoami-v2":
            token = self.token()
            if token in self.hub.tokens:
                return self.answer(200, {"name": "ada", "fullname": "Ada L.", "type": "user"})
            return self.refuse(401, "", BAD_TOKEN)
        if path == "/api/models":
            return self.search(query)
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.facts),
        ):
            match = re.fullmatch(pattern, path)
            if match:
                repo = self.readable(self.section + match[1], match[2] or "main")
                return answer(repo, match, query) if repo else None
        return self.answer(404, {"error": "not found"})

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        self.answer(status, {"error": message}, {**named, "X-Error-Message": message, **headers})

    def readable(self, name: str, revision: str) -> HubRepo | None:
        """The repository, or None after the refusal."""
        repo, token = self.hub.repos.get(name), self.token()
        allowed = name in self.hub.tokens.get(token, ())
        if token and token not in self.hub.tokens:
            self.refuse(401, "", BAD_TOKEN)
        elif repo is None or (repo.private and not allowed):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and not allowed and "/resolve/" in self.path:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in (*repo.branches, repo.commit):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def paged(self, items: list[Any], limit: int, query: dict[str, list[str]]) -> None:
        """One page of a list, with the address of the next."""
        begin = int(query.get("cursor", ["0"])[0])
        headers = {}
        if begin + limit < len(items):
            rest = [(name, value) for name, values in query.items() for value in values if name != "cursor"]
            path = self.path.partition("?")[0]
            headers["Link"] = f'<{self.hub.endpoint}{path}?{urllib.parse.urlencode([*rest, ("cursor", begin + limit)])}>; rel="next"'
        self.answer(200, items[begin : begin + limit], headers)

    def row(self, name: str, repo: HubRepo) -> dict[str, Any]:
        gated: Any = "manual" if repo.gated else False
        known = {"id": name, "modelId": name, "private": repo.private, "gated": gated, "tags": ["gguf"], "downloads": 1, "likes": 2}
        times = {"createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-05-01T00:00:00.000Z"}
        return {**known, **times, "pipeline_tag": "text-generation", **repo.info}

    def search(self, query: dict[str, list[str]]) -> None:
        text, author = (query.get(name, [""])[0].lower() for name in ("search", "author"))
        tags = set(query.get("filter", []))
        rows = [self.row(name, repo) for name, repo in sorted(self.hub.repos.items()) if not repo.private and not name.startswith("datasets/") and text in name.lower()]
        rows = [row for row in rows if tags <= set(row["tags"]) and (not author or row["id"].lower().startswith(author + "/"))]
        task = query.get("pipeline_tag", [""])[0]
        rows = [row for row in rows if (not task or row["pipeline_tag"] == task) and within(row, query.get("num_parameters", [""])[0])]
        rows.sort(key=lambda row: -row.get(query.get("sort", ["downloads"])[0], 0) if query.get("sort", [""])[0] in ("downloads", "likes") else 0)
        self.paged(rows, min(int(query.get("limit", ["1000"])[0]), self.hub.page), query)

    def tree(self, repo: HubRepo, match: re.Match[str], query: dict[str, list[str]]) -> None:
        entries: list[Any] = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}]
        self.paged([*(file.entry(path) for path, file in repo.files.items()), *entries], self.hub.page, query)

    def resolve(self, repo: HubRepo, match: re.Match[str], query: dict[str, list[str]]) -> None:
        file = repo.files.get(match[3])
        if file is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": repo.commit})
        headers = {"X-Repo-Commit": repo.commit, "ETag": self.hub.etag or f'"{file.oid}"'}
        if not file.lfs:
            return self.give(file.data, headers)
        linked = {"X-Linked-Etag": self.hub.etag or f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        location = f"{self.hub.cdn}/lfs/{self.section}{match[1]}/{urllib.parse.quote(match[3])}?signature={time.time_ns()}"
        return self.answer(302, b"Found", {**headers, **linked, "Location": location})

    def facts(self, repo: HubRepo, match: re.Match[str], query: dict[str, list[str]]) -> None:
        siblings = [{"rfilename": path} for path in repo.files]
        self.answer(200, {**self.row(match[1], repo), "sha": repo.commit, "siblings": siblings})
