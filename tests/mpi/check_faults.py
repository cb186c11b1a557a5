"""Faults that a test plants around a check, in its process: each a context manager of the world, by name."""

from __future__ import annotations
