"""Kinds that are wrong today, and how; each change that mends some takes them out.

A kind that is wrong on one backend only has its name in brackets behind.
"""

from __future__ import annotations

SILENT = "differs without a word"
OUTSIDE = "differs without a word, as docs/resuming.md says of variables of the script"
CALLED = (
    "differs without a word: fit calls the model before it trains, after its state was put back"
)
UNKNOWN = "differs without a word; the cause is not known yet"

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
    "a layer that counts in Python [torch]": CALLED,
    "a layer whose helper counts in Python [torch]": CALLED,
    "a layer that keeps a plain array [torch]": CALLED,
    "a layer that keeps a list [torch]": CALLED,
    "a NumPy generator in a layer [torch]": CALLED,
    "a Python generator in a layer [torch]": CALLED,
    "a metric that counts in Python [torch]": CALLED,
    "a helper with slots [torch]": CALLED,
    "models inside models [torch]": UNKNOWN,
    "layers of the same name [torch]": UNKNOWN,
}
