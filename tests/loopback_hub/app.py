"""The loopback Hub as a FastAPI application."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from . import routes_collections, routes_commits, routes_files, routes_repositories, routes_spaces, routes_uploads
from .errors import HubError, MalformedCallError
from .store import Store


def build_app(store: Store) -> FastAPI:
    """All calls that the loopback Hub knows; any other is noted in `store.errors`."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.store = store
    # Collections come first: /api/collections/… would also match /api/{kind}s/…
    for routes in (
        routes_collections,
        routes_spaces,
        routes_repositories,
        routes_uploads,
        routes_commits,
        routes_files,
    ):
        app.include_router(routes.router)
    app.add_exception_handler(HubError, answer_hub_error)
    app.add_exception_handler(RequestValidationError, answer_malformed)
    app.add_exception_handler(HTTPException, answer_unknown)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_failure)
    return app


def note(request: Request, words: str) -> None:
    """Keep an error that fails the test."""
    request.app.state.store.errors.append(f"{request.method} {request.url.path}: {words}")


def answer_hub_error(request: Request, error: Exception) -> JSONResponse:
    """Status, words and code as `huggingface_hub` expects them."""
    assert isinstance(error, HubError)
    if isinstance(error, MalformedCallError):
        note(request, error.message)
    headers = {"X-Error-Message": error.message.encode("ascii", "replace").decode().replace("\n", " ")}
    if error.code:
        headers["X-Error-Code"] = error.code
    return JSONResponse({"error": error.message, **error.more}, status_code=error.status, headers=headers)


def answer_malformed(request: Request, error: Exception) -> JSONResponse:
    """A body that is not what the call takes; its values are not repeated."""
    assert isinstance(error, RequestValidationError)
    found = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
    return answer_hub_error(request, MalformedCallError(f"malformed call: {found}"))


def answer_unknown(request: Request, error: Exception) -> JSONResponse:
    """A path or method that the loopback Hub does not know."""
    return answer_hub_error(request, MalformedCallError("unknown call", status=501))


def answer_nobody(request: Request, error: Exception) -> JSONResponse:
    """The client went away, killed perhaps, in the middle of its call: no fault of either side."""
    return JSONResponse({"error": "the client went away"}, status_code=499)


def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """A fault of the loopback Hub itself, or of the disk below it."""
    return answer_hub_error(request, MalformedCallError(f"the loopback Hub failed: {error!r}", status=500))
