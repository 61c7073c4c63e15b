"""The one place where the S3 client's errors become the store's.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Unknown 5xx pass as trouble, unknown 4xx as
a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from tessera_store.errors import ObjectExists, ObjectMissing, StoreError, StoreRefused, StoreUnavailable

_MISSING = {"NoSuchKey", "404", "NotFound"}
_EXISTS = {"PreconditionFailed", "412"}
_PASSING = {
    "ConditionalRequestConflict",  # another writer of the same name is in mid-air: ask again
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "InternalError",
    "NoSuchUpload",  # the upload in parts was lost; the next attempt begins a new one
    "IncompleteBody",
    "BadDigest",
}
_REMEDIES = {
    "AccessDenied": "give these credentials the right to it",
    "403": "give these credentials the right to it",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID to a key that the store knows",
    "SignatureDoesNotMatch": "set AWS_SECRET_ACCESS_KEY to the secret of AWS_ACCESS_KEY_ID",
    "ExpiredToken": "renew the credentials",
    "NoSuchBucket": "create the bucket or correct storage.uri",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NotImplemented": "use a store that has this ability",
    "501": "use a store that has this ability",
    "QuotaExceeded": "free space in the store",
}
_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
_CONNECTION = (HTTPClientError, ConnectionError, IncompleteReadError, ResponseStreamingError, RetriesExceededError)


@contextmanager
def asking(uri: str, name: str) -> Iterator[None]:
    """Around one attempt at the object `name` of the store `uri`."""
    try:
        yield
    except ClientError as error:
        raise _translate(error, f"{uri}: {name}") from error
    except S3UploadFailedError as error:  # boto3 wraps what its transfer met, and keeps it as context only
        inner = error.__context__
        if isinstance(inner, ClientError):
            raise _translate(inner, f"{uri}: {name}") from error
        raise StoreUnavailable(f"{uri}: {name}: {error}") from error
    except _CONNECTION as error:
        raise StoreUnavailable(f"{uri}: {name}: no whole answer: {error}") from error
    except _CREDENTIALS as error:
        raise StoreRefused(f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except BotoCoreError as error:
        raise StoreRefused(f"{uri}: {name}: {error}") from error


def is_past_the_end(error: ClientError) -> bool:
    """Whether a range was refused because the object ends before it."""
    return _code(error) in ("InvalidRange", "416") or _status(error) == 416


def _translate(error: ClientError, place: str) -> StoreError:
    code, status = _code(error), _status(error)
    sentence = f"{place}: {error}"
    if code in _MISSING:
        return ObjectMissing(sentence)
    if code in _EXISTS or status == 412:
        return ObjectExists(sentence)
    if code in _REMEDIES:
        return StoreRefused(f"{sentence}; {_REMEDIES[code]}")
    if code in _PASSING or status >= 500 or status == 429:
        return StoreUnavailable(sentence)
    return StoreRefused(sentence)


def _code(error: ClientError) -> str:
    return str(_part(error, "Error").get("Code", ""))


def _status(error: ClientError) -> int:
    return int(_part(error, "ResponseMetadata").get("HTTPStatusCode", 0))


def _part(error: ClientError, name: str) -> dict[str, Any]:
    part: dict[str, Any] = error.response.get(name, {})
    return part
