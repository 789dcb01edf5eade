"""A stand-in for the Hugging Face hub and for a release page: sizes, hashes, ranges, and faults on demand."""

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """`files` maps a URL path to its bytes.

    cut      URL path → bytes after which the connection closes, once
    hashes   URL path → the SHA-256 to state instead of the true one
    ranges   the Range headers that were asked for, in order
    """

    files: dict[str, bytes]
    cut: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        hub: Hub = self.server.hub
        path = self.path.partition("?")[0]
        if path not in hub.files:
            self.send_error(404)
            return
        data = hub.files[path]
        first = 0
        if wanted := self.headers.get("Range"):
            hub.ranges.append(wanted)
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            if first >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hub.hashes.get(path) or hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if not body:
            return
        last = hub.cut.pop(path, None)
        self.wfile.write(data[first:last])
        if last is not None:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(hub: Hub):
    """The hub on a local port; its address stands in `hub.address`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.daemon_threads = hub, True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
