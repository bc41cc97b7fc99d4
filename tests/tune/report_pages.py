"""What a test reads of an HTML page: that it is well-formed, what it loads, its sections, tables and texts."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
INLINE = "data:image/png;base64,"
LOADS = ("src", "srcset", "poster", "data", "background", "href", "xlink:href", "action")


@dataclass
class Page(HTMLParser):
    """A page that was read; `open` is empty where every element was closed in its order."""

    source: str
    open: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    scripts: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data
        self.loads += re.findall(r"url\(|@import", data) if self.open[-1:] == ["style"] else []

    def _look(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.ids += [attrs["id"] or ""] if "id" in attrs else []
        self.sections += [attrs["id"] or ""] if tag == "section" else []
        self.scripts += tag == "script"
        if tag == "svg":
            figure = next(name for name in reversed(self.ids) if name.startswith("picture-"))
            self.pictures[figure.removeprefix("picture-")] = attrs["aria-label"] or ""
        named = [value or "" for name, value in attrs.items() if name in LOADS]
        self.loads += [value for value in named if not value.startswith(("#", INLINE))]
        self.loads += re.findall(r"url\((?!#)[^)]*", attrs.get("style") or "")
