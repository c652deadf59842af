"""Markdown as a manual page: what the documentation uses of it, in the macros of man(7) that every formatter knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode as Node

# A line longer than this is hard to read in an editor, and lint says so.
_WIDTH = 78
# What formatters would make typographic signs of, spelled so that it stays what it is and can be copied.
_PLAIN = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})


def render(markdown: str) -> str:
    """The body of a page. Headings of the second level are sections, those of the third are subsections."""
    tree = Node(MarkdownIt("commonmark").enable("table").parse(markdown))
    return "\n".join(_blocks(tree.children)) + "\n"


def escape(text: str, *, code: bool = False) -> str:
    """Text that no formatter takes for requests; in code each sign stays what it is."""
    text = text.translate(_PLAIN) if code else text.replace("\\", r"\e").replace("~", r"\(ti").replace("^", r"\(ha")
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)


def _blocks(nodes: Sequence[Node]) -> Iterator[str]:
    """The lines of blocks one below the other. Right behind a heading a paragraph needs no macro of its own."""
    before = "heading"
    for node in nodes:
        yield from _block(node, first=before == "heading")
        before = node.type


def _block(node: Node, *, first: bool) -> Iterator[str]:
    match node.type:
        case "heading":
            title = _inline(node.children[0])
            yield {"h2": f".SH {title.upper()}", "h3": f".SS {title}"}[node.tag]
        case "paragraph":
            yield from _paragraph(node.children[0], first=first)
        case "fence" | "code_block":
            yield from (*([] if first else [".PP"]), ".nf", ".RS 4")
            yield from (_guard(escape(line, code=True)) for line in node.content.rstrip("\n").split("\n"))
            yield from (".RE", ".fi")
        case "bullet_list":
            yield from _items(node, [r"\(bu"] * len(node.children), 2)
        case "ordered_list":
            yield from _items(node, [f"{number}." for number in range(1, len(node.children) + 1)], 4)
        case "table":
            yield from _table(node)
        case other:
            raise ValueError(f"no manual page has a {other}")


def _paragraph(inline: Node, *, first: bool) -> Iterator[str]:
    """A paragraph; one that tells what **something** - is or does becomes an entry under that name."""
    # The parser puts an empty text before what is strong.
    named, *rest = [node for node in inline.children if node.type != "text" or node.content]
    if named.type == "strong" and rest and rest[0].type == "text" and rest[0].content.startswith(" - "):
        yield from (".TP", _inline(named))
        yield from _filled("".join(map(_inline, rest)).removeprefix(" - "))
    else:
        yield from (*([] if first else [".PP"]), *_filled(_inline(inline)))


def _items(node: Node, marks: Sequence[str], indent: int) -> Iterator[str]:
    for mark, item in zip(marks, node.children, strict=True):
        yield f".IP {mark} {indent}"
        head, *more = item.children
        yield from _filled(_inline(head.children[0]))
        if more:
            yield from (f".RS {indent}", *_blocks(more), ".RE")


def _table(node: Node) -> Iterator[str]:
    """Each row as an entry: its last cell says what the others are. The names of columns are in italics."""
    heads, *bodies = node.children
    rows = [(row, r"\fI") for row in heads.children] + [(row, "") for body in bodies for row in body.children]
    for row, font in rows:
        *keys, last = ["".join(map(_inline, cell.children)) for cell in row.children]
        if any((*keys, last)):
            tag = "  ".join(filter(None, keys)) or r"\&"
            yield from (".TP", f"{font}{tag}\\fR" if font else _guard(tag))
            yield from (f"{font}{line}\\fR" if font else line for line in (_filled(last) if last else [r"\&"]))


def _inline(node: Node) -> str:
    match node.type:
        case "text":
            return escape(node.content)
        case "code_inline":
            return f"\\fB{escape(node.content, code=True)}\\fR"
        case "softbreak" | "hardbreak":
            return " "
        case "em":
            return f"\\fI{''.join(map(_inline, node.children))}\\fR"
        case "strong":
            inner = "".join(map(_inline, node.children))
            return inner if inner.startswith(r"\fB") else f"\\fB{inner}\\fR"
        case "inline" | "link":
            return "".join(map(_inline, node.children))
        case other:
            raise ValueError(f"no manual page has a {other}")


def _filled(text: str) -> Iterator[str]:
    """Text in lines, a new one for each sentence: formatters fill them."""
    line = ""
    for word in text.split():
        if line and (len(line) + 1 + len(word) > _WIDTH or (re.search(r"[.!?]$", line) and word[:1].isupper())):
            yield _guard(line)
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield _guard(line)


def _guard(line: str) -> str:
    """A line that begins like a request is none."""
    return rf"\&{line}" if line.startswith((".", "'")) else line
