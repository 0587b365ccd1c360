"""What pyproject.toml cannot say: every folder is a package below `promptmill`, those that hold only data too."""

from setuptools import find_namespace_packages, setup

ROOMS = find_namespace_packages(include=["jobs*", "pipeline*", "schemas*"], exclude=["jobs.public"])

setup(packages=["promptmill", *(f"promptmill.{room}" for room in ROOMS)])
