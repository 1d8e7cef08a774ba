"""Kinds that are wrong today, and how; each change that mends some takes them out.

A kind that is wrong on one backend only has its name in brackets behind.
"""

from __future__ import annotations

WRONG_TODAY: dict[str, str] = {}
