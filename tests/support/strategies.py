"""Hypothesis strategies for the values that checkpoints are made of."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlflow_ckpt._format import layout
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.layout import CheckpointName
from mlflow_ckpt._format.manifest import FileEntry, Manifest
from mlflow_ckpt._format.monitor import Monitor

PLAIN_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)
SMALL_FLOATS = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of many types and shapes: 0-d, empty, big-endian, strided, bfloat16, float8."""
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    dtype = draw(st.sampled_from([np.dtype(name) for name in (*PLAIN_DTYPES, *SMALL_FLOATS)]))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == np.bool_:
        array = (np.frombuffer(data, np.uint8) % 2).astype(bool).reshape(shape)
    else:
        array = np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
    layout = draw(st.sampled_from(["as it is", "reversed", "transposed", "strided", "big-endian"]))
    if layout == "big-endian" and dtype.name in PLAIN_DTYPES:
        return array.astype(dtype.newbyteorder(">"))
    if layout == "transposed":
        return array.T
    if array.ndim and layout in ("reversed", "strided"):
        return array[:: -1 if layout == "reversed" else 2]
    return array


digests = st.binary(max_size=20).map(Digest.of_bytes)
# Text that JSON can hold: without lone surrogates.
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | texts
jsonable = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
_parts = st.text("abcdefgh._-0123456789 é", min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(_parts, min_size=1, max_size=3).map("/".join)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests with every field in use."""
    forms = draw(st.sampled_from([("full",), ("split",), ("full", "split")]))
    full_format = draw(st.sampled_from(["keras", "h5"])) if "full" in forms else None
    needed = {*layout.ALWAYS, *([layout.WEIGHTS] if "split" in forms else [])}
    if full_format is not None:
        needed |= {layout.MLMODEL, layout.FULL_FILES[full_format]}
    sizes = st.integers(0, 10**15)
    files = draw(st.dictionaries(paths, sizes, max_size=4))
    files |= {path: draw(sizes) for path in sorted(needed)}
    epoch, step = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**12))
    name = draw(st.sampled_from([CheckpointName("epoch", epoch), CheckpointName("step", step)]))
    return Manifest(
        run_id=draw(texts),
        name=str(name),
        epoch=epoch,
        step=step,
        created=draw(st.datetimes(timezones=st.just(UTC))).isoformat(),
        forms=forms,
        full_format=full_format,
        files=tuple(FileEntry(path, files[path], draw(digests)) for path in sorted(files)),
        weights_digest=draw(digests),
        architecture_digest=draw(digests),
        metrics=draw(st.dictionaries(texts, st.floats(), max_size=4)),
        monitor=draw(st.none() | st.builds(Monitor, texts, st.sampled_from(["min", "max"]))),
        versions=draw(st.dictionaries(texts, texts, max_size=3)),
        lineage=draw(st.dictionaries(texts, jsonable, max_size=2)),
        metadata=draw(st.dictionaries(texts, jsonable, max_size=3)),
    )
