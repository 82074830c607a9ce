"""The fake spoken over HTTP, token and all, so that another process can work against it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from tilth.contract.messages import (
    EmbedRequest,
    EventsQuery,
    JobSpec,
    LoadRequest,
    Message,
    PredictRequest,
    StopRequest,
)
from tilth.dataplane.port import DataPlane, DataPlaneDown, DataPlaneRefused, NoTrainerFree
from tilth.dataplane.tokens import AUDIENCE


@contextmanager
def served(plane: DataPlane, verify_key: Ed25519PublicKey) -> Iterator[str]:
    """Serves a data plane on a free port of loopback; yields its URL."""
    handler = type("Handler", (_Handler,), {"plane": plane, "verify_key": verify_key})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    plane: DataPlane
    verify_key: Ed25519PublicKey

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        try:
            self._authenticate()
            reply = self._route(self.command, self.path.strip("/").split("/"), self._body())
            self._send(202 if self.command == "PUT" else 200, reply.model_dump_json())
        except jwt.InvalidTokenError as error:
            self._fault(401, "unauthenticated", str(error))
        except NoTrainerFree as error:
            self._fault(503, "no_trainer_free", error.message)
        except DataPlaneDown:
            self.close_connection = True
        except DataPlaneRefused as error:
            self._fault(400, error.reason, error.message)
        except (ValidationError, KeyError) as error:
            self._fault(400, "bad_message", str(error))

    def _authenticate(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        jwt.decode(token, self.verify_key, algorithms=["EdDSA"], audience=AUDIENCE, options={"require": ["exp"]})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _route(self, method: str, path: list[str], body: bytes) -> Message:
        match method, path:
            case "PUT", ["jobs", _, _]:
                return self.plane.start(JobSpec.model_validate_json(body))
            case "POST", ["jobs", job, attempt, "events"]:
                return self.plane.events(job, int(attempt), EventsQuery.model_validate_json(body))
            case "POST", ["jobs", job, attempt, "stop"]:
                return self.plane.stop(job, int(attempt), StopRequest.model_validate_json(body).mode)
            case "GET", ["jobs", job, attempt]:
                return self.plane.status(job, int(attempt))
            case "POST", ["deployments", "load"]:
                return self.plane.load(LoadRequest.model_validate_json(body))
            case "POST", ["predictions"]:
                return self.plane.predict(PredictRequest.model_validate_json(body))
            case "POST", ["embeddings"]:
                return self.plane.embed(EmbedRequest.model_validate_json(body))
            case "GET", ["health"]:
                return self.plane.health()
        raise DataPlaneRefused(f"no route {method} /{'/'.join(path)}", code="not_found")

    def _fault(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": {"code": code, "message": message}}))

    def _send(self, status: int, content: str) -> None:
        data = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
