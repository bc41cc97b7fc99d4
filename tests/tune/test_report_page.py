"""The frame of a report: colours that can be read, pictures that follow them, text that stays text."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.tune.report_pages import Page
from tune.palette import PALETTE, light
from tune.report_page import Column, Row, Section, folded, joined, page, paragraph, picture_html, table
from tune.report_svg import Picture, inline_svg, report_style, save_png

READ = ("text", "soft", "mark", "winner", "own", "bad", "final")
"""The roles that text may have."""
HOSTILE = '<script>alert("1")</script> & </svg> $x^2$'


def picture(name: str = "one", label: str = "a & b") -> Picture:
    with report_style():
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.plot([1, 2], [2, 1], "o-", color=light("mark"), label=label, clip_on=True)
        axes.set_title(HOSTILE.replace("$", r"\$"))
        axes.legend()
    return Picture(name, figure, f"Shows {HOSTILE}", f"says {HOSTILE}")


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("ground", ["ground", "card"])
@pytest.mark.parametrize("role", READ)
def test_text_has_a_contrast_of_four_and_a_half_on_every_ground(role: str, ground: str, dark: bool) -> None:
    assert contrast(PALETTE[role][dark], PALETTE[ground][dark]) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_what_is_drawn_without_text_has_a_contrast_of_three(dark: bool) -> None:
    assert contrast(PALETTE["rest"][dark], PALETTE["ground"][dark]) >= 3


def test_a_contrast_is_what_the_guidelines_say() -> None:
    """Black on white is 21; #777777 on white is the textbook's 4.48, just too little."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_each_colour_is_drawn_for_one_role_alone() -> None:
    assert len({pair[0] for pair in PALETTE.values()}) == len(PALETTE)


def test_a_picture_is_xml_whose_colours_are_variables_and_whose_text_is_text() -> None:
    svg = str(inline_svg(picture()))
    texts = [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - our own
    assert {"a & b", HOSTILE} <= set(texts)
    assert "stroke: var(--mark)" in svg
    assert not [pair[0] for pair in PALETTE.values() if pair[0] in svg]
    assert "DejaVu" not in svg


def test_the_same_picture_is_the_same_text_and_two_pictures_share_no_id() -> None:
    one, again, other = (str(inline_svg(picture(name))) for name in ("one", "one", "other"))
    assert one == again
    ids = [set(Page(f'<figure id="picture-x">{svg}</figure>').ids) - {"picture-x"} for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_picture_lies_beside_the_page_as_a_png(tmp_path: Path) -> None:
    [path] = save_png([picture()], tmp_path)
    assert path == tmp_path / "one.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_page_is_well_formed_loads_nothing_and_shows_hostile_text_as_text() -> None:
    cells = table([Column(HOSTILE, left=True), Column("n")], [Row([HOSTILE, "1"], "winner")], HOSTILE, sorts=True)
    body = joined(paragraph(HOSTILE), cells, folded(HOSTILE, paragraph(HOSTILE)), picture_html(picture()))
    html = page(HOSTILE, HOSTILE, [Section("first", HOSTILE, body)], HOSTILE)
    found = Page(html)
    assert (found.open, found.wrong, found.loads) == ([], [], [])
    assert found.scripts == 1  # the one that sorts tables
    assert found.sections == ["first"]
    assert found.pictures == {"one": f"says {HOSTILE}"}
    assert found.text.count('<script>alert("1")</script>') == 14
    assert html.count("<script>") == 1
