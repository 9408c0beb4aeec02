"""What Amazon wants of every request, and its buckets."""

from __future__ import annotations

import hashlib
import html
import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

from ..errors import AmbiguousError, MissingExtraError, MissingSecretError, UnreachableError, UserError
from ..visible import visible
from .buckets import Bucket
from .http import Request
from .replies import path_part

_HASH = "X-Amz-Content-SHA256"
_KEY = re.compile(r"<Key>([^<]+)</Key>")
_MORE = re.compile(r"<NextContinuationToken>([^<]+)</NextContinuationToken>")


def credentials_of(access_key_id: str, secret_access_key: str, session_token: str, profile: str) -> Any:
    """Those that are given, else those that botocore finds: environment, profile, container or machine.

    Raises:
        MissingExtraError: botocore isn't installed.
        MissingSecretError: There are none, or half of them.
        UserError: There is no such profile.
    """
    given = [part.strip() for part in (access_key_id, secret_access_key)]
    if all(given):
        return _part("credentials").Credentials(*given, session_token.strip() or None)
    if any(given):
        raise MissingSecretError(
            "bedrock: access_key_id and secret_access_key go together; one of them is empty. Nothing was sent."
        )
    try:
        found = _part("session").Session(profile=profile or None).get_credentials()
    except _part("exceptions").BotoCoreError as error:
        raise UserError(f"bedrock: {error}. Nothing was sent.") from error
    if found is None:
        raise MissingSecretError(
            "bedrock: there are no AWS credentials. Pass access_key_id=dg.EnvVar('AWS_ACCESS_KEY_ID') and "
            "secret_access_key=dg.EnvVar('AWS_SECRET_ACCESS_KEY'), name a profile, or give this machine a role. "
            "Nothing was sent."
        )
    return found


class Signer:
    """Signs requests (Signature Version 4).

    Args:
        service: ``bedrock`` or ``s3``.
        region: Such as ``us-east-1``.
        credentials: See `credentials_of`; those that expire are renewed.
    """

    def __init__(self, service: str, region: str, credentials: Any) -> None:
        self._service = service
        self._region = region
        self._credentials = credentials

    def __call__(self, request: Request) -> Request:
        hashed = request.headers.get(_HASH) or hashlib.sha256(request.extensions.get("content", b"")).hexdigest()
        asked = _part("awsrequest").AWSRequest(
            method=request.method,
            url=str(request.url.copy_with(query=None)),
            params=request.url.params.multi_items(),
            headers={_HASH: hashed},
        )
        try:
            now = self._credentials.get_frozen_credentials()
        except _part("exceptions").BotoCoreError as error:
            raise UnreachableError(f"{self._service}: the AWS credentials can't be renewed: {error}.") from error
        _part("auth").SigV4Auth(now, self._service, self._region).add_auth(asked)
        request.headers.update(dict(asked.headers.items()))
        return request


class S3(Bucket):
    """Amazon's buckets, and those that are spoken to like them."""

    scheme: ClassVar[str] = "s3"

    def content(self, address: str) -> str:
        bucket, key = self.split(address)
        return f"/{bucket}/{path_part(key, keep='/')}"

    def put(self, path: Path, address: str) -> None:
        with path.open("rb") as stream:  # what arrives otherwise is refused
            hashed = hashlib.file_digest(stream, "sha256").hexdigest()
        self.http.put(self.content(address), path, {_HASH: hashed})

    def below(self, folder: str) -> list[str]:
        bucket, prefix = self.split(folder)
        asked: dict[str, str] = {"list-type": "2", "prefix": prefix}
        found: list[str] = []
        while True:
            page = self.http.answered("GET", f"/{bucket}", params=asked).text
            if "<ListBucketResult" not in page:  # what isn't listed would be asked again
                raise AmbiguousError(
                    f"bedrock: bucket {bucket} was listed with something else: {visible(page[:200])!r}."
                )
            found += [f"s3://{bucket}/{html.unescape(key)}" for key in _KEY.findall(page)]
            more = _MORE.search(page)
            if more is None:
                return found
            asked["continuation-token"] = html.unescape(more[1])

    def has(self, address: str) -> bool:
        return self.http.answered("HEAD", self.content(address), accepted=(404,)).status != 404

    def delete(self, address: str) -> None:
        self.http.answered("DELETE", self.content(address), accepted=(404,))


def _part(name: str) -> Any:
    """A module of botocore, which has no types."""
    try:
        return importlib.import_module(f"botocore.{name}")
    except ImportError as error:
        raise MissingExtraError("Bedrock needs botocore: pip install 'dagster-batch-llm[bedrock]'") from error
