"""What pyproject.toml cannot say: every folder with an `__init__.py` is a package below `promptmill`."""

from setuptools import find_packages, setup

ROOMS = find_packages(include=["jobs*", "pipeline*", "schemas*"], exclude=["jobs.public"])

setup(packages=["promptmill", *(f"promptmill.{room}" for room in ROOMS)])
