"""What a failed storage call means: whether waiting helps, what to tell a person, what they can do."""

from __future__ import annotations

import errno

# Waiting does not help against these.
_LASTING_ERRNO = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
_LASTING_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "InvalidBucketName"}
_FULL_CODES = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"}
_LASTING_STATUS = set(range(400, 500)) - {408, 425, 429}  # of an HTTP server: those three ask for another try
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, NotImplementedError)


def error_code(error: BaseException | None) -> str:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _is_botocore(error: BaseException) -> bool:
    return any(cls.__module__.startswith(("botocore", "aiohttp", "aiobotocore")) for cls in type(error).__mro__)


def is_storage_fault(error: BaseException) -> bool:
    return isinstance(error, (OSError, TimeoutError, NotImplementedError)) or _is_botocore(error)


def is_transient(error: BaseException) -> bool:
    if not is_storage_fault(error) or isinstance(error, _LASTING):
        return False
    if type(error).__name__ in {
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "ParamValidationError",
    }:
        return False
    if error_code(error) in _LASTING_CODES | _FULL_CODES:
        return False
    if getattr(error, "status", None) in _LASTING_STATUS:
        return False
    return not (isinstance(error, OSError) and error.errno in _LASTING_ERRNO)


def describe(error: BaseException | None) -> str:
    if error is None:
        return "unknown error"
    # Ceph sends no message, and a HEAD hides the reason: the code says more.
    code = error_code(error)
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}{f' {code}' if code else ''}: {text}"[:500]


def advice(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if number in {errno.ENOSPC, errno.EDQUOT} or error_code(error) in _FULL_CODES:
        return "Free some space and run the same command again: finished shards stay."
    refused = isinstance(error, PermissionError) or getattr(error, "status", None) in {401, 403}
    if refused or number in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return "Check that these credentials may list, read and write there, then run the same command again."
    if isinstance(error, (NotADirectoryError, IsADirectoryError)):
        return "A file lies where a folder is needed, or a folder where a file is: check the path."
    if isinstance(error, FileNotFoundError):
        return "Check that the bucket or folder exists and is spelled right."
    if "redential" in type(error).__name__:
        return "Set credentials in the environment, a profile or an instance role; the job file holds none."
    return "Nothing is lost: run the same command again when the storage answers."
