"""Tables of plain text, as the commands print them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tabulate import DataRow, TableFormat, tabulate

_ROW = DataRow("", "   ", "")
_FORMAT = TableFormat(
    lineabove=None,
    linebelowheader=None,
    linebetweenrows=None,
    linebelow=None,
    headerrow=_ROW,
    datarow=_ROW,
    padding=0,
    with_header_hide=None,
)


def to_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """Return a table as lines, each as wide as it needs to be.

    Args:
        columns: Titles.
        rows: A cell for each column.
        right: Positions of the columns that are aligned at their right.
    """
    # The titles go in as a row: tabulate would put more space around its own.
    text = tabulate(
        [columns, *rows],
        tablefmt=_FORMAT,
        colalign=["right" if column in right else "left" for column in range(len(columns))],
        disable_numparse=True,
        preserve_whitespace=True,
    )
    lines = text.splitlines()
    lines.insert(1, "─" * len(lines[0]))
    return "".join(f"{line.rstrip()}\n" for line in lines)
