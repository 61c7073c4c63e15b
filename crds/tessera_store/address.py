"""From an address to a store: `file:///folder` or `s3://bucket/prefix`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tessera_store.files import FileStore
from tessera_store.patience import Patience
from tessera_store.store import Store


def open_store(uri: str, patience: Patience | None = None) -> Store:
    """The store at `uri`; nothing is asked of it yet. ValueError if the address cannot be one.

    S3 takes endpoint, region and credentials from the standard environment (AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID, ...); its client is imported only here, so that files do not pay for it.
    """
    parts = urlsplit(uri)
    if parts.query or parts.fragment:
        raise ValueError(f"storage address {uri!r} has a '?' or '#'; write it as file:///folder or s3://bucket/prefix")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from tessera_store.s3 import S3Store

        return S3Store(parts.netloc, unquote(parts.path).strip("/"), patience or Patience())
    raise ValueError(f"storage address {uri!r} is not of the form file:///folder or s3://bucket/prefix")
