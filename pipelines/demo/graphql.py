"""The calls that Dagster's UI makes, over its GraphQL API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ...resources.errors import ProtocolError

_LOCATIONS = """query { repositoriesOrError { __typename ... on RepositoryConnection {
    nodes { name location { name } sensors { name sensorState { status } } } } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
    __typename ... on PartitionBackfill { status } } }"""


@dataclass(frozen=True)
class Location:
    """A loaded code location's repository."""

    repository: str
    name: str
    sensors: Mapping[str, str]


class GraphQL:
    """A Dagster webserver.

    Args:
        url: Its address, without ``/graphql``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # The webserver closes a connection that is idle for 5 seconds, perhaps while it is asked on it.
        self._client = httpx.Client(base_url=url, timeout=30.0, limits=httpx.Limits(keepalive_expiry=2.0))

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def is_up(self) -> bool:
        """Whether the webserver answers and has loaded the code location."""
        try:
            return self.location() is not None
        except httpx.TransportError:
            return False

    def location(self) -> Location | None:
        """The first code location; None while it is loading."""
        found = self.ask(_LOCATIONS, {})["repositoriesOrError"]
        for node in found.get("nodes", []):
            sensors = {sensor["name"]: sensor["sensorState"]["status"] for sensor in node["sensors"]}
            return Location(node["name"], node["location"]["name"], sensors)
        return None

    def materialize(self, assets: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        """What the button "Materialize all" does; gives the run's id."""
        location = self._loaded()
        params = {
            "selector": {
                "repositoryName": location.repository,
                "repositoryLocationName": location.name,
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": asset.split("/")} for asset in assets],
            },
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
            "mode": "default",
        }
        launched = self.ask(_LAUNCH, {"params": params})["launchPipelineExecution"]
        if launched["__typename"] != "LaunchRunSuccess":
            raise ProtocolError(f"Dagster did not launch the run: {launched}.")
        return str(launched["run"]["runId"])

    def backfill(self, asset: str, partitions: Sequence[str]) -> str:
        """What "Launch backfill" does; gives the backfill's id."""
        self._loaded()
        params = {"assetSelection": [{"path": asset.split("/")}], "partitionNames": list(partitions)}
        launched = self.ask(_BACKFILL, {"params": params})["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise ProtocolError(f"Dagster did not launch the backfill: {launched}.")
        return str(launched["backfillId"])

    def backfill_status(self, backfill: str) -> str:
        """Such as REQUESTED, COMPLETED_SUCCESS or COMPLETED_FAILED."""
        return str(self.ask(_STATUS, {"id": backfill})["partitionBackfillOrError"].get("status"))

    def ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """One GraphQL call."""
        reply = self._client.post("/graphql", json={"query": query, "variables": variables})
        body = reply.json()
        if "errors" in body:
            raise ProtocolError(f"Dagster's GraphQL API answered {body['errors']}.")
        return dict(body["data"])

    def _loaded(self) -> Location:
        location = self.location()
        if location is None:
            raise ProtocolError("The code location is not loaded.")
        return location
