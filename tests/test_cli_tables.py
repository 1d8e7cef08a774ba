"""Tables of plain text."""

from __future__ import annotations

from mlflow_ckpt._cli import tables


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    text = tables.to_text(
        ("checkpoint", "epoch", "loss", "size", ""),
        [("epoch_0001", "1", "0.5", "1.2 kB", "best"), ("epoch_0010", "10", "-", "999 bytes", "")],
        right=(1, 2),
    )
    assert text == (
        "checkpoint   epoch   loss   size\n"
        "────────────────────────────────\n"
        "epoch_0001       1    0.5   1.2 kB      best\n"
        "epoch_0010      10      -   999 bytes\n"
    )


def test_wide_characters_take_two_cells_and_combining_ones_none() -> None:
    text = tables.to_text(
        ("指標", "値"),
        [("検証損失", "0.5"), ("loss", "12.25"), ("e\u0301te\u0301", "1")],
        right=(1,),
    )
    assert text == (
        "指標          値\n"
        "─────────────\n"
        "検証損失     0.5\n"
        "loss       12.25\n"
        "e\u0301te\u0301            1\n"
    )


def test_what_looks_like_markup_or_a_number_is_printed_as_it_is() -> None:
    text = tables.to_text(("layer", "B"), [("[bold]dense[/]", "1e3"), (":smile:", "  0.10")])
    assert text == (
        "layer            B\n──────────────────\n[bold]dense[/]   1e3\n:smile:            0.10\n"
    )


def test_a_long_cell_is_neither_cut_nor_wrapped() -> None:
    text = tables.to_text(("a", "b"), [("x" * 300, "y" * 300)])
    assert text.splitlines()[2] == "x" * 300 + "   " + "y" * 300


def test_no_rows_leave_the_titles() -> None:
    assert tables.to_text(("a", "b"), []) == "a   b\n─────\n"
