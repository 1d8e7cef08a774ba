"""What is shown controls no terminal, forges no line, and is text on every page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import errors
from mlflow_ckpt._cli import tables
from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._format.monitor import Monitor
from mlflow_ckpt._model.rebuild.guarded import guarded
from mlflow_ckpt._shown.escaping import Logger, redacted, shown
from mlflow_ckpt._shown.warn import warn
from mlflow_ckpt._tracking.ui import description
from tests.support.checkpoints import save_run
from tests.support.cli import run

ESCAPES = {
    "colour": "\x1b[31m",
    "clears the screen": "\x1b[2J\x1b[H",
    "a title": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "C1": "\x9b31m",
    "a line": "\nError: all is well",
    "a return": "\rmlflow-ckpt: ok",
    "backspaces": "\x08\x08\x08",
    "right to left": "\u202egnp.exe",
    "isolates": "\u2066x\u2069",
    "marks": "\u200e\u200f\u061c",
    "separators": "\u2028\u2029\x85",
    "a tag": "\U000e0041",
    "half a pair": "\ud800",
    "NUL": "\x00",
}
CONTROL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@given(st.text())
def test_shown_text_is_on_one_line_and_is_shown_as_it_is_again(text: str) -> None:
    line = shown(text)
    assert not CONTROL.search(line)
    assert "\n" not in line
    assert shown(line) == line


@pytest.mark.parametrize("what", ESCAPES)
def test_errors_warnings_and_tables_are_shown_text(
    what: str, caplog: pytest.LogCaptureFixture, record_property: pytest.RecordProperty
) -> None:
    text = f"a{ESCAPES[what]}b"
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = [kind for kind in kinds if issubclass(kind, errors.MlflowCkptError)]
    for kind in kinds:
        needed = {
            name: "" if name not in ("found", "supported") else 0
            for name in kind.__init__.__annotations__
            if name not in ("message", "return", "args")
        }
        error = kind(text, **needed) if needed else kind(text)
        assert str(error) == shown(text)
        assert error.args == (shown(text),)
    with pytest.warns(UserWarning) as warned:
        warn(text)
    Logger("mlflow_ckpt").warning("%s", text)
    table = tables.to_text(("title",), [(text,)])
    for line in (str(warned[0].message), caplog.messages[0], table):
        assert not CONTROL.search(line)
    assert table.count("\n") == 3
    record_property("hostile", f"{what} | errors, warnings, tables | harmless")


def forged(store: Store, text: str) -> str:
    """Return a run of which everything that text can be in has it."""
    run_id = save_run(metadata={f"key{text}": f"value{text}"})
    directory = store.checkpoint_directory(run_id, "epoch_0001")
    file = directory / "manifest.json"
    manifest = Manifest.from_json(file.read_bytes())
    manifest = replace(
        manifest,
        metrics={f"val{text}": 0.5},
        monitor=Monitor(f"val{text}", "min"),
        versions={f"keras{text}": f"3{text}"},
        lineage={"run_id": f"r{text}", "checkpoint": f"c{text}", "weights_digest": text},
        interrupted=f"SIG{text}",
    )
    file.write_text(manifest.to_json())
    (directory.parent / "manifests.json").unlink()
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "mlflow.runName", f"name{text}")
    client.set_tag(run_id, "mlflow_ckpt.resumed_from", f"{'0' * 32}{text}/epoch_0001")
    return run_id


@pytest.mark.parametrize("what", ["a line", "clears the screen", "a link", "right to left", "C1"])
def test_commands_show_a_forged_run_as_text(
    what: str, local_store: Store, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    run_id = forged(local_store, ESCAPES[what])
    page = tmp_path / "page.html"
    for command in (
        *(("list", run_id), ("list", run_id, "--json"), ("show", run_id), ("verify", run_id)),
        *(("show", run_id, "--json"), ("prune", run_id, "--keep-last", "1", "--dry-run")),
        *(("diff", run_id, run_id), ("register", run_id, "--name", f"x{ESCAPES[what]}")),
        *(("report", run_id, "-o", str(page)), ("list", f"runs:/{ESCAPES[what]}")),
        *(("show", run_id, f"epoch{ESCAPES[what]}"), ("nothing" + ESCAPES[what],)),
        ("restore", run_id, "--output", str(tmp_path / "a" / ESCAPES[what].replace("/", ""))),
    ):
        result = run(*command, color=True)
        assert not CONTROL.search(result.output), command
        assert "\nError: all is well" not in result.output, command
        record_property("hostile", f"{what} in names | mlflow-ckpt {command[0]} | harmless")
    text = page.read_text(encoding="utf-8")
    assert not CONTROL.search(text)


HTML = {
    "a script": "<script>alert(1)</script>",
    "an image": '<img src=x onerror="alert(1)">',
    "an attribute": "\" onmouseover='alert(1)'",
    "the end of a script": "</script><script>alert(1)",
    "an address": "javascript:alert(1)",
    "a template": "{{ 7 * 7 }}{% include 'x' %}",
}


@pytest.mark.parametrize("what", HTML)
def test_the_report_shows_a_forged_run_as_text(
    what: str, local_store: Store, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    run_id = forged(local_store, HTML[what])
    assert run("report", run_id, "-o", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    if re.search("[<>\"']", HTML[what]):
        assert HTML[what] not in page
    assert not re.search(r"<(?:img|a|iframe|object)\b", page)
    # Charts have links to their own parts.
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    assert "name49" not in page
    record_property("hostile", f"{what} | report | harmless")


MARKDOWN = [
    *HTML.values(),
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "https://evil.example",
    "www.evil.example",
    "me@evil.example",
    "<https://evil.example>",
    "a | b\n\n# title",
    "`code` **bold** ~~gone~~ :smile:",
    "[//]: # (mlflow_ckpt ends)",
]


@pytest.mark.parametrize("text", MARKDOWN)
def test_names_in_the_description_are_text(
    text: str, record_property: pytest.RecordProperty
) -> None:
    cell = description._cell(text)
    # Each of these begins something in Markdown, unless a backslash is before it.
    bare = cell.replace("&#64;", "")
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]()!#:~.]", bare)
    assert not re.search("[<>@\n]", cell)
    record_property("hostile", f"{text!r} | the run's Description | harmless")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pass@host:5000/x", "http://host:5000/x"),
        ("at https://token@github.com/a/b.git: no", "at https://github.com/a/b.git: no"),
        ("https://user:p@ss@host", "https://host"),
        ("postgresql+psycopg2://u:p/#?w@host/db", "postgresql+psycopg2://host/db"),
        ("http://h/x?a=1&token=s&b=2", "http://h/x?a=1&token=***&b=2"),
        ("https://b/x?X-Amz-Signature=s&X-Amz-Credential=c", None),
        ("https://b/x?sig=s", "https://b/x?sig=***"),
        ("url: /api?access_token=s (Caused by)", "url: /api?access_token=*** (Caused by)"),
        ("wasbs://container@account.blob/x", "wasbs://container@account.blob/x"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
    ],
)
def test_credentials_are_not_shown(text: str, expected: str | None) -> None:
    line = redacted(text)
    if expected is None:
        expected = "https://b/x?X-Amz-Signature=***&X-Amz-Credential=***"
    assert line == expected
    assert redacted(line) == line


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(errors.ModelLoadError) as caught:
        guarded(lambda: keras.saving.deserialize_keras_object(config, safe_mode=True))
    return str(caught.value)


def of(module: str | None, name: str, **config: object) -> dict[str, Any]:
    return {"module": module, "class_name": name, "registered_name": name, "config": config}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("posix", "system")),
        *(("os.path", "join"), (None, "exec"), (None, "system"), ("shutil", "rmtree")),
    ],
)
def test_nobody_is_told_to_pass_a_function_of_python_s(
    module: str | None, name: str, record_property: pytest.RecordProperty
) -> None:
    message = refused(of(module, name, command="touch x"))
    assert "custom_objects" not in message
    assert "--custom-objects" not in message
    assert name in message
    record_property("hostile", f"{module}.{name} | load_model | refused")


def test_classes_of_the_user_s_own_may_be_passed() -> None:
    assert "custom_objects={'Own': Own}" in refused(of("my_package.layers", "Own"))


def test_safe_mode_is_not_to_be_turned_off(tmp_path: Path, local_store: Store) -> None:
    messages = [
        refused({"class_name": "__lambda__", "config": {"value": "x"}}),
        refused(of("keras.layers", "Lambda", function={"class_name": "__lambda__", "config": {}})),
        refused(of("keras.layers", "TFSMLayer", filepath="/tmp/x")),
        refused(of("keras.layers", "StringLookup", vocabulary="/etc/passwd")),
    ]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)])
    with pytest.raises(errors.ModelLoadError) as caught:
        mlflow_ckpt.load_model(save_run(model))
    for message in (*messages, str(caught.value)):
        assert "enable_unsafe" not in message
        assert "safe_mode=False" not in message
