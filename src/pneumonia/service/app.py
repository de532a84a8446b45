"""The routes of the service."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from pneumonia import UserError, __version__, predict
from pneumonia.images.formats import HEAD_BYTES, image_format
from pneumonia.models.predictor import Prediction
from pneumonia.saliency import verdicts
from pneumonia.service import current, documentation, maps, uploads
from pneumonia.service.current import Current, Model
from pneumonia.service.guard import FAILED, Guard, answer, of_framework
from pneumonia.service.limits import Limits, RefusedError
from pneumonia.service.uploads import Upload
from pneumonia.service.waiting import Room

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
"""Path -> file of the folder `page`, and its type."""

_WHOLE = 480
"""Pixels, the longer side of a whole film."""
_MAX_WORKERS = 8
"""Each may decode an image of 300 MB."""
_WAITING_FOR_MAPS = 8
_TEST_SECONDS = 5.0
"""For which `/ready` tells the result of one self-test: it computes, and whoever reaches the service may ask."""

_FILE = {
    "required": True,
    "description": "a form with the field file, or the bytes of one file",
    "content": {
        uploads.FORM: {
            "schema": {
                "type": "object",
                "required": [uploads.FIELD],
                "properties": {uploads.FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/dicom", "application/octet-stream", "image/*")
        },
    },
}
_FOREIGN: dict[int | str, dict[str, Any]] = {403: {"description": "another host name, or a page of another site"}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "no file, an empty file, a broken form, or a request that is too slow"},
    413: {"description": "too many bytes, pixels or files"},
    415: {"description": "not an image, or an image of another kind"},
    422: {"description": "an image that cannot be read"},
    429: {"description": "busy: try again after Retry-After seconds"},
    503: {"description": "no answer in time, or no maps of this model"},
}
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "a picture"}}
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "a picture"}}


def create(service: Current, *, hosts: Iterable[str] = (), limits: Limits | None = None) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        service: the model that answers.
        hosts: names by which the service may be addressed, besides those of this machine.
        limits: None = the defaults.
    """
    limits = limits or Limits()
    room = Room(min(_MAX_WORKERS, os.cpu_count() or 1), limits.waiting, limits.answer_seconds, "answer")
    # One worker: TensorFlow has its own threads, and predictions do not wait for maps.
    map_room = Room(1, _WAITING_FOR_MAPS, limits.map_seconds, "map")
    drawn = maps.Maps()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.follow()
        yield
        service.stop()
        room.close()
        map_room.close()

    app = FastAPI(
        title="pneumonia",
        description="Answers of a model for chest X-ray files. For research; not a medical device.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_FOREIGN,
        lifespan=life,
    )
    app.add_exception_handler(RefusedError, lambda _, error: answer(_refused(error)))
    app.add_exception_handler(HTTPException, lambda _, error: answer(of_framework(error)))
    app.add_exception_handler(RequestValidationError, lambda _, error: answer(of_framework(error)))
    app.add_exception_handler(Exception, lambda *_: answer(FAILED))

    async def files_of(request: Request) -> list[Upload]:
        return await uploads.read(request.headers.get("content-type", ""), request.stream(), limits)

    async def picture(request: Request, room: Room, draw: Callable[[Model, bytes], bytes]) -> Response:
        upload = _only(await files_of(request))
        present = service.model
        content = await room.run(_picture, draw, present, upload)
        return Response(content, media_type="image/png", headers={"X-Model": present.predictor.origin["model"]})

    @app.get("/v1/model", summary="The model in service: figures, operating points, limits")
    async def model() -> JSONResponse:
        present = service.model
        facts = dict(present.predictor.facts["saliency"])
        if "verdict" in facts:
            facts["verdict"] = verdicts.with_origin(facts["verdict"], present.predictor.facts["synthetic"])
        cause = await asyncio.to_thread(drawn.problem, present)
        return JSONResponse(
            current.describe(present)
            | {"limits": {"bytes": limits.file_bytes, "pixels": limits.pixels, "files": limits.files}}
            | {"saliency": {"method": "", **facts, "available": not cause, "reason": cause}}
        )

    @app.post(
        "/v1/predict",
        summary="The answers for one or more films",
        description="One bad file of several is an answer with its error. Numbers that do not exist are null. "
        "boxes is a list of objects with x, y, width, height and score, in pixels of the file; a detector fills it.",
        openapi_extra={"requestBody": _FILE},
        responses=_ERRORS,
    )
    async def answers(
        request: Request,
        operating_point: Annotated[str | None, Query(description="name in operating_points of /v1/model")] = None,
    ) -> JSONResponse:
        present = service.model
        name = operating_point or present.operating_point
        if name not in present.predictors:
            raise RefusedError(400, f"this operating point is not known; known: {', '.join(present.predictors)}")
        given = await files_of(request)
        return JSONResponse(await room.run(_answers, present, name, given, time.monotonic() + limits.answer_seconds))

    @app.post(
        "/v1/film",
        summary="A film as the network gets it, as PNG in gray",
        openapi_extra={"requestBody": _FILE},
        responses=_ERRORS | _PNG,
        response_class=Response,
    )
    async def film(request: Request) -> Response:
        return await picture(request, room, lambda model, content: maps.png(model.predictor.prepare(content)))

    @app.post(
        "/v1/whole",
        summary="The whole film with the outline of its lungs, the part that the model saw and boxes, as JPEG",
        description="X-Square: left, top, width and height of the square of /v1/film, as shares of the film.",
        openapi_extra={"requestBody": _FILE},
        responses=_ERRORS | _JPEG,
        response_class=Response,
    )
    async def whole(request: Request) -> Response:
        upload, present = _only(await files_of(request)), service.model
        content, square = await room.run(_whole, present, upload)
        headers = {"X-Model": present.predictor.origin["model"], "X-Square": " ".join(f"{one:.6f}" for one in square)}
        return Response(content, media_type="image/jpeg", headers=headers)

    @app.post(
        "/v1/saliency",
        summary="The saliency map of a film, as PNG with transparency of the size of /v1/film",
        openapi_extra={"requestBody": _FILE},
        responses=_ERRORS | _PNG,
        response_class=Response,
    )
    async def saliency(request: Request) -> Response:
        if cause := await asyncio.to_thread(drawn.problem, service.model):
            raise RefusedError(503, f"no map: {cause}")
        return await picture(request, map_room, drawn.draw)

    @app.get("/health", summary="The process lives")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    tested = _Tested()

    @app.get("/ready", summary="A model is loaded and answers", responses={503: {"description": "it does not answer"}})
    async def ready() -> JSONResponse:
        present = service.model
        if not await tested.answers(present):
            raise RefusedError(503, "the model does not answer")
        return JSONResponse({"status": "ready", "model": present.predictor.origin["model"]})

    docs = documentation.page(app.openapi())

    async def routes(request: Request) -> Response:
        return HTMLResponse(docs)

    app.add_route("/docs", routes, include_in_schema=False)
    for path, (name, kind) in PAGE.items():
        app.add_route(path, _file(name, kind), include_in_schema=False)
    known = {getattr(route, "path", "") for route in app.routes}
    return Guard(app, hosts=hosts, limits=limits, routes=known)


