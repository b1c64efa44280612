"""Errors as problems."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from flask import Flask
from structlog.testing import capture_logs

from dfs.api.answers import ProblemSchema
from dfs.api.errors import STATUS, install_error_handlers, status_of
from dfs.core import errors


def walk_leaves(base: type[errors.DfsError]) -> Iterator[type[errors.DfsError]]:
    """Yield the classes below `base`, defined by dfs, that have no class below them."""
    below = [kind for kind in base.__subclasses__() if kind.__module__.startswith("dfs.")]
    for kind in below:
        yield from walk_leaves(kind)
    if not below:
        yield base


@pytest.mark.parametrize("kind", list(walk_leaves(errors.DfsError)), ids=lambda kind: kind.code)
def test_errors_every_leaf_has_a_status(kind: type[errors.DfsError]) -> None:
    """An error class that is added must be given a status by hand."""
    assert kind in STATUS


def test_errors_codes_are_unique_among_leaves() -> None:
    """A program can tell every error by its code."""
    codes = [kind.code for kind in walk_leaves(errors.DfsError)]
    assert len(codes) == len(set(codes))


def test_errors_retryable_ones_are_not_the_clients_fault() -> None:
    """What may succeed later is answered by 503 or 507."""
    retryable = {status for kind, status in STATUS.items() if kind.retryable}
    assert retryable <= {503, 507}


def test_status_of_unlisted_class_is_that_of_its_base() -> None:
    """A subclass nobody has listed is answered like its base, at last by kind."""

    class OddError(errors.NoSpaceError):
        """Made up."""

    assert status_of(OddError("x")) == 507
    assert status_of(errors.RequestError("x")) == 400
    assert status_of(errors.MetadataError("x")) == 503
    assert status_of(errors.WalError("x")) == 500


def raising_app(error: Exception) -> Flask:
    """Return an application whose only route raises."""
    app = Flask("raising")
    app.testing = True
    install_error_handlers(app)

    @app.route("/", methods=["GET", "POST"])
    def fail() -> str:
        raise error

    return app


LATER = {"retry_after_s": 3}


@pytest.mark.parametrize("kind", list(STATUS), ids=lambda kind: kind.code)
def test_errors_are_answered_as_problems(kind: type[errors.DfsError]) -> None:
    """Every error is a whole problem with its code, and tells nothing of where it happened."""
    contexts = {
        errors.InvalidRangeError: {"size": 7},
        errors.TooManyRequestsError: LATER,
        errors.TooManyAttemptsError: LATER,
    }
    context = contexts.get(kind, {"path": "/secret/place"})
    with capture_logs():
        response = raising_app(kind("It failed.", **context)).test_client().get("/")  # type: ignore[arg-type]
    assert response.status_code == STATUS[kind]
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.data)
    assert ProblemSchema().validate(problem) == {}
    assert (problem["code"], problem["status"]) == (kind.code, STATUS[kind])
    assert b"secret" not in response.data
    assert ("Retry-After" in response.headers) == (response.status_code in (429, 503))
    assert ("WWW-Authenticate" in response.headers) == (response.status_code == 401)


def test_errors_unknown_is_logged_and_hidden() -> None:
    """A bug is answered by 500 without its text; the log has the traceback."""
    with capture_logs() as logs:
        response = raising_app(ZeroDivisionError("secret")).test_client().get("/")
    assert (response.status_code, response.json["code"]) == (500, "internal")  # type: ignore[index]
    assert b"secret" not in response.data
    assert logs[0]["event"] == "request_crashed"
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_errors_of_fields_are_422() -> None:
    """A request that parses but does not validate names the fields."""
    error = errors.InvalidRequestError("Bad.", fields={"limit": ["too small"]})
    response = raising_app(error).test_client().get("/")
    assert response.status_code == 422
    assert response.json["errors"] == {"limit": ["too small"]}  # type: ignore[index]


def test_errors_in_range_tell_the_size() -> None:
    """416 comes with the size, so that the client can ask again."""
    response = raising_app(errors.InvalidRangeError("No.", size=7)).test_client().get("/")
    assert response.headers["Content-Range"] == "bytes */7"


def test_errors_wrong_path_and_method_are_problems() -> None:
    """What Flask refuses by itself is answered in the same form."""
    client = raising_app(ValueError()).test_client()
    missing, wrong = client.get("/nowhere"), client.delete("/")
    assert (missing.status_code, missing.json["code"]) == (404, "not_found")  # type: ignore[index]
    assert wrong.json["code"] == "method_not_allowed"  # type: ignore[index]
    assert "GET" in wrong.headers["Allow"]
    assert missing.content_type == wrong.content_type == "application/problem+json"


def test_errors_before_a_long_body_close_the_connection() -> None:
    """A body nobody has read is not received only to be thrown away."""
    client = raising_app(errors.InvalidNameError("No.")).test_client()
    assert client.post("/", data=b"x" * 100).headers.get("Connection") is None
    assert client.post("/", data=b"x" * 100_000).headers["Connection"] == "close"
