"""Settings of the tests: property tests are the same on every run, and show what they tried."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "hwgen",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hwgen")
