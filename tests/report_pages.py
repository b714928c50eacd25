"""What a report's page must be, whatever it is about."""

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects what reaches outside the page, what assistive programs need, and whether tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images = 0
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.regions: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.images += tag == "img"
        self.tags.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.regions += [given["aria-label"] or ""] if given.get("role") == "region" else []
        assert tag not in ("script", "link", "iframe")
        if (tag == "th" and "scope" not in given) or (tag == "img" and not given.get("alt")):
            self.wrong.append(f"<{tag}> in line {self.getpos()[0]}")
        if tag == "svg" and not (given.get("aria-hidden") or (given.get("role") == "img" and given.get("aria-label"))):
            self.wrong.append(f"<svg> in line {self.getpos()[0]}")
        if tag == "table" and self.open[-1] != "div":
            self.wrong.append(f"<table> outside of a scrolling region in line {self.getpos()[0]}")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "circle", "polyline")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def check_structure(page: str) -> Reader:
    """What a page of any kind must be: whole, self-contained, with captions, scopes, names and one main part."""
    reader = read(page)
    assert reader.wrong == []
    assert reader.tags.count("main") == reader.tags.count("h1") == reader.tags.count("nav") == 1
    assert reader.tags.count("table") == reader.tags.count("caption") == len(reader.regions)
    assert len(set(reader.regions)) == len(reader.regions), "two tables of one name"
    assert len(set(reader.ids)) == len(reader.ids), "an id twice"
    inner = [address[1:] for address in reader.addresses if address.startswith("#")]
    assert set(inner) <= set(reader.ids) and inner
    outer = [address for address in reader.addresses if not address.startswith(("#", "data:image/png;base64,"))]
    assert all(re.fullmatch(r"[\w./-]+\.(json|csv|html)", address) for address in outer), outer
    assert not re.search(r"https?://|url\(|@import|e[−-]\d\d\b", page)
    return reader
