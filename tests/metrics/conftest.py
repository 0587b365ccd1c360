from tests.report.conftest import claimed, painted

__all__ = ["claimed", "painted"]
