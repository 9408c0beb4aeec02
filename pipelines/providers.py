"""The providers that a code location declares, by resource key."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import dagster as dg

from ..resources.errors import BatchLLMError
from ..resources.providers.protocol import BatchProvider
from ..resources.providers.resource import BatchResource


def providers_of(
    context: dg.SensorEvaluationContext, keys: Collection[str], *, late: bool = False
) -> Mapping[str, BatchProvider]:
    """Clients for the named resources; one that can't be made is said in the log and left out of this tick.

    Args:
        context: Of the tick.
        keys: Resource keys.
        late: Only those where a batch can turn up after its create was given up.
    """
    repository = context.repository_def
    declared: Mapping[str, dg.ResourceDefinition] = repository.get_top_level_resources() if repository else {}
    providers: dict[str, BatchProvider] = {}
    for key in sorted(keys):
        if key not in declared:
            context.log.warning(f"Resource {key!r} of a waiting LLM table is not declared any more.")
            continue
        try:
            with dg.build_resources({key: declared[key]}, instance=context.instance) as built:
                resource: BatchResource = getattr(built, key)
                if resource.can_be_late or not late:
                    providers[key] = resource.provider()
        except (BatchLLMError, dg.DagsterError) as error:
            context.log.warning(f"Resource {key!r} can't be used: {error}")
    return providers
