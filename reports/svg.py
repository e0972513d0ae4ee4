"""A matplotlib figure as inline SVG that follows the page: its colours are CSS variables, its text is text.

Figures are drawn in placeholder colours, one per role, which become `var(--role)` afterwards, so that light,
dark and print need no second drawing. One drawing unit is one CSS pixel. Ids are made unique by the chart's
key and nothing depends on time, so that equal figures give equal bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROLES = (
    *("fg", "muted", "line", "page", "better", "worse", "unclear", "claim", "target", "load"),
    *("arm-baseline", "arm-control", "arm-treatment", "arm-1", "arm-2", "arm-3", "arm-4", "arm-5"),
)
"CSS variables that templates/style.css.j2 defines for light and dark"
_PLACEHOLDERS = {role: f"#0100{index + 16:02x}" for index, role in enumerate(ROLES)}
_ROLE_OF = {placeholder: role for role, placeholder in _PLACEHOLDERS.items()}
FONT = 13.0
CHARACTER = 6.9
"generous width of an average character at FONT, pixels"
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "path.simplify": False,
    "axes.unicode_minus": True,
}


def colour(role: str) -> str:
    """The placeholder to draw with; becomes `var(--role)`."""
    return _PLACEHOLDERS[role]


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many pixels."""
    return Figure(figsize=(width / 72.0, height / 72.0), dpi=72)


def new_axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Bare axes with these margins in pixels: no frame, no ticks; light grid lines are the caller's choice."""
    width, height = (72.0 * side for side in figure.get_size_inches())
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(which="both", length=0, labelcolor=colour("muted"), labelsize=FONT - 1.0, pad=6)
    axes.tick_params(which="minor", labelleft=False, labelbottom=False)
    axes.set_axisbelow(True)
    return axes


def write(figure: Figure, x: float, y: float, words: str, role: str = "fg", **style: Any) -> None:
    """Text at pixel (x, y) from the top left, on its baseline."""
    width, height = (72.0 * side for side in figure.get_size_inches())
    figure.text(x / width, 1.0 - y / height, words, color=colour(role), va="baseline", **style)


def fitted(words: str, pixels: float) -> str:
    """The text, its end replaced by an ellipsis if it would be wider than `pixels` at FONT."""
    room = max(1, int(pixels / CHARACTER))
    return words if len(words) <= room else words[: room - 1].rstrip() + "\u2026"


def drawing(key: str) -> AbstractContextManager[None]:
    """matplotlib's settings while the chart `key` is drawn and saved; restored afterwards."""
    chosen: Any = {**_SETTINGS, "svg.hashsalt": key}
    return matplotlib.rc_context(chosen)


def inline(figure: Figure, key: str, title: str, description: str) -> Markup:
    """The figure as an SVG element with role img, a title and a description for those who do not see it."""
    figure.patch.set_visible(False)
    buffer = io.BytesIO()
    with drawing(key), warnings.catch_warnings():
        # The browser has the fonts; matplotlib's own only measures, and need not know every script.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue().decode()
    width, height = (round(72.0 * side) for side in figure.get_size_inches())
    body = _cleaned(text[text.index("<defs>") : text.rindex("</svg>")], key)
    head = (
        f'<svg class="chart" role="img" aria-labelledby="{key}-t {key}-d" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg"'
        ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    names = f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
    return Markup(f"{head}{names}{body}</svg>")


_TAG = re.compile(r"<[^>]*>")


def _cleaned(body: str, key: str) -> str:
    """Without matplotlib's own style sheet, group ids and font names; inside tags only, text stays as it is."""
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    return re.sub(r">\s+<", "><", _TAG.sub(lambda tag: _tag(tag.group(), key), body)).strip()


def _tag(tag: str, key: str) -> str:
    if tag.startswith("<g "):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r' id="', f' id="{key}-', tag)
    tag = tag.replace('href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"#0100[0-9a-f]{2}", lambda found: f"var(--{_ROLE_OF[found.group()]})", tag)
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    return re.sub(r"\s*\n\s*", " ", tag)


def log_ticks(low: float, high: float, at_most: int = 7) -> tuple[float, ...]:
    """Round values within a positive range for a logarithmic axis: 1-2-5 steps, finer ones when it is narrow, fewer
    decades when it is wide. Evenly spaced values only within a decade: over more of them they crowd at its end.
    """
    sizes = [((1.0,), 1), ((1.0, 3.0), 1), ((1.0, 2.0, 5.0), 1), ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), 1)]
    found = []
    for steps, every in [*sizes, *(((1.0,), decades) for decades in (2, 3, 4, 6))]:
        ticks = [step * 10.0**decade for decade in range(-12, 13) if decade % every == 0 for step in steps]
        found.append(tuple(float(f"{tick:.6g}") for tick in ticks if low <= tick <= high))
    fitting = [each for each in found if len(each) <= at_most]
    best = next((each for each in fitting if len(each) >= 4), max(fitting, key=len))
    return best if len(best) >= 4 or high / low >= 10.0 else linear_ticks(low, high, at_most)


def linear_ticks(low: float, high: float, at_most: int = 7) -> tuple[float, ...]:
    """Round values within a range, evenly spaced."""
    for exponent in range(-12, 16):
        for step in (1.0, 2.0, 2.5, 5.0):
            width = step * 10.0**exponent
            first, last = -(-low // width), high // width
            if last - first + 1 <= at_most:
                return tuple(float(f"{index * width:.9g}") for index in range(int(first), int(last) + 1))
    return (low, high)
