"""`batch_llm_defs`: what a code location needs beside its assets and resources."""

from __future__ import annotations

import dagster as dg

from .sensor import batch_llm_sensor


def batch_llm_defs(*, minimum_interval_seconds: int = 15) -> dg.Definitions:
    """The sensor that brings batch answers home; merge it into your definitions.

    Args:
        minimum_interval_seconds: Seconds between two ticks of the sensor.

    Example:
        >>> import dagster as dg
        >>> defs = dg.Definitions.merge(dg.Definitions(assets=[]), batch_llm_defs())
    """
    return dg.Definitions(sensors=[batch_llm_sensor(minimum_interval_seconds=minimum_interval_seconds)])
