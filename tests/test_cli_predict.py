"""`mlflow-ckpt predict`: arrays and tables in, classes and probabilities out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import Result

from devtools.stores import Store
from mlflow_ckpt._cli import inputs
from tests.conftest import CLASS_NAMES, TrainedRun
from tests.support.checkpoints import save_run
from tests.support.cli import run


def predict(trained_run: TrainedRun, *arguments: str | Path) -> Result:
    return run(
        *("predict", trained_run.run_id, *arguments),
        *("--tracking-uri", trained_run.store.uri),
    )


@pytest.fixture
def expected(trained_run: TrainedRun) -> np.ndarray:
    return trained_run.model.predict(trained_run.x, verbose=0)


@pytest.fixture
def x_npy(trained_run: TrainedRun, tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", trained_run.x)
    return tmp_path / "x.npy"


def test_npy_gives_class_names_and_probabilities_as_csv(
    trained_run: TrainedRun, x_npy: Path, expected: np.ndarray
) -> None:
    result = predict(trained_run, x_npy)
    rows = list(csv.DictReader(io.StringIO(result.output)))
    assert result.exit_code == 0
    assert [int(row["index"]) for row in rows] == list(range(len(expected)))
    assert [row["class"] for row in rows] == [CLASS_NAMES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], expected.max(axis=1), rtol=1e-6
    )


def test_json_lines_on_standard_output(trained_run: TrainedRun, x_npy: Path) -> None:
    lines = predict(trained_run, x_npy, "--json").output.splitlines()
    assert len(lines) == len(trained_run.x)
    assert set(json.loads(lines[0])) == {"index", "class", "probability"}


def test_an_npy_output_holds_the_model_s_own_numbers(
    trained_run: TrainedRun, x_npy: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    result = predict(trained_run, x_npy, "--output", tmp_path / "y.npy")
    assert (result.exit_code, result.output) == (0, "")
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("header", ["", "a,b,c,d,e,f,g,h"])
def test_a_table_with_and_without_a_header(
    trained_run: TrainedRun, tmp_path: Path, expected: np.ndarray, header: str
) -> None:
    path = tmp_path / "x.csv"
    np.savetxt(path, trained_run.x, delimiter=",", header=header, comments="", fmt="%.9g")
    result = predict(trained_run, path, "--output", tmp_path / "y.npy")
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


def test_npz_with_one_array_or_a_chosen_one(
    trained_run: TrainedRun, tmp_path: Path, expected: np.ndarray
) -> None:
    np.savez(tmp_path / "one.npz", data=trained_run.x)
    np.savez(tmp_path / "two.npz", x_test=trained_run.x, y_test=trained_run.y)
    for number, arguments in enumerate((["one.npz"], ["two.npz", "--array", "x_test"])):
        output = tmp_path / f"{number}.npy"
        path, *more = arguments
        assert predict(trained_run, tmp_path / path, *more, "--output", output).exit_code == 0
        assert np.array_equal(np.load(output), expected)


def test_several_inputs_and_outputs_meet_by_name(local_store: Store, tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = {
        "kind": keras.layers.Dense(4, activation="softmax", name="kind")(joined),
        "size": keras.layers.Dense(1, name="size")(joined),
    }
    model = keras.Model([a, b], outputs)
    run_id = save_run(model)
    data = {"a": np.ones((5, 2), "float32"), "b": np.zeros((5, 3), "float32")}
    np.savez(tmp_path / "x.npz", **data)
    result = run("predict", run_id, tmp_path / "x.npz", "--output", tmp_path / "y.npz")
    assert result.exit_code == 0, result.output
    predictions = model.predict(list(data.values()), verbose=0)
    with np.load(tmp_path / "y.npz") as got:
        assert sorted(got) == ["kind", "size"]
        assert all(np.array_equal(got[name], predictions[name]) for name in got)
    rows = run("predict", run_id, tmp_path / "x.npz", "--json").output.splitlines()
    assert set(json.loads(rows[0])) == {"index", "kind_class", "kind_probability", "size_value"}
    refused = run("predict", run_id, tmp_path / "x.npz", "--output", tmp_path / "y.npy")
    assert refused.exit_code == 2
    assert "2 outputs (kind, size), and an .npy file holds one array. Use .npz." in refused.output
    assert not (tmp_path / "y.npy").exists()


@keras.saving.register_keras_serializable(package="test_cli_predict")
class Twins(keras.Model):
    """A model of two outputs that Keras has no names for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.first(inputs), self.second(inputs)


