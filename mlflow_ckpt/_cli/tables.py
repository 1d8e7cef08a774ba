"""Tables of plain text, as the commands print them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from io import StringIO
from typing import Literal

from mlflow_ckpt._shown.escaping import shown


def to_lines(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """Return a table line by line. Arguments as in `to_text`."""
    return to_text(columns, rows, right=right).splitlines()


def to_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """Return a table as lines, the columns at the positions `right` aligned to the right."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    lines = [[shown(cell) for cell in cells] for cells in (columns, *rows)]
    # Without borders: the titles are a row, and columns are three spaces apart.
    table = Table(
        box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, 3, 0, 0)
    )
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for index, width in enumerate(widths):
        # With the width given, rich does not measure each cell again.
        justify: Literal["left", "right"] = "right" if index in right else "left"
        table.add_column(justify=justify, no_wrap=True, overflow="crop", width=width)
    for cells in lines:
        table.add_row(*cells)
    target = StringIO()
    plain = Console(
        file=target,
        width=sum(widths) + 3 * len(widths),
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    plain.print(table)
    titles, *body = (line.rstrip() for line in target.getvalue().splitlines())
    return "".join(f"{line}\n" for line in (titles, "─" * len(titles), *body))
