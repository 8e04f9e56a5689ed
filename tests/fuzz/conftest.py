"""The duration of the search: short in the test suite, long with `make fuzz`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz", max_examples=2000, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck)
)
