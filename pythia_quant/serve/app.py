"""The application: its paths, and how it says that something is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from pythia_quant.serve.engine import Engine
from pythia_quant.serve.guard import Guard
from pythia_quant.serve.metrics import CONTENT_TYPE, Metrics
from pythia_quant.serve.refusals import Refusal, stopping
from pythia_quant.serve.service import Service
from pythia_quant.serve.transport import App, ClientGone, Message, Receive, Scope, Send

_CLIENT_GONE = 499  # as nginx logs it; nobody receives it
_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics")
_READ = ["GET", "HEAD"]


def make_app(service: Service, engine: Engine, metrics: Metrics, keys: Sequence[str], *, local: bool) -> App:
    """Return the ASGI application of a server.

    Args:
        service: answers requests.
        engine: the engine, whose state ``/health`` tells.
        metrics: what is counted.
        keys: those that are asked for; none if everybody may ask.
        local: whether the server is on loopback.
    """
    # Pages that show an API load scripts from elsewhere.
    app = FastAPI(title="pythia-quant", docs_url=None, redoc_url=None, openapi_url=None)
    app.post("/v1/completions")(service.complete)
    app.post("/v1/chat/completions")(service.chat)
    created = int(time.time())

    @app.api_route("/v1/models", methods=_READ)
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(service.names[0], created)]})

    @app.api_route("/v1/models/{name:path}", methods=_READ)
    async def model(name: str) -> Response:
        if name not in service.names:
            raise Refusal(404, f"there is no model {name[:80]!r} here", parameter="model", code="model_not_found")
        return JSONResponse(_model(service.names[0], created))

    @app.api_route("/health", methods=_READ)
    async def health() -> Response:
        trouble = engine.trouble if engine.alive else stopping()
        return trouble.response() if trouble else JSONResponse({"status": "ok"})

    @app.api_route("/metrics", methods=_READ)
    async def counted() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    _say_errors(app)
    return _Counting(Guard(app, keys, local=local), metrics)


def _model(name: str, created: int) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": created, "owned_by": "pythia-quant"}


def _say_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=_CLIENT_GONE)

    @app.exception_handler(404)
    async def unknown(request: Request, _: HTTPException) -> Response:
        what = f"there is no {request.url.path[:80]}; there are {', '.join(_PATHS)}"
        return Refusal(404, what, code="not_found").response()

    @app.exception_handler(405)
    async def method(request: Request, error: HTTPException) -> Response:
        what = f"{request.url.path[:80]} does not take {request.method[:20]}"
        return Refusal(405, what, code="method_not_allowed", headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return Refusal(500, "the server failed; its log says more", code="internal_error").response()


class _Counting:
    """An ASGI application that counts the responses of another one."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        path = scope["path"] if scope["path"] in _PATHS else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting)
