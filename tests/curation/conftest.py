from tests.engine.conftest import cli, job, source  # noqa: F401
