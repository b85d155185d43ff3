"""A stand-in for the sidecar: just what the command line tool needs of one, and it notes what it was asked.

Behaviour is set by environment variables: FAKE_EXIT (end at once with this code), FAKE_DEAF (ignore SIGTERM).
"""
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

args = dict(zip(sys.argv[1::1], sys.argv[2::1] + [""]))
app_id = args["--app-id"]
if "FAKE_EXIT" in os.environ:
    print("fake daprd cannot start", flush=True)
    sys.exit(int(os.environ["FAKE_EXIT"]))
if "FAKE_DEAF" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
extended = {}


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()

    def do_GET(self):
        if self.path == "/v1.0/healthz/outbound":
            return self.answer(204)
        if self.path == "/v1.0/metadata":
            return self.answer(200, json.dumps({"id": app_id, "extended": extended}).encode())
        self.answer(404)

    def do_PUT(self):
        extended[self.path.removeprefix("/v1.0/metadata/")] = self.body()
        self.answer(204)

    def do_POST(self):
        if self.path == "/v1.0/shutdown":
            self.answer(204)
            os._exit(0)
        if "/missing" in self.path:
            return self.answer(404, b'{"errorCode":"ERR"}')
        kind = self.headers.get("Content-Type")
        self.answer(200, f"{self.command} {self.path} [{kind}] {self.body()}".encode())

    do_DELETE = do_POST

    def log_message(self, *_):
        pass


print("fake daprd up", " ".join(sys.argv[1:]), flush=True)
print("HOST_IP", os.environ.get("DAPR_HOST_IP", "-"), os.getcwd(), flush=True)
ThreadingHTTPServer(("127.0.0.1", int(args["--dapr-http-port"])), Handler).serve_forever()
