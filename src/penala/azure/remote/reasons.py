"""What Azure refuses, as penala's errors: what was being done, what Azure says, and what a person can do about it."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

from penala.errors import JobError, NotFound, PenalaError

_FIXES = {
    401: "`az login` signs in anew; AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET sign a program in",
    403: "ask the workspace's owner for the role AzureML Data Scientist; for computes AzureML Compute Operator",
    409: "something else is changing it, or it is there with other settings; wait, or choose another name",
    429: "Azure asks for patience; the same command in some minutes",
}
_QUOTA = re.compile("quota", re.IGNORECASE)
_AFTER_BLANK = re.compile(r"\s*\n\s*\n.*", re.DOTALL)


@contextmanager
def during(doing: str, kind: type[PenalaError] = JobError, *, fix: str | None = None) -> Iterator[None]:
    """Turn what the SDK raises into an error of `kind` that says what was being done; `fix` wins over the usual one.

    What the SDK prints while it waits is dropped: stdout is for our own data.
    """
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except AzureError as error:  # the SDK's own exceptions are such errors too
        status = getattr(error, "status_code", None)
        raise (NotFound if status == 404 else kind)(f"{doing}: {_said(error)}", fix=fix or _fix(error)) from error


def state_text(state: object) -> str:
    """Return a state in words; newer versions of the SDK give a member of an enumeration."""
    return str(getattr(state, "value", state))


def _said(error: AzureError) -> str:
    """Return Azure's own words on one line, with the number and the code."""
    status = getattr(error, "status_code", None)
    inner = error.error if isinstance(error, HttpResponseError) else None
    text = getattr(inner, "message", None) or str(getattr(error, "message", "") or error)
    code = getattr(inner, "code", None)
    words = " ".join(_AFTER_BLANK.sub("", text.strip()).split())
    marks = " ".join(str(mark) for mark in (status, code) if mark)
    return f"Azure answers {marks}: {words}" if marks else words


def _fix(error: AzureError) -> str | None:
    status = getattr(error, "status_code", None)
    if _QUOTA.search(str(error)):
        return "ask for quota of this family in Azure's portal, or choose a smaller size"
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return "check the network and HTTPS_PROXY; the same command tries again"
    if status is not None and status >= 500:
        return "the fault is Azure's; the same command later"
    return _FIXES.get(status) if status is not None else None
