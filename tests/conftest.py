"""Every test runs on eight virtual CPU devices; set before anything imports JAX."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings

_EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

# Set by launch.sh: what the commands print depends on it.
os.environ.pop("MEGAN_LAUNCHER", None)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_EIGHT_DEVICES}".strip()

# Many tests compile the same small programs: all of them, in all processes of this run, share what
# is compiled. The first process makes the folder, the others inherit its name.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="megan-tests-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

# The first example of a test compiles, so that time limits per example only measure XLA.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# The same examples in every run: a red CI is red again at home (HYPOTHESIS_PROFILE=ci).
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, max_examples=50)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
)
