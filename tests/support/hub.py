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
    stop     URL path → position at which every connection closes
    hashes   URL path → the SHA-256 to state instead of the true one
    types    URL path → its Content-Type
    moved    URL path → URL of its bytes on another server, as the hub's large files have one
    pause    URL path → position at which the answer waits, and for what
    gated    URL paths for which a token is asked
    ranges   the Range headers that were asked for, in order
    tokens   the Authorization headers that came, in order
    whole    ignore Range
    chunked  send chunks, and no length
    """

    files: dict[str, bytes]
    cut: dict[str, int] = field(default_factory=dict)
    stop: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    pause: dict[str, tuple[int, threading.Event]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    ranges: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    whole: bool = False
    chunked: bool = False
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
        hub.tokens.append(self.headers.get("Authorization"))
        if path in hub.gated and not hub.tokens[-1]:
            self.send_error(401, "Access to this model is restricted")
            return
        data = hub.files[path]
        first = 0
        wanted = self.headers.get("Range")
        if wanted:
            hub.ranges.append(wanted)
        wanted = None if hub.whole else wanted
        if wanted:
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            if first >= len(data):
                self.send_error(416)
                return
        etag = f'"{hub.hashes.get(path) or hashlib.sha256(data).hexdigest()}"'
        if path in hub.moved:
            self.send_response(302)
            self.send_header("Location", hub.moved[path])
            self.send_header("X-Linked-ETag", etag)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if path in hub.types:
            self.send_header("Content-Type", hub.types[path])
        chunked = hub.chunked and body
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data) - first))))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", etag)
        self.end_headers()
        if not body:
            return
        last = hub.cut.pop(path, None) or hub.stop.get(path)
        content = data[first:last]
        if path in hub.pause:
            position, event = hub.pause[path]
            self.wfile.write(content[:position])
            event.wait()
            self.close_connection = True
            return
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content) if chunked and content else content)
        if last is not None:
            self.close_connection = True
        elif chunked:
            self.wfile.write(b"0\r\n\r\n")

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
