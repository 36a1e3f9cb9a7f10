"""Reads pages of results."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr", "base", "area", "col", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """What a page consists of. Fails if an element is not closed, or closed without being opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.text.append(data)
            if "td" in self._open or "th" in self._open:
                self.rows[-1][-1] += data

    def elements(self, tag: str, style: str = "") -> list[dict[str, str | None]]:
        return [
            found for name, found in self.tags if name == tag and (not style or style == (found.get("class") or ""))
        ]


def offline_page(text: str) -> Page:
    """Reads a page that must be whole, and refer to nothing outside."""
    page = Page(text)
    [policy] = [found["content"] for found in page.elements("meta") if found.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert not {tag for tag, _ in page.tags}.intersection(
        ("script", "link", "iframe", "object", "embed", "base", "form", "use")
    )
    for tag, found in page.tags:
        assert not any(name.startswith("on") for name in found)
        references = {"src", "srcset", "action", "xlink:href", "data", "poster"} & found.keys()
        if tag == "img":
            references.remove("src")
            assert (found["src"] or "").startswith("data:image/jpeg;base64,")
        assert not references
        assert (found.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", text)
    anchors = {found["href"] for found in page.elements("a")}
    assert anchors == {f"#{found['id']}" for found in page.elements("section")}
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    return page


HOSTILE = [
    "<img src=x onerror=alert(1)>.jpg",
    "\"><script>alert('1')</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "moc.\u202egpj.exe",
    "a\x1b[31mred\x00\nline",
    "caf\udce9.jpg",
    "]]></style><style>*{display:none}",
]
"""Names that a page must show as text."""
