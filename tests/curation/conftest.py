from tests.engine.conftest import cli  # noqa: F401
