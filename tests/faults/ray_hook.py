"""Named in RAY_RUNTIME_ENV_HOOK: Ray's workers become forks of the warm process, and may be faulty ones."""

from __future__ import annotations

import os
from typing import Any

PASSED_ON = ("PROMPTMILL_TEST_FAULTY", "PROMPTMILL_STORAGE_PATIENCE_S")


def use_forks(runtime_env: dict[str, Any] | None) -> dict[str, Any]:
    runtime_env = dict(runtime_env or {})
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **env}
    runtime_env["py_executable"] = os.environ["PROMPTMILL_TEST_PYTHON"]
    return runtime_env
