"""An object store on loopback, and a proxy before it that loses, refuses and weakens requests."""

import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

BUCKET = "bucket"
STARTED_S = 30
REFUSED = b"<Error><Code>InvalidAccessKeyId</Code><Message>No such key.</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


def environment(port: int) -> dict[str, str]:
    """Say in the usual variables where the store is."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "testtest",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def object_store() -> Iterator[int]:
    """Run moto's S3 in a process of its own, with one bucket; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(port, server)
            urlopen(Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"), timeout=10).close()
            yield port
        finally:
            server.kill()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + STARTED_S
    while time.monotonic() < ends:
        assert server.poll() is None, "the object store ended"
        try:
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the object store does not answer")


@dataclass
class Faults:
    """How bad the way to the store is; `share` of the requests fail, in one of three ways."""

    share: float = 0.0
    is_weak: bool = False
    is_refusing: bool = False
    kinds: tuple[str, ...] = ("busy", "lost before", "lost after")
    draws: random.Random = field(default_factory=lambda: random.Random(0))
    counts: dict[str, int] = field(default_factory=dict)

    def draw(self) -> str:
        """Choose what becomes of the next request."""
        kind = "passed"
        if self.draws.random() < self.share:
            kind = self.draws.choice(self.kinds)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return kind


class Between(BaseHTTPRequestHandler):
    """Passes one request on to the port `target`, or not, as `faults` have it."""

    protocol_version = "HTTP/1.1"
    # One packet an answer: of two, the second waits 40 ms for the first to be acknowledged.
    wbufsize = -1
    target: int
    faults: Faults

    def handle_any(self) -> None:
        """Answer any request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate = "refused" if self.faults.is_refusing else self.faults.draw()
        if fate == "refused":
            self.answer(403, REFUSED, [])
        elif fate == "busy":
            self.answer(503, BUSY, [])
        elif fate == "lost before":
            self.lose()
        else:
            status, content, headers = self.forward(body)
            if fate == "lost after":
                self.lose()
            else:
                self.answer(status, content, headers)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    def forward(self, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
        """Ask the store itself."""
        dropped = {"if-none-match"} if self.faults.is_weak else set()
        headers = {key: each for key, each in self.headers.items() if key.lower() not in dropped}
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read(), answer.getheaders()
        connection.close()
        return found

    def answer(self, status: int, content: bytes, headers: list[tuple[str, str]]) -> None:
        """Answer with what the store said, or with what it might have."""
        is_head = self.command == "HEAD"
        dropped = {"transfer-encoding", "connection", *(() if is_head else ("content-length",))}
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in dropped:
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def lose(self) -> None:
        """Close the connection at once, so that the client sees a reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class Listener(ThreadingHTTPServer):
    """Takes many connections at once, and says nothing of those closed on purpose."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def proxy(target: int, faults: Faults) -> Iterator[int]:
    """Stand between a client and the store at a port of loopback; gives a port of its own."""
    handler = type("Handler", (Between,), {"target": target, "faults": faults})
    server = Listener(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
