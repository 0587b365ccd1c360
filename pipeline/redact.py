"""Keeps secrets out of whatever is printed or written."""

from __future__ import annotations
