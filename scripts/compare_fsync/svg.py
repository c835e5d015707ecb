"""Pictures by hand: a page of panels, axes with units, and colours that hold in light and in dark.

Only plain SVG and CSS classes: viewers that know no dark mode show the light one.
"""

import math
from xml.sax.saxutils import escape

FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
MICRO = "\u00b5s"
# Of ink and paper: light, dark.
INK = {
    "page": ("#ffffff", "#14171c"),
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#5b636d", "#a3abb5"),
    "grid": ("#e3e6ea", "#2a3038"),
    "axis": ("#8b949e", "#6b7480"),
}
# Hues that stay apart for the colour-blind (after Okabe and Ito), for light and for dark. What they mean is
# always written beside them too.
HUES = {
    "blue": ("#0072b2", "#56aee6"),
    "green": ("#00805e", "#2fc79c"),
    "sky": ("#2f9bd0", "#8fd0f5"),
    "purple": ("#8a4fa3", "#c99be0"),
    "pink": ("#b8578f", "#f09ac8"),
    "amber": ("#a87400", "#f0b840"),
    "red": ("#c44e00", "#ff8a4a"),
    "grey": ("#6b7480", "#a3abb5"),
}


def style():
    def rules(at):
        found = [f".f-{name}{{fill:{pair[at]}}}.s-{name}{{stroke:{pair[at]}}}" for name, pair in (INK | HUES).items()]
        return "".join(found)

    base = f"text{{font-family:{FONT};font-size:12px}}.b{{font-weight:600}}.n{{fill:none}}"
    return f"{base}{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}"


def short(value):
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")


class Page:
    """A picture that grows downwards."""

    def __init__(self, width, height, title, subtitle):
        self.width, self.height, self.parts = width, height, []
        self.title, self.subtitle = title, subtitle
        self.text(24, 34, title, "b f-ink", size=18)
        for number, line in enumerate(subtitle.split("\n")):
            self.text(24, 54 + 16 * number, line, "f-soft")

    def add(self, part):
        self.parts.append(part)

    def text(self, x, y, text, name="f-ink", anchor="start", size=None):
        more = f' text-anchor="{anchor}"' if anchor != "start" else ""
        more += f' style="font-size:{size}px"' if size else ""
        self.add(f'<text x="{short(x)}" y="{short(y)}" class="{name}"{more}>{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, name, width=1, dash=None):
        more = f' stroke-dasharray="{dash}"' if dash else ""
        ends = f'x1="{short(x1)}" y1="{short(y1)}" x2="{short(x2)}" y2="{short(y2)}"'
        self.add(f'<line {ends} class="{name}" stroke-width="{width}"{more}/>')

    def path(self, points, name, width=2, dash=None, opacity=None, closed=False):
        if not points:
            return
        more = f' stroke-dasharray="{dash}"' if dash else ""
        more += f' opacity="{opacity}"' if opacity else ""
        d = "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points) + ("Z" if closed else "")
        self.add(f'<path d="{d}" class="{name}" stroke-width="{width}" stroke-linejoin="round"{more}/>')

    def rect(self, x, y, width, height, name, hint=None):
        tip = f"<title>{escape(hint)}</title>" if hint else ""
        ends = f'x="{short(x)}" y="{short(y)}" width="{short(width)}" height="{short(height)}"'
        self.add(f'<rect {ends} class="{name}">{tip}</rect>')

    def dot(self, x, y, name, radius=3.5, hint=None):
        tip = f"<title>{escape(hint)}</title>" if hint else ""
        self.add(f'<circle cx="{short(x)}" cy="{short(y)}" r="{radius}" class="{name}">{tip}</circle>')

    def svg(self):
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="t d">'
        words = f'<title id="t">{escape(self.title)}</title><desc id="d">{escape(self.subtitle)}</desc>'
        back = f'<rect width="{self.width}" height="{self.height}" class="f-page"/>'
        return "\n".join([head, words, f"<style>{style()}</style>", back, *self.parts, "</svg>", ""])


class Scale:
    """Values to pixels; logarithmic or not."""

    def __init__(self, low, high, begin, end, log=False):
        self.low, self.high, self.begin, self.end, self.log = low, high, begin, end, log

    def __call__(self, value):
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)


def linear_ticks(low, high, count=5):
    """Round numbers within the range."""
    raw = (high - low) / max(1, count)
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_range(values):
    """Ends of a logarithmic scale with room around the values."""
    values = [value for value in values if value > 0] or [1]
    low, high = min(values) / 1.3, max(values) * 1.3
    # At least a factor of four, so that there are ticks.
    wanted = max(1.0, 4 / (high / low)) ** 0.5
    return low / wanted, high * wanted


def log_ticks(low, high):
    """Powers of ten, with 2 and 5 between them where the range is short."""
    factors = (1,) if high / low > 300 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def count(value):
    """1,234,567 as 1.2 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def plain(value):
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def micros(value):
    if value >= 0.9995e6:
        return f"{value / 1e6:.3g} s"
    if value >= 0.9995e3:
        return f"{value / 1e3:.3g} ms"
    return f"{value:.3g} {MICRO}"


def apart(wanted, least, low, high):
    """Heights near the wanted ones (in any order) that are at least so far from each other, within the ends."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    found, before = {}, low - least
    for at in order:
        before = found[at] = max(wanted[at], before + least)
    behind = high + least
    for at in reversed(order):
        behind = found[at] = min(found[at], behind - least)
    return [found[at] for at in range(len(wanted))]
