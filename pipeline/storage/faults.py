"""What a failed storage call means: whether waiting helps, what to tell a person, what they can do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from promptmill.pipeline.display import cut
from promptmill.schemas.urls import chain, scheme_of

# Waiting does not help against these.
_LASTING_ERRNO = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTSUP, errno.ENOSYS),
}
MISSING_PLACES = {"NoSuchBucket", "ContainerNotFound"}
_FULL_CODES = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"}
_REFUSED_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed", "AuthorizationFailure"}
_LASTING_CODES = {"InvalidBucketName", "NotImplemented", *MISSING_PLACES, *_REFUSED_CODES}
_PASSING_CODES = {
    *("RequestTimeout", "IncompleteBody", "BadDigest", "OperationTimedOut", "ServerBusy"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"),
}
"""Said with a status of 400 or so, and gone at the next try."""
_THROTTLING = {408, 425, 429}
_LASTING_STATUS = (set(range(400, 500)) - {409} - _THROTTLING) | {501, 505}
"""Of a server; 409 is what it says where two writes cross."""
_ABSENT_STATUS = {404, 410}
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, NotImplementedError)
_LASTING_NAMES = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError"),
    *("EndpointResolutionError", "InvalidEndpointConfigurationError", "UnauthorizedSSOTokenError", "SSLError"),
    *("AuthenticationException", "BadAuthenticationType", "PasswordRequiredException", "BadHostKeyException"),
    *("ClientAuthenticationError", "DefaultCredentialsError", "RefreshError", "InvalidURL", "InvalidUrlClientError"),
    *("ClientConnectorCertificateError", "ClientConnectorSSLError"),
    # Settings that botocore refuses before it asks anybody.
    *("ValidationError", "ConfigParseError", "ConfigNotFound", "InvalidConfigError", "InvalidProxiesConfigError"),
    *("InvalidRetryConfigurationError", "InvalidRetryModeError", "InvalidChecksumConfigError"),
    *("InvalidDefaultsMode", "InvalidSTSRegionalEndpointsConfigError", "InvalidS3UsEast1RegionalEndpointConfigError"),
}
_BEFORE_ASKING = {"FileNotFoundError", "InvalidProxiesConfigError"}
"""A bundle of certificates that is not there; proxies that are none."""
_REFUSED_NAMES = {"AuthenticationException", "BadAuthenticationType", "ClientAuthenticationError", "RefreshError"}
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "azure", "google.auth", "google.api_core", "gcsfs", "paramiko")


def _causes(error: BaseException | None, led_to: bool = True) -> Iterator[BaseException]:
    """The error and what it was raised from; with `led_to` also what was being answered when it came."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if led_to else None)


