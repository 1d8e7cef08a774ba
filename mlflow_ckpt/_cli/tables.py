"""Tables of plain text, as the commands print them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

_GAP = "   "


def to_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """Return a table as lines, each as wide as it needs to be.

    Args:
        columns: Titles.
        rows: A cell for each column.
        right: Positions of right-aligned columns.
    """
    # Not rich's Table, which takes seconds for the tensors of a large model.
    from rich.cells import cell_len

    lines = [columns, *rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = []
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            padding = " " * (width - cell_len(cell))
            padded.append(padding + cell if index in right else cell + padding)
        return _GAP.join(padded).rstrip()

    titles, *body = map(line, lines)
    return "".join(f"{text}\n" for text in (titles, "─" * len(titles), *body))
