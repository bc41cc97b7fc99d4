"""One drawing, two outputs: a matplotlib figure as a PNG, and as SVG inside a page whose colours follow the reader.

In the SVG every colour of the palette is a CSS variable and text is text, in the page's own font. Knows nothing of what
is drawn.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from phasegpt.files import whole_file
from tune.palette import PALETTE, light

DPI = 130
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
VARIABLES = {pair[0]: f"var(--{role})" for role, pair in PALETTE.items()} | {"#000000": "var(--text)"}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": light("text"),
    "axes.labelcolor": light("text"),
    "axes.titlecolor": light("text"),
    "xtick.color": light("soft"),
    "ytick.color": light("soft"),
    "xtick.labelcolor": light("text"),
    "ytick.labelcolor": light("text"),
    "axes.edgecolor": light("soft"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": light("line"),
    "grid.linewidth": 0.7,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Picture:
    """A figure with its caption (what it shows, how to read it) and what it `says` to those who cannot see it.

    One on `paper` keeps its light ground in dark mode: its colours are a scale, which would mean something else there.
    """

    name: str
    figure: Figure
    caption: str
    says: str
    paper: bool = False


@contextmanager
def report_style() -> Iterator[None]:
    """Figures that are made inside are drawn in the palette's colours and with the report's sizes."""
    with matplotlib.rc_context(STYLE):
        yield


def save_png(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write each as `<name>.png` in `folder` and return the paths."""
    for picture in pictures:
        with whole_file(folder / f"{picture.name}.png") as stage:
            picture.figure.savefig(stage, dpi=DPI, format="png", facecolor=light("ground"))
    return [folder / f"{picture.name}.png" for picture in pictures]


def inline_svg(picture: Picture) -> Markup:
    """The SVG of a picture, to stand in an HTML page; the same figure gives the same text every time."""
    root = _drawn(picture)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    _own_ids(root, picture.name)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _styled(element.attrib["style"]))
    width = root.attrib.pop("width").removesuffix("pt")
    del root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": picture.says, "style": f"--width: {float(width) * 4 / 3:.0f}px"}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree has escaped every text in it


def _drawn(picture: Picture) -> ET.Element:
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return ET.fromstring(drawn.getvalue())  # noqa: S314 - matplotlib wrote it just now


def _own_ids(root: ET.Element, name: str) -> None:
    """Ids that something refers to begin with the picture's name, others go: a page holds many pictures."""
    referred = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", ET.tostring(root, encoding="unicode")))
    used = {one or other for one, other in referred}
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif value.startswith("#") and value[1:] in used:
                element.set(key, f"#{name}-{value[1:]}")
            else:
                element.set(key, value.replace("url(#", f"url(#{name}-"))


def _styled(style: str) -> str:
    """Colours of the palette as variables, and the page's font."""
    style = re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), style)
    return re.sub(r"'?DejaVu Sans'?[^;]*", "var(--sans)", style)
