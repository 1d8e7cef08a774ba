"""Kinds that are wrong today, and how; each change that mends some takes them out.

A kind that is wrong on one backend only has its name in brackets behind.
"""

from __future__ import annotations

CALLED = (
    "differs without a word: fit calls the model before it trains, after its state was put back"
)

WRONG_TODAY = {
    "a layer that counts in Python [torch]": CALLED,
    "a layer whose helper counts in Python [torch]": CALLED,
    "a layer that keeps a plain array [torch]": CALLED,
    "a layer that keeps a list [torch]": CALLED,
    "a NumPy generator in a layer [torch]": CALLED,
    "a Python generator in a layer [torch]": CALLED,
    "a metric that counts in Python [torch]": CALLED,
    "a helper with slots [torch]": CALLED,
}
