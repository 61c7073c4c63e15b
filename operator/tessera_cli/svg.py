"""SVG elements as text. Owns escaping: whatever text comes in, a well-formed element comes out."""

from __future__ import annotations

from html import escape


def element(tag: str, *children: str, **attributes: str | float) -> str:
    """An element; children are elements or escaped text. `stroke_width` is stroke-width, `class_` is class."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    written = "".join(f' {names[name]}="{_value(value)}"' for name, value in attributes.items())
    return f"<{tag}{written}>{''.join(children)}</{tag}>" if children else f"<{tag}{written}/>"


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def words(tag: str, text: str, **attributes: str | float) -> str:
    """An element that holds text."""
    return element(tag, escape(text), **attributes)


def line(first: tuple[float, float], last: tuple[float, float], *children: str, **attributes: str | float) -> str:
    """A straight line between two points."""
    return element("line", *children, x1=first[0], y1=first[1], x2=last[0], y2=last[1], **attributes)
