"""Kinds that are wrong today, and how; each change that mends some takes them out.

A kind that is wrong on one backend only has its name in brackets behind.
"""

from __future__ import annotations

SILENT = "differs without a word"
OUTSIDE = "differs without a word, as docs/resuming.md says of variables of the script"

WRONG_TODAY = {
    "a layer in a closure of a layer": SILENT,
    "float64, which the later process forgot": "refused, but the cause, floatx, is not named",
    "a metric that lasts": SILENT,
    "the learning rate changed, restored": "exact, but named: the variable is put back",
    "a regularizer changed": SILENT,
    "an activation changed, restored": SILENT,
    "a LearningRateScheduler over a variable": SILENT,
    "trainable of one variable flipped": SILENT,
    "a regularizer of one variable set": SILENT,
    "a callback over a variable of the script": OUTSIDE,
    "a loss over a variable of the script": OUTSIDE,
    "a count in an attribute of the class": OUTSIDE,
}
