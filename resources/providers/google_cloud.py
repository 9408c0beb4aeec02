"""What Google Cloud wants of every request, and its buckets."""

from __future__ import annotations

import importlib
import json
import threading
from pathlib import Path
from typing import Any, ClassVar

from ..errors import MissingExtraError, MissingSecretError, UnreachableError
from .buckets import Bucket
from .http import Request
from .replies import an_object, mapping, page_of, path_part

_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


def credentials_of(service_account: str, access_token: str = "") -> Any:
    """Those of a service account's key in JSON, or a token as it is; else those that google-auth finds.

    Raises:
        MissingExtraError: google-auth isn't installed.
        MissingSecretError: There are none, or the key isn't one.
    """
    auth, errors = _part("auth"), _part("auth.exceptions")
    if service_account.strip():
        kind = _part("oauth2.service_account").Credentials
        try:
            return kind.from_service_account_info(json.loads(service_account), scopes=_SCOPES)
        except (ValueError, TypeError, AttributeError, errors.GoogleAuthError) as error:
            raise MissingSecretError(
                "vertex: service_account isn't the JSON of a service account's key. Nothing was sent."
            ) from error
    if access_token.strip():
        return _part("oauth2.credentials").Credentials(token=access_token.strip())
    try:
        found, _ = auth.default(scopes=_SCOPES)
    except errors.GoogleAuthError as error:
        raise MissingSecretError(
            "vertex: there are no Google credentials. Pass service_account=dg.EnvVar('…') with a service account's "
            "key, set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`. Nothing was sent."
        ) from error
    return found


class Bearer:
    """Puts a token into requests, and renews it before it ends.

    Args:
        credentials: See `credentials_of`.
    """

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Request:
        headers: dict[str, str] = {}
        try:
            with self._lock:
                renewing = _part("auth.transport.requests").Request()
                self._credentials.before_request(renewing, request.method, str(request.url), headers)
        except _part("auth.exceptions").GoogleAuthError as error:
            raise UnreachableError(
                f"vertex: the Google credentials can't be renewed: {error}. Nothing was sent."
            ) from error
        request.headers.update(headers)
        return request


class CloudStorage(Bucket):
    """Google's buckets."""

    scheme: ClassVar[str] = "gs"

    def _object(self, address: str) -> str:
        bucket, key = self.split(address)
        return f"/storage/v1/b/{path_part(bucket)}/o/{path_part(key)}"

    def content(self, address: str) -> str:
        return f"{self._object(address)}?alt=media"

    def put(self, path: Path, address: str) -> None:
        bucket, key = self.split(address)
        place = f"/upload/storage/v1/b/{path_part(bucket)}/o?uploadType=media&name={path_part(key)}"
        self.http.put(place, path, {"Content-Type": "application/jsonl"}, method="POST")

    def below(self, folder: str) -> list[str]:
        bucket, prefix = self.split(folder)
        asked: dict[str, str | int] = {"prefix": prefix}
        found: list[str] = []
        while True:
            page = an_object(self.http.get(f"/storage/v1/b/{path_part(bucket)}/o", asked).body)
            found += [f"gs://{bucket}/{mapping(item).get('name')}" for item in page_of(page, "items", omits_empty=True)]
            if not page.get("nextPageToken"):
                return found
            asked["pageToken"] = str(page["nextPageToken"])

    def has(self, address: str) -> bool:
        return self.http.answered("GET", self._object(address), accepted=(404,)).status != 404

    def delete(self, address: str) -> None:
        self.http.answered("DELETE", self._object(address), accepted=(404,))


def _part(name: str) -> Any:
    """A module of google-auth, which has no types."""
    try:
        return importlib.import_module(f"google.{name}")
    except ImportError as error:
        raise MissingExtraError("Vertex AI needs google-auth: pip install 'dagster-batch-llm[vertex]'") from error
