"""The providers that a code location declares, by resource key."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping

import dagster as dg

from ..resources.errors import BatchLLMError, InputError
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
    return built_of(declared, keys, context.instance, context.log.warning, late=late)


def providers_in(
    module: str, keys: Collection[str], instance: dg.DagsterInstance, warn: Callable[[str], None]
) -> Mapping[str, BatchProvider]:
    """Clients for the named resources of a module's definitions, where no code location is loaded.

    Raises:
        InputError: The module can't be imported, or has no `Definitions`.
    """
    sys.path.insert(0, "")  # as Dagster's own -m does: the module is looked for here, too
    try:
        found = vars(importlib.import_module(module)).values()
    except Exception as error:
        raise InputError(f"Module {module!r} can't be imported: {error!r}.") from error
    finally:
        sys.path.remove("")
    definitions = next((one for one in found if isinstance(one, dg.Definitions)), None)
    if definitions is None:
        raise InputError(f"Module {module!r} has no Definitions. Name the one that your workspace loads.")
    return built_of(definitions.get_repository_def().get_top_level_resources(), keys, instance, warn)


def built_of(
    declared: Mapping[str, dg.ResourceDefinition],
    keys: Collection[str],
    instance: dg.DagsterInstance,
    warn: Callable[[str], None],
    *,
    late: bool = False,
) -> Mapping[str, BatchProvider]:
    """Clients for those resources that are declared and can be made; of the others it is said why not."""
    providers: dict[str, BatchProvider] = {}
    for key in sorted(keys):
        if key not in declared:
            warn(f"Resource {key!r} of a waiting LLM table is not declared any more.")
            continue
        try:
            with dg.build_resources({key: declared[key]}, instance=instance) as built:
                resource: BatchResource = getattr(built, key)
                if resource.can_be_late or not late:
                    providers[key] = resource.provider()
        except (BatchLLMError, dg.DagsterError) as error:
            warn(f"Resource {key!r} can't be used: {error}")
    return providers