def error_code(error: BaseException | None) -> str:
    """The word that the server has for it; empty where it said none."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        if isinstance(code := getattr(each, "error_code", None), str):
            return str(getattr(code, "value", code))
    return ""


def _status(error: BaseException) -> int | None:
    """Of the server's answer; None where there was none.

    Not that of a call before, whose failure led to this one; nor the 400 that aiohttp's parser gives an answer that
    was cut short, which no server said.
    """
    for each in _causes(error, led_to=False):
        if type(each).__module__ == "aiohttp.http_exceptions":
            continue
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = next(
                (value for name in ("status", "status_code", "code") if (value := getattr(each, name, None))), 0
            )
        if isinstance(found, int) and 400 <= found < 600:
            return found
    return None


def _is_client(error: BaseException) -> bool:
    return any(cls.__module__.startswith(_CLIENTS) for cls in type(error).__mro__)


def is_storage_fault(error: BaseException) -> bool:
    return isinstance(error, (OSError, TimeoutError, NotImplementedError, EOFError)) or _is_client(error)


def is_transient(error: BaseException) -> bool:
    if not is_storage_fault(error) or isinstance(error, _LASTING) or _names(error) & _LASTING_NAMES:
        return False
    if "HTTPClientError" in _names(error) and any(_names(cause) & _BEFORE_ASKING for cause in _causes(error)):
        return False
    if type(error).__name__ == "SSHException" and "No authentication methods" in str(error):
        return False
    code = error_code(error)
    if code in _PASSING_CODES:
        return True
    if code in _LASTING_CODES | _FULL_CODES or _status(error) in _LASTING_STATUS:
        return False
    # s3fs gives errno EIO to all that it has no better word for.
    return not (isinstance(error, OSError) and error.errno in _LASTING_ERRNO)


def is_silence(error: BaseException) -> bool:
    """Whether what could pass is that nobody answered, or a gateway for nobody: a server that throttles is there."""
    return is_transient(error) and _status(error) not in _THROTTLING


def no_answer(error: FileNotFoundError) -> BaseException | None:
    """What a web server really did where fsspec says that nothing is there; None where the server said so itself.

    It was silent, was not to be reached, or refused to say.
    """
    for cause in _causes(error):
        names = _names(cause)
        if (isinstance(cause, TimeoutError) or "ClientConnectionError" in names) and not names & _LASTING_NAMES:
            return ConnectionError(f"the server did not answer ({describe(cause)})")
        if "ClientError" in names and type(cause).__module__.startswith("aiohttp"):
            return None if getattr(cause, "status", None) in _ABSENT_STATUS else cause
    return None


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def describe(error: BaseException | None) -> str:
    if error is None:
        return "unknown error"
    # Ceph sends no message, and a HEAD hides the reason: the code says more.
    code = error_code(error)
    text = " ".join(str(error).split()).partition(" RequestId:")[0] or "no message"  # Azure sends a page after it
    return cut(f"{type(error).__name__}{f' {code}' if code else ''}: {text}", 500)


def advice(error: BaseException) -> str:
    number, code, status = getattr(error, "errno", None), error_code(error), _status(error)
    if number in {errno.ENOSPC, errno.EDQUOT} or code in _FULL_CODES:
        return "Free some space and run the same command again: finished shards stay."
    if isinstance(error, (NotADirectoryError, IsADirectoryError)):
        return "A file lies where a folder is needed, or a folder where a file is: check the path."
    if isinstance(error, FileNotFoundError) or code in MISSING_PLACES or status == 404:
        return "Check that the bucket or folder exists and is spelled right."
    refused = isinstance(error, PermissionError) or status in {401, 403} or code in _REFUSED_CODES
    if refused or number in {errno.EROFS, errno.EACCES, errno.EPERM} or _names(error) & _REFUSED_NAMES:
        return "Check that these credentials may list, read and write there, then run the same command again."
    if type(error).__name__ == "SSHException" and not is_transient(error):
        return "Set FSSPEC_SFTP_USERNAME and FSSPEC_SFTP_PASSWORD, or have a key in ~/.ssh or an agent."
    if "redential" in type(error).__name__ or type(error).__name__ == "ProfileNotFound":
        return "Set credentials in the environment, a profile or an instance role; the job file holds none."
    if not is_transient(error):
        return "Trying again does not change that: check the URL, the endpoint and its settings."
    return "Nothing is lost: run the same command again when the storage answers."


def settings_advice(url: str) -> str:
    """Where the settings come from that a client refuses before it asks any server."""
    scheme = scheme_of(chain(url)[-1])
    variables = {
        "s3": "AWS_PROFILE, AWS_ENDPOINT_URL and the other AWS_ variables, and ~/.aws",
        "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS and STORAGE_EMULATOR_HOST",
        "sftp": "FSSPEC_SFTP_PASSWORD, FSSPEC_SFTP_USERNAME and the keys in ~/.ssh",
    }
    kinds = {"s3a": "s3", "abfs": "az", "abfss": "az", "gcs": "gs", "ssh": "sftp"}
    found = variables.get(kinds.get(scheme, scheme))
    return f"Check {found}." if found else "Check the URL and the settings of its file system."