def twins() -> keras.Model:
    model = Twins()
    model(np.ones((1, 4)))
    model.compile("sgd", "mse")
    return model


def embedding() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Embedding(10, 3)])


def test_outputs_without_names_are_numbered(local_store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 4)))
    result = run("predict", save_run(twins()), tmp_path / "x.npy")
    assert result.output.splitlines()[0] == "index,output_0_value,output_1_value"


@pytest.mark.parametrize(
    ("make", "reason"),
    [(embedding, "indices[0,0] = 50 is not in [0, 10)"), (twins, "received input with shape")],
)
def test_what_a_model_does_not_take_is_told_without_terminal_codes(
    make: Callable[[], keras.Model], reason: str, local_store: Store, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 2), 50))
    result = run("predict", save_run(make()), tmp_path / "x.npy", color=True)
    assert "cannot take the input: " in result.output
    assert reason in result.output
    assert "\x1b" not in result.output


def test_json_has_no_nan(local_store: Store, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Activation("linear")])
    run_id = save_run(model)
    np.save(tmp_path / "x.npy", np.array([[np.nan, 1.0], [2.0, -np.inf]]))
    lines = run("predict", run_id, tmp_path / "x.npy", "--json").output.splitlines()
    assert lines == ['{"index": 0, "values": [null, 1.0]}', '{"index": 1, "values": [2.0, null]}']


