"""A page taken apart for assertions: its elements with attributes and text, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    ancestors: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Feed it with `read`; an element's text includes that of its descendants."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = Element(tag, dict(attrs), tuple(each.tag for each in self.open))
        self.elements.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), tuple(each.tag for each in self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for each in self.open:
            each.text += data

    def all(self, *tags: str) -> list[Element]:
        return [each for each in self.elements if each.tag in tags]

    def marked(self, name: str) -> list[Element]:
        """Elements of that class."""
        return [each for each in self.elements if name in (each.attributes.get("class") or "").split()]


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open, f"never closed: {[each.tag for each in page.open]}"
    return page
