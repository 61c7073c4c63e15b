"""S3 and what speaks its protocol, as an object store.

Creation is `PUT` with `If-None-Match: *`. Every attempt has time limits of its own and is repeated within `Patience`;
botocore's own retries are off, so that an answer that got lost is seen here: a creation that was perhaps done and is
then refused as existing is decided by reading back. Objects of `MULTIPART_BYTES` and more go up in parts.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tessera_store.errors import ObjectExists, StoreUnavailable
from tessera_store.file_errors import writing
from tessera_store.names import check_name, check_prefix
from tessera_store.patience import Patience
from tessera_store.s3_errors import asking, is_past_the_end
from tessera_store.store import ObjectInfo

MULTIPART_BYTES = 64 << 20
CONNECTIONS = 16
"""Of one store's client: as many calls can be under way at once."""

Answer = TypeVar("Answer")


class S3Store:
    """Objects of `bucket` whose keys begin with `prefix`/ (or all, where it is empty)."""

    def __init__(self, bucket: str, prefix: str, patience: Patience) -> None:
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._patience = patience
        self._client: Any = _client(patience)
        self._transfer = TransferConfig(multipart_threshold=MULTIPART_BYTES, max_concurrency=4)

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    def create(self, name: str, data: bytes) -> None:
        key = self._key(name)
        perhaps_done = False

        def attempt() -> None:
            nonlocal perhaps_done
            try:
                with asking(self.uri, name):
                    self._client.put_object(Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
            except StoreUnavailable:
                perhaps_done = True
                raise
            except ObjectExists:
                if not perhaps_done or self.get(name) != data:
                    raise

        self._patience.retry(attempt)

    def put(self, name: str, data: bytes | Path) -> None:
        key = self._key(name)

        def attempt() -> None:
            if isinstance(data, bytes) and len(data) < MULTIPART_BYTES:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data)
                return
            with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as body:
                self._client.upload_fileobj(body, self._bucket, key, Config=self._transfer)

        self._ask(name, attempt)

    def get(self, name: str) -> bytes:
        key = self._key(name)
        return self._ask(name, lambda: _body(self._client.get_object(Bucket=self._bucket, Key=key)))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"range [{start}, +{length}) of {name} is negative")
        if length == 0:
            self.size(name)  # no range says "nothing"; that the object exists is still to be proved
            return b""
        key, span = self._key(name), f"bytes={start}-{start + length - 1}"

        def attempt() -> bytes:
            try:
                return _body(self._client.get_object(Bucket=self._bucket, Key=key, Range=span))
            except ClientError as error:
                if is_past_the_end(error):
                    return b""
                raise

        return self._ask(name, attempt)

    def download(self, name: str, path: Path) -> None:
        key = self._key(name)
        part = path.with_name(f".{uuid.uuid4().hex}.part")

        def attempt() -> None:
            with writing(str(path)), open(part, "wb") as file:
                self._client.download_fileobj(self._bucket, key, file, Config=self._transfer)
                file.flush()
                os.fsync(file.fileno())

        try:
            self._ask(name, attempt)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        start = self._root + check_prefix(prefix)
        found = self._ask(prefix or ".", lambda: sorted(self._objects(start), key=lambda info: info.name))
        return iter(found)  # sorted here: not every store of this protocol sorts by the whole key

    def delete(self, name: str) -> None:
        key = self._key(name)
        self._ask(name, lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    def size(self, name: str) -> int:
        return self.info(name).size

    def info(self, name: str) -> ObjectInfo:
        key = self._key(name)
        head = self._ask(name, lambda: self._client.head_object(Bucket=self._bucket, Key=key))
        return ObjectInfo(name, int(head["ContentLength"]), head["LastModified"].timestamp())

    def _key(self, name: str) -> str:
        return self._root + check_name(name)

    def _ask(self, name: str, attempt: Callable[[], Answer]) -> Answer:
        """`attempt`'s answer, its errors mapped, repeated while the store is unavailable."""

        def mapped() -> Answer:
            with asking(self.uri, name):
                return attempt()

        return self._patience.retry(mapped)

    def _objects(self, start: str) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
        for page in pages:
            for item in page.get("Contents", ()):
                name = str(item["Key"])[len(self._root) :]
                if not name.endswith("/"):  # some tools mark a "folder" by an empty object
                    yield ObjectInfo(name, int(item["Size"]), item["LastModified"].timestamp())


def _body(answer: dict[str, Any]) -> bytes:
    data: bytes = answer["Body"].read()
    return data


def _client(patience: Patience) -> Any:
    """A client of its own session: boto3's shared one may not be used by two threads at a time while it is made."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=patience.connect_timeout_s,
        read_timeout=patience.read_timeout_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        # Off AWS the bucket is part of the path (its name need not resolve), and a checksum in a trailer is not known
        # everywhere; a checkpoint's objects carry their sha256 in the log.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = boto3.session.Session()
    return session.client("s3", region_name=session.region_name or "us-east-1", config=config)
