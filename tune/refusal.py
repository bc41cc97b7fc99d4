"""What an error of MLflow means for the event that met it: never again, not with these credentials, or later.

Knows nothing of events, spools or attempts.
"""

NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
NOT_YOU = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
TOO_LARGE = 413
CREDENTIALS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


class RefusedError(Exception):
    """An event that no later attempt can deliver."""


def hopeless(error: Exception, uri: str) -> bool:
    """Whether sending the same again can never help: MLflow itself understood and declined.

    What a proxy before a server says with the same status is not MLflow's word: it comes without MLflow's JSON.
    """
    from mlflow.exceptions import MlflowException, RestException

    spoken = RestException if uri.startswith("http") else MlflowException
    declined = isinstance(error, spoken) and getattr(error, "error_code", "") in NEVER
    return isinstance(error, RefusedError) or declined or _status(error) == TOO_LARGE


def unauthorized(error: Exception) -> bool:
    """Whether MLflow, or what stands before it, does not know or does not admit who asks (401, 403)."""
    return getattr(error, "error_code", "") in NOT_YOU or _status(error) in (401, 403)


def reason(error: Exception) -> str:
    """An error in one line, with the cure where the credentials are to blame."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"it refuses the credentials; {CREDENTIALS}: {said}" if unauthorized(error) else said


def _status(error: Exception) -> int | None:
    """The HTTP status of an answer to an upload of files, which does not go through MLflow's own errors."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
