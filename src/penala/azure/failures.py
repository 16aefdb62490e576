"""penala's errors as the SDK's exceptions, which notebooks catch."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from azure.ai.ml.exceptions import ErrorCategory, ErrorTarget, JobException, ValidationErrorType, ValidationException
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestTimeoutError,
)

from penala.errors import DataError, EndpointError, JobError, NotFound, PenalaError, RecipeError, UsageError

_ANSWERED = re.compile(r"answered (\d{3}): ")  # an EndpointError holds the status in its words only
_ANSWERS: dict[int, type[AzureError]] = {  # what the SDK's invoke makes of a status
    401: ClientAuthenticationError,
    404: ResourceNotFoundError,
    408: ServiceRequestTimeoutError,
    409: ResourceExistsError,
}


@contextmanager
def sdk_exceptions() -> Iterator[None]:
    """Raise what the SDK would raise where penala's own errors come out."""
    try:
        yield
    except PenalaError as error:
        raise as_sdk(error) from error


def as_sdk(error: PenalaError) -> AzureError:
    """Return the exception of the SDK that means the same, with all of the error's text."""
    if isinstance(error, NotFound):
        return not_found(str(error))
    if isinstance(error, UsageError | RecipeError | DataError):
        return refusal(str(error))
    if isinstance(error, JobError):
        return JobException(message=str(error), no_personal_data_message="a job failed")
    if isinstance(error, EndpointError) and (answer := _ANSWERED.match(error.what)):
        return _with_status(_ANSWERS.get(int(answer[1]), HttpResponseError)(str(error)), int(answer[1]))
    return HttpResponseError(str(error))


def expect(entity: object, kind: type, what: str) -> None:
    """Refuse what is not of the SDK's type for something."""
    if not isinstance(entity, kind):
        raise refusal(f"{type(entity).__name__} is no {what}; azure.ai.ml.entities has {kind.__name__} for it")


def expect_name(name: object, what: str) -> None:
    """Refuse what is no name, such as the entity itself."""
    if not isinstance(name, str) or not name:
        given = repr(name) if name in (None, "") else f"a {type(name).__name__}"
        raise refusal(f"{what} is found by its name, not by {given}")


def not_found(message: str) -> AzureError:
    """Return the exception for what is not there, with the status by which programs tell it."""
    return _with_status(ResourceNotFoundError(message), 404)


def _with_status(error: AzureError, status: int) -> AzureError:
    if isinstance(error, HttpResponseError):
        error.status_code = status
    return error


def refusal(message: str) -> ValidationException:
    """Return the exception for what is refused before anything starts."""
    return ValidationException(
        message=message,
        no_personal_data_message="refused",
        target=ErrorTarget.GENERAL,
        error_category=ErrorCategory.USER_ERROR,
        error_type=ValidationErrorType.INVALID_VALUE,
    )
