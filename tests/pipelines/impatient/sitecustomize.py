"""Dagster's daemon looks every 2 seconds for ticks and backfills that are due, not every 5 and every 30.

Python imports a module of this name at its start, and the daemon is told in no other way. Nothing else is touched.
"""

import sys

if sys.orig_argv[1:3] == ["-m", "dagster._daemon"]:
    from dagster._daemon import controller, sensor

    sensor.MIN_INTERVAL_LOOP_TIME = 2
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