def test_a_regression_gives_values(local_store: Store, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    run_id = save_run(model)
    np.save(tmp_path / "x.npy", np.ones((2, 4)))
    lines = run("predict", run_id, tmp_path / "x.npy").output.splitlines()
    assert lines[0] == "index,value"
    assert len(lines) == 3


def test_flat_rows_take_the_shape_of_the_input_again(local_store: Store, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((2, 3)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    )
    run_id = save_run(model)
    np.savetxt(tmp_path / "x.csv", np.arange(12).reshape(2, 6), delimiter=",")
    assert len(run("predict", run_id, tmp_path / "x.csv").output.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.npy",
            np.zeros((2, 7), "float32"),
            "Expected shape (samples, 8) for the input. Received: (2, 7).",
        ),
        (
            "x.npy",
            np.zeros(8, "float32"),
            "Expected shape (samples, 8) for the input. Received: (8,). Add a batch axis: x[None].",
        ),
        (
            "x.npy",
            np.array([["a"] * 8]),
            "Expected numbers for the input. Received: an array of type <U1.",
        ),
        (
            "x.npy",
            np.zeros((0, 8)),
            "Expected at least one sample for the input. Received: shape (0, 8).",
        ),
        ("x.npy", b"no array", "The input file {path} cannot be read as .npy: "),
        ("x.npz", b"PK no archive", "The input file {path} cannot be read as .npz: "),
        ("x.csv", b"", "The input file {path} cannot be read as .csv: it holds no numbers."),
        ("x.csv", b"a,b\n", "The input file {path} cannot be read as .csv: it holds no numbers."),
        (
            "x.csv",
            b"1,2\n3,dog\n",
            "The input file {path} cannot be read as .csv: line 2, column 2 holds 'dog', which is "
            "not a number.",
        ),
        (
            "x.csv",
            b",2\n3,4\n",
            "The input file {path} cannot be read as .csv: line 1, column 1 holds '', which is "
            "not a number.",
        ),
        (
            "x.csv",
            b"1,2\n3\n",
            "The input file {path} cannot be read as .csv: line 2 has 1 cells, not 2.",
        ),
        (
            "x.csv",
            b"1;2\n3;4\n",
            "The input file {path} cannot be read as .csv: its cells are separated by semicolons; "
            "expected commas.",
        ),
        (
            "x.csv",
            b"1," + b"2" * 200_000 + b"\n",
            "The input file {path} cannot be read as .csv: field larger than field limit",
        ),
        ("x.txt", b"1", "Expected an input file of type .npy, .npz or .csv. Received: {path}"),
    ],
)
def test_input_that_does_not_fit_is_told_in_one_sentence(
    trained_run: TrainedRun,
    tmp_path: Path,
    name: str,
    content: bytes | np.ndarray,
    message: str,
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    result = predict(trained_run, path, "--output", tmp_path / "y.csv")
    assert result.exit_code == 5
    assert result.output.startswith("Error: " + message.format(path=path))
    assert result.output.count("\n") == 1
    assert not (tmp_path / "y.csv").exists()


def test_pickled_input_is_never_unpickled(trained_run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = predict(trained_run, path)
    assert result.exit_code == 5
    assert "it holds objects" in result.output


def test_an_input_that_is_mostly_zeros_may_be_compressed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((5000, 2000), "float32"))
    assert inputs.read_inputs(tmp_path / "x.npz", None).shape == (5000, 2000)


def test_arrays_of_an_npz_that_cannot_be_matched_are_named(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x_test=trained_run.x, y_test=trained_run.y)
    several = predict(trained_run, tmp_path / "x.npz")
    assert several.output == (
        "Error: The input file holds 2 arrays and the model takes one. "
        "Choose one with --array: x_test, y_test\n"
    )
    unknown = predict(trained_run, tmp_path / "x.npz", "--array", "z")
    assert "it has no array 'z', but x_test, y_test" in unknown.output


def test_an_output_file_is_never_replaced_unasked(
    trained_run: TrainedRun, x_npy: Path, tmp_path: Path
) -> None:
    output = tmp_path / "y.csv"
    output.write_text("mine")
    refused = predict(trained_run, x_npy, "--output", output)
    assert (refused.exit_code, refused.output) == (
        6,
        f"Error: The output file {output} exists. Pass --overwrite to replace it.\n",
    )
    assert output.read_text() == "mine"
    assert predict(trained_run, x_npy, "--output", output, "--overwrite").exit_code == 0
    assert output.read_text().startswith("index,class,probability\n0,")


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("y.txt", 2, "Expected an output file of type .csv, .jsonl, .npy, .npz. Received: "),
        ("none/y.csv", 6, "There is no directory "),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    trained_run: TrainedRun, x_npy: Path, tmp_path: Path, output: str, code: int, message: str
) -> None:
    result = predict(trained_run, x_npy, "--output", tmp_path / output)
    assert result.exit_code == code
    assert result.output.startswith(f"Error: {message}")


def test_blank_lines_quotes_and_comments_lose_no_sample(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    numbers = ",".join(f'"{value}"' for value in range(8))
    (tmp_path / "x.csv").write_text(f"\n{numbers}\n\n{numbers}\n")
    assert len(predict(trained_run, tmp_path / "x.csv", "--json").output.splitlines()) == 2
    (tmp_path / "y.csv").write_text(f"{numbers}\n0,1,2,3,4,5,6,7 # mine\n")
    refused = predict(trained_run, tmp_path / "y.csv")
    assert refused.exit_code == 5
    assert "line 2, column 8 holds '7 # mine', which is not a number." in refused.output


@pytest.mark.usefixtures("local_store")
def test_a_sample_that_gives_nan_leaves_the_others_their_classes(tmp_path: Path) -> None:
    # A model without relu, of which TensorFlow does not say whether it keeps NaN.
    run_id = save_run(metadata={"class_names": CLASS_NAMES})
    x = np.ones((3, 4), "float32")
    x[1] = np.nan
    np.save(tmp_path / "x.npy", x)
    output = run("predict", run_id, tmp_path / "x.npy", "--json").output
    rows = [json.loads(line) for line in output.splitlines()]
    assert rows[1] == {"index": 1, "class": None, "probability": None}
    assert rows[0]["class"] in CLASS_NAMES and rows[2]["class"] in CLASS_NAMES


def test_a_file_that_declares_more_than_memory_holds(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)}
        np.lib.format.write_array_header_1_0(file, header)
    result = predict(trained_run, tmp_path / "x.npy")
    assert result.exit_code == 5
    assert result.output.count("\n") == 1