class _Tested:
    """The result of the last self-test, which requests share for some seconds."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._lock, self._until, self._is_right = asyncio.Lock(), 0.0, False

    async def answers(self, model: Model) -> bool:
        """Whether a model answers; also where all workers are busy."""
        async with self._lock:
            if model is not self._model or time.monotonic() >= self._until:
                self._is_right = await asyncio.to_thread(_is_right, model)
                self._model, self._until = model, time.monotonic() + _TEST_SECONDS
            return self._is_right


def _is_right(model: Model) -> bool:
    try:
        current.self_test(model)
    except UserError:
        return False
    return True


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    content = files("pneumonia.service").joinpath("page", name).read_bytes()

    async def respond(request: Request) -> Response:
        return Response(content, media_type=kind)

    return respond


def _answers(model: Model, operating_point: str, given: list[Upload], deadline: float) -> dict[str, Any]:
    """The answers for files; after the deadline, a time of `time.monotonic`, nobody waits for them any more."""
    predictor = model.predictors[operating_point]
    predictions: list[Prediction] = []
    for one in given:
        if time.monotonic() > deadline:
            raise RefusedError(503, "no answer in time; send fewer files in one request", retry=5)
        predictions += predictor.scores([one.content], [one.name])
    if len(given) == 1 and predictions[0].error:
        raise _bad_file(given[0].content, predictions[0].error)
    rows = [
        predict.row_of(one, predictor.origin) | {"boxes": [box._asdict() for box in one.boxes]} for one in predictions
    ]
    return {"model": predictor.origin, "predictions": rows}


def _picture(draw: Callable[[Model, bytes], bytes], model: Model, upload: Upload) -> bytes:
    try:
        return draw(model, upload.content)
    except UserError as error:
        raise _bad_file(upload.content, str(error)) from error


def _whole(model: Model, upload: Upload) -> tuple[bytes, tuple[float, ...]]:
    """The whole film as a picture, and the square that the model saw as shares of it."""
    try:
        film = model.predictor.read(upload.content)
        picture = predict.outlined(model.predictor, film, width=_WHOLE, height=_WHOLE)
    except UserError as error:
        raise _bad_file(upload.content, str(error)) from error
    (height, width), square = film.image.shape, film.square
    return predict.jpeg(picture), (square.x / width, square.y / height, square.width / width, square.height / height)


def _only(given: list[Upload]) -> Upload:
    if len(given) != 1:
        raise RefusedError(400, f"{len(given)} files, expected one")
    return given[0]


def _bad_file(content: bytes, error: str) -> RefusedError:
    """A file without an answer, with the status of its kind."""
    if not content:
        return RefusedError(400, error)
    # By its text: an own class of error in the decoder would run the stages of every project again.
    if f"more than {Limits().pixels:,}" in error:
        return RefusedError(413, error)
    return RefusedError(415 if image_format(content[:HEAD_BYTES]) in ("", "GIF") else 422, error)


def _refused(error: Exception) -> RefusedError:
    assert isinstance(error, RefusedError)
    return error
