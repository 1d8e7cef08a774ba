"""All hostile files, and the entry points that read them."""

from __future__ import annotations

from tests.hostile import archive_cases, field_cases, hdf5_cases, keras_cases, place_cases
from tests.hostile.entry_points import ENTRY_POINTS as ENTRY_POINTS

CASES = [
    case
    for module in (hdf5_cases, archive_cases, field_cases, place_cases, keras_cases)
    for case in module.CASES
]
