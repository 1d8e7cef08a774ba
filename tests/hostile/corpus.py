"""All hostile files, and the entry points that read them."""

from __future__ import annotations

from tests.hostile import archive_cases, field_cases, hdf5_cases, place_cases
from tests.hostile.entry_points import ENTRY_POINTS as ENTRY_POINTS

CASES = [*hdf5_cases.CASES, *archive_cases.CASES, *field_cases.CASES, *place_cases.CASES]
