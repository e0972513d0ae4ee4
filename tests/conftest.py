"""Shared by all tests: hypothesis without deadlines, because a noisy machine is no failure of ours."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("synapsed", deadline=None, derandomize=True)
settings.load_profile("synapsed")
