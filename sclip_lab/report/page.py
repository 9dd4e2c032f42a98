"""A report as files: one self-contained index.html, and each figure and table by itself."""

from __future__ import annotations

import base64
import io
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from sclip_lab.core import files
from sclip_lab.report import escaping
from sclip_lab.report.tables import PLAIN, P, texts

COMPRESSION = 3  # of PNG: half the time of zlib's usual 6, 4 % more bytes
PDF_DPI = 200  # of photos within a PDF; lines have none
PNG_DPI = 150
WIDE = 1600  # pixels: largest width of a PNG, about that of a screen
Drawing = tuple[str, str, bytes, bytes]  # name, caption, PNG, PDF
Maker = Callable[[], Mapping[str, Figure]]


@dataclass(frozen=True)
class Row:
    """A line of words in a section.

    Attributes:
        cells: text by column. classes: class of the style sheet by column. links: target by column.
    """

    cells: Mapping[str, str]
    classes: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: the section's anchor. title, question: in words.
        notes: lines below the question, such as which part of the data scores are over.
        rows: lines of words, shown as one table without the columns that are empty everywhere.
        tables: by file name.
        makers: functions that make the figures, some each, by file name. They are called when the
            page is written, so that several processes can each make some.
        files_only: names of tables that the page does not show.
    """

    name: str
    title: str
    question: str = ""
    notes: Sequence[str] = ()
    rows: Sequence[Row] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    makers: Sequence[Maker] = ()
    files_only: Sequence[str] = ()

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures by file name, for Python and notebooks."""
        return {name: figure for make in self.makers for name, figure in make().items()}


def write(
    sections: Sequence[Section],
    out: Path,
    title: str,
    notes: Sequence[str] = (),
    processes: int = 1,
    lead: Sequence[str] = (),
) -> list[Path]:
    """Write index.html, every figure as PNG and PDF, and every table as CSV and TeX into ``out``.

    Args:
        sections: in order. out: made if it is not there.
        title: of the page. notes: lines below the title.
        lead: the result, in large letters below the notes.
        processes: how many draw. They are forked, which is not safe while threads are at work.

    Returns:
        the files, index.html first.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths, shown = [], []
    for section, drawings in zip(sections, _drawings(sections, processes), strict=True):
        pictures: list[tuple[str, str]] = []  # several may have one caption
        for name, caption, png, pdf in drawings:
            for suffix, content in (("png", png), ("pdf", pdf)):
                paths.append(out / f"{escaping.file_name(name)}.{suffix}")
                files.write_bytes(paths[-1], content)
            pictures.append((caption, base64.b64encode(png).decode("ascii")))
        tables = {}
        for name, table in section.tables.items():
            paths.append(out / f"{escaping.file_name(name)}.csv")
            files.write_text(paths[-1], numbers(table).to_csv(index=False))
            paths.append(out / f"{escaping.file_name(name)}.tex")
            files.write_text(paths[-1], latex(table, name))
            if name not in section.files_only:
                tables[name] = html(table)
        columns = dict.fromkeys(
            name for row in section.rows for name, text in row.cells.items() if text
        )
        parts = {"section": section, "pictures": pictures, "tables": tables, "columns": columns}
        shown.append(parts)
    environment = Environment(
        loader=PackageLoader("sclip_lab.report"), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html.j2").render(
        title=title, notes=notes, lead=lead, sections=shown
    )
    files.write_text(out / "index.html", text)
    return [out / "index.html", *paths]


_makers: list[Maker] = []  # set in each forked process


def _drawings(sections: Sequence[Section], processes: int) -> list[list[Drawing]]:
    """All figures of each section, made and drawn by several processes."""
    makers = [make for section in sections for make in section.makers]
    if min(processes, len(makers)) < 2:
        groups = [_drawings_of(make()) for make in makers]
    else:
        fork = multiprocessing.get_context("fork")  # nothing need be pickled
        with ProcessPoolExecutor(processes, fork, _makers.extend, (makers,)) as pool:
            groups = list(pool.map(_drawings_by_number, range(len(makers))))
    remaining = iter(groups)
    return [
        [drawing for group in islice(remaining, len(section.makers)) for drawing in group]
        for section in sections
    ]


def _drawings_by_number(number: int) -> list[Drawing]:
    return _drawings_of(_makers[number]())


def _drawings_of(figures: Mapping[str, Figure]) -> list[Drawing]:
    captions = {name: str(f.get_label() or name.replace("_", " ")) for name, f in figures.items()}
    return [(name, captions[name], *rendered(figure)) for name, figure in figures.items()]


def rendered(figure: Figure) -> tuple[bytes, bytes]:
    """PNG and PDF of one figure, which is laid out once."""
    FigureCanvasAgg(figure)
    dpi = min(PNG_DPI, WIDE / figure.get_size_inches()[0])
    figure.set_dpi(dpi)  # a layout for other pixels cuts long labels: letters are whole pixels wide
    if (layout := figure.get_layout_engine()) is not None:
        for _ in range(2):
            layout.execute(figure)
        figure.set_layout_engine("none")
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, pil_kwargs={"compress_level": COMPRESSION})
    figure.savefig(pdf, format="pdf", dpi=PDF_DPI)
    return png.getvalue(), pdf.getvalue()


def html(table: pd.DataFrame) -> str:
    """A table as HTML: names escaped, numbers as `tables.texts` has them (see `_styled`)."""
    return _styled(table, escaping.html, "font-weight: bold;").to_html(
        table_attributes='class="numbers"'
    )


def latex(table: pd.DataFrame, name: str = "") -> str:
    """A table as LaTeX with booktabs, special characters escaped (see `_styled`), and the label
    ``tab:name``."""
    styler = _styled(table, escaping.latex, "textbf:--rwrap;")
    numeric = [c in table and pd.api.types.is_numeric_dtype(table[c]) for c in texts(table)]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    label = f"tab:{escaping.file_name(name)}" if name else None
    return styler.to_latex(hrules=True, column_format=columns, label=label)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """A table for a CSV file: fractions are x100, and the names of their columns say so."""
    plain = {*table.attrs.get("plain", PLAIN), P}
    scaled = {
        str(name): f"{name} x100"
        for name in table
        if pd.api.types.is_float_dtype(table[name].dtype) and name not in plain
    }
    return table.assign(**{n: (100 * table[n]).round(6) for n in scaled}).rename(columns=scaled)


def _styled(table: pd.DataFrame, escape: Callable[[str], str], css: str) -> Styler:
    """The texts of a table, escaped. ``table.attrs["bold"]`` says by column which entries are bold;
    ``table.attrs["caption"]`` is the caption."""
    styler = texts(table).map(escape).rename(columns=escape).style.hide(axis="index")
    for name, marked in table.attrs.get("bold", {}).items():
        bold = [css if mark else "" for mark in marked]
        styler = styler.apply(lambda _, bold=bold: bold, subset=[escape(name)], axis=0)
    if table.attrs.get("caption"):
        styler = styler.set_caption(escape(table.attrs["caption"]))
    return styler
