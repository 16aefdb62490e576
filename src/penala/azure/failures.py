"""penala's errors as the SDK's exceptions, which notebooks catch."""

from collections.abc import Iterator
from contextlib import contextmanager

from azure.ai.ml.exceptions import ErrorCategory, ErrorTarget, JobException, ValidationErrorType, ValidationException
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

from penala.errors import DataError, JobError, NotFound, PenalaError, RecipeError, UsageError


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
        return ResourceNotFoundError(str(error))
    if isinstance(error, UsageError | RecipeError | DataError):
        return refusal(str(error))
    if isinstance(error, JobError):
        return JobException(message=str(error), no_personal_data_message="a job failed")
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


def refusal(message: str) -> ValidationException:
    """Return the exception for what is refused before anything starts."""
    return ValidationException(
        message=message,
        no_personal_data_message="refused",
        target=ErrorTarget.GENERAL,
        error_category=ErrorCategory.USER_ERROR,
        error_type=ValidationErrorType.INVALID_VALUE,
    )
