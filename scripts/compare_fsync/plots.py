"""The four pictures: what a setting costs, throughput by writers, latencies, and the course of the runs."""

import math
import statistics

from . import matrix, summary, svg

# The load of the published figure; pictures that show one number of writers show this one where it is there.
WRITERS = 50
HUE_OF = {
    "(1)": "blue",
    "(2,3000)": "green",
    "(2,1000)": "sky",
    "(2,100)": "purple",
    "(2,10)": "pink",
    "(2,1)": "amber",
    "(2,0)": "red",
}
LEAST_DROP = -100


def hue(setting):
    return HUE_OF.get(setting, "grey")


def dash(setting):
    """The plain file is dashed, in longer dashes where nothing syncs it; settings without a hue are dotted."""
    if setting.startswith(matrix.FILE):
        return "7 4" if setting.endswith(matrix.LEVEL_1) else "3 3"
    return None if setting in HUE_OF else "1 3"


def groups_of(entries):
    found = {matrix.Group(entry["block"], entry["in_flight"], entry["writers"]) for entry in entries}
    return sorted(found, key=summary.group_place)


def of_group(entries, group):
    key = (group.block, group.in_flight, group.writers)
    return [entry for entry in entries if (entry["block"], entry["in_flight"], entry["writers"]) == key]


def loads(entries):
    """(block, in flight) of the panels, in order."""
    return list(dict.fromkeys((group.block, group.in_flight) for group in groups_of(entries)))


def load_title(block, in_flight, cells):
    """What a panel shows; blocks of rows with the size that they have."""
    sizes = [cell["block_bytes"] for cell in cells if cell["block"] == block]
    kind = "blocks of " + block
    if block.endswith("rows") and sizes:
        kind += f" ({svg.count(statistics.median(sizes))}B)"
    depth = f", {in_flight} in flight" if in_flight > 1 or any(cell["in_flight"] > 1 for cell in cells) else ""
    return kind + depth


def shown_writers(cells):
    counts = {cell["writers"] for cell in cells}
    return WRITERS if WRITERS in counts else max(counts)


def rounds_of(figures):
    count = figures["rounds"]
    return f"{count} round{'s' if count != 1 else ''}"


# Drop by setting


def drop_lines(entries):
    """Rows of a panel: one heading per pair of settings, below it one row per number of writers."""
    shown = [entry for entry in entries if not entry["against"].startswith(matrix.FILE)]
    pairs = list(dict.fromkeys((entry["of"], entry["against"]) for entry in shown))
    pairs.sort(key=lambda pair: (pair[1] != matrix.LEVEL_1, matrix.place(pair[0])))
    for pair in pairs:
        yield pair, sorted((e for e in shown if (e["of"], e["against"]) == pair), key=lambda e: e["writers"])


def drop_height(entries):
    return sum(26 + 18 * len(rows) for _, rows in drop_lines(entries))


def drop_range(entries):
    """Of all panels, so that they can be compared; an interval that goes further ends in an arrow."""
    ends = [0.0, 10.0]
    for entry in entries:
        ends += [entry["drop_percent"]["median"], *(entry["drop_percent"]["interval"] or [])]
    low = max(LEAST_DROP, min(ends))
    return min(0, 5 * math.floor(low / 5)), min(100, 5 * math.ceil(max(ends) / 5))


def draw_drop(page, entry, x, y):
    drop = entry["drop_percent"]
    ends = drop["interval"]
    name = hue(entry["of"])
    text = f"{drop['median']:.1f} %" + (f"  [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "  (one round)")
    if ends:
        page.line(x(ends[0]), y, x(ends[1]), y, f"s-{name}", 2)
        for end in ends:
            if end < x.low:
                page.path([(x.begin + 6, y - 4), (x.begin, y), (x.begin + 6, y + 4)], f"n s-{name}", 1.5)
            else:
                page.line(x(end), y - 4, x(end), y + 4, f"s-{name}", 1.5)
    page.dot(x(drop["median"]), y, f"f-{name} s-page", 4.5, text)
    page.text(x.end + 14, y + 4, text, "f-ink", size=11)


def drop_panel(page, title, entries, left, top, ends):
    x = svg.Scale(*ends, left + 168, left + 418)
    height = drop_height(entries)
    page.text(left, top, title, "b f-ink", size=14)
    top += 14
    for tick in svg.linear_ticks(*ends, 6):
        page.line(x(tick), top, x(tick), top + height, "s-axis" if tick == 0 else "s-grid", 1.2 if tick == 0 else 1)
        page.text(x(tick), top + height + 16, f"{tick:g} %", "f-soft", "middle", 11)
    page.text((x.begin + x.end) / 2, top + height + 34, "drop in blocks/s (left of 0: faster)", "f-soft", "middle", 11)
    y = top
    for (of, against), rows in drop_lines(entries):
        y += 18
        page.text(left, y, f"{of} against {against}", f"b f-{hue(of)}")
        y += 2
        for entry in rows:
            y += 18
            page.text(x.begin - 12, y, f"{entry['writers']} writer{'s' if entry['writers'] > 1 else ''}", "f-soft", "end", 11)
            draw_drop(page, entry, x, y - 4)
        y += 6


def draw_drops(figures, _runs):
    """What each setting costs, with intervals."""
    entries = [entry for entry in figures["comparisons"] if not entry["against"].startswith(matrix.FILE)]
    panels = loads(entries)
    own = {panel: [e for e in entries if (e["block"], e["in_flight"]) == panel] for panel in panels}
    heights = [max(drop_height(own[panel]) for panel in panels[at : at + 2]) + 88 for at in range(0, len(panels), 2)]
    width = 580 * min(2, max(1, len(panels))) + 24
    words = f"Median of the paired ratios of {rounds_of(figures)};\n"
    words += f"bars are 95 % intervals, drawn from {summary.RESAMPLES:,} resamples of the rounds"
    page = svg.Page(width, 96 + sum(heights), "What each fsync setting costs", words)
    ends = drop_range(entries)
    for at, panel in enumerate(panels):
        top = 106 + sum(heights[: at // 2])
        drop_panel(page, load_title(*panel, figures["cells"]), own[panel], 24 + 580 * (at % 2), top, ends)
    return page.svg()


# Axes of the panels with lines


def frame(page, box, title, y, y_text):
    """Title, and the grid of a logarithmic ordinate."""
    left, top, right, bottom = box
    page.text(left - 52, top - 14, title, "b f-ink", size=14)
    for tick in svg.log_ticks(y.low, y.high):
        page.line(left, y(tick), right, y(tick), "s-grid")
        page.text(left - 8, y(tick) + 4, y_text(tick), "f-soft", "end", 11)
    page.line(left, bottom, right, bottom, "s-axis")


def abscissa(page, box, ticks, label):
    """Ticks are (pixel, text)."""
    left, _, right, bottom = box
    for x, text in ticks:
        page.line(x, bottom, x, bottom + 4, "s-axis")
        page.text(x, bottom + 18, text, "f-soft", "middle", 11)
    page.text((left + right) / 2, bottom + 36, label, "f-soft", "middle", 11)


def labels(page, ends, low, high):
    """Names at the ends of lines, moved apart: ends are (x, y, text, hue)."""
    heights = svg.apart([y for _, y, _, _ in ends], 14, low, high)
    for (x, y, text, name), at in zip(ends, heights):
        page.line(x + 5, y, x + 14, at, f"s-{name}", 0.8)
        page.text(x + 17, at + 4, text, f"f-{name}", size=11)


# Throughput by number of writers

PANEL_WIDTH, PANEL_HEIGHT = 540, 300


def grid_of(count):
    """Width and height of a page of panels, two in a row."""
    return 24 + PANEL_WIDTH * min(2, count), 96 + PANEL_HEIGHT * math.ceil(count / 2)


def box_of(at):
    left, top = 24 + PANEL_WIDTH * (at % 2), 96 + PANEL_HEIGHT * (at // 2)
    return left + 54, top + 34, left + PANEL_WIDTH - 170, top + PANEL_HEIGHT - 50


def writers_panel(page, title, cells, box):
    left, top, right, bottom = box
    counts = sorted({cell["writers"] for cell in cells})
    ends = [value for cell in cells for value in (cell["blocks_per_s"]["least"], cell["blocks_per_s"]["most"])]
    y = svg.Scale(*svg.log_range(ends), bottom, top, log=True)
    if len(counts) > 1:
        x = svg.Scale(counts[0], counts[-1], left + 24, right - 8, log=True)
    else:
        x = lambda _: (left + right) / 2  # noqa: E731
    frame(page, box, title, y, svg.count)
    abscissa(page, box, [(x(count), f"{count}") for count in counts], "writers" + (" (logarithmic)" if len(counts) > 1 else ""))
    page.text(left - 52, top + 2, "blocks/s", "f-soft", size=11)
    names = []
    for setting in sorted({cell["setting"] for cell in cells}, key=matrix.place):
        own = sorted((cell for cell in cells if cell["setting"] == setting), key=lambda cell: cell["writers"])
        name, points = hue(setting), [(x(cell["writers"]), y(cell["blocks_per_s"]["median"])) for cell in own]
        page.path(points, f"n s-{name}", 2, dash(setting))
        for cell, (px, py) in zip(own, points):
            pace = cell["blocks_per_s"]
            page.line(px, y(pace["least"]), px, y(pace["most"]), f"s-{name}", 1.5)
            page.dot(px, py, f"f-{name}", 3.5, f"{setting}, {cell['writers']} writers: {pace['median']:,.0f} blocks/s")
        names.append((*points[-1], f"{setting}  {svg.count(own[-1]['blocks_per_s']['median'])}", name))
    labels(page, names, top, bottom)


def draw_writers(figures, _runs):
    """Throughput by the number of writers."""
    cells = figures["cells"]
    panels = loads(cells)
    words = "Acknowledged blocks a second up to the final sync, logarithmic;\n"
    words += f"medians of {rounds_of(figures)}, bars from the least to the most"
    page = svg.Page(*grid_of(len(panels)), "Throughput by number of writers", words)
    for at, panel in enumerate(panels):
        own = [cell for cell in cells if (cell["block"], cell["in_flight"]) == panel]
        writers_panel(page, load_title(*panel, cells), own, box_of(at))
    return page.svg()


# Latencies

# Percentile, its place on the abscissa, and how it is named there.
NINES = (
    ("min", 0, "min"),
    ("p50", 1, "50 %"),
    ("p90", 2, "90 %"),
    ("p99", 3, "99 %"),
    ("p999", 4, "99.9 %"),
    ("max", 5, "max"),
)


def latency_panel(page, title, cells, box):
    left, top, right, bottom = box
    y = svg.Scale(*svg.log_range([cell["ack_us"][key] for cell in cells for key, _, _ in NINES]), bottom, top, log=True)
    x = svg.Scale(0, 5, left + 8, right - 8)
    frame(page, box, title, y, svg.micros)
    abscissa(page, box, [(x(place), text) for _, place, text in NINES], "share of blocks that were acknowledged within")
    names = []
    for cell in sorted(cells, key=lambda cell: matrix.place(cell["setting"])):
        name = hue(cell["setting"])
        points = [(x(place), y(max(cell["ack_us"][key], y.low))) for key, place, _ in NINES]
        page.path(points, f"n s-{name}", 2, dash(cell["setting"]))
        for (px, py), (key, _, text) in zip(points, NINES):
            page.dot(px, py, f"f-{name}", 2.5, f"{cell['setting']} {text}: {svg.micros(cell['ack_us'][key])}")
        names.append((*points[-1], f"{cell['setting']}  {svg.micros(cell['ack_us']['max'])}", name))
    labels(page, names, top, bottom)


def draw_latency(figures, _runs):
    """The distribution of the time to the acknowledgement."""
    writers = shown_writers(figures["cells"])
    cells = [cell for cell in figures["cells"] if cell["writers"] == writers]
    panels = loads(cells)
    words = f"{writers} writers, closed loop; logarithmic. Each point is the median of that percentile over"
    words += f" {rounds_of(figures)};\nthe name of a line has its maximum"
    page = svg.Page(*grid_of(len(panels)), "From the call to the acknowledgement", words)
    for at, panel in enumerate(panels):
        own = [cell for cell in cells if (cell["block"], cell["in_flight"]) == panel]
        latency_panel(page, load_title(*panel, figures["cells"]), own, box_of(at))
    return page.svg()


# Time line

STRIP_HEIGHT, STRIP_WIDTH = 92, 430


def middle_run(runs):
    """(round, run) whose throughput is the median one, or the one below it."""
    return sorted(runs.items(), key=lambda item: item[1]["blocks_per_s"])[(len(runs) - 1) // 2]


def pace_line(run, x, y, base):
    """Corners of a run's pace, from the base line back to it; a step is drawn as a step."""
    step = run["timeline"]["interval_ms"] / 1e3
    points = [(x(0), base)]
    for at, count in enumerate(run["timeline"]["bytes"]):
        height = y(count / step / (1 << 20))
        points += [(x(at * step), height), (x((at + 1) * step), height)]
    return [*points, (points[-1][0], base)]


def seconds_of(run):
    line = run.get("timeline") or {"interval_ms": 0, "bytes": []}
    return line["interval_ms"] * len(line["bytes"]) / 1e3


def strip(page, setting, runs, left, top, length):
    """One setting: the pace of its middle run, and below it the stalls of every round."""
    name = hue(setting)
    number, run = middle_run(runs)
    bottom = top + 46
    step = run["timeline"]["interval_ms"] / 1e3
    rates = [count / step / (1 << 20) for count in run["timeline"]["bytes"]] or [0]
    high = max(*rates, 1e-6) * 1.05
    x, y = svg.Scale(0, length, left, left + STRIP_WIDTH), svg.Scale(0, high, bottom, top)
    stalls = {number: summary.stalls_of(run) for number, run in sorted(runs.items())}
    lengths = [length for found in stalls.values() for _, length in found]
    found = f"{len(lengths)} stall{'s' if len(lengths) != 1 else ''}, longest {max(lengths)} ms" if lengths else "no stall"
    page.text(left, top - 6, setting, f"b f-{name}")
    said = f"{found}; median {svg.plain(statistics.median(rates))} MiB/s"
    page.text(left + STRIP_WIDTH, top - 6, said, "f-ink" if lengths else "f-soft", "end", 11)
    page.line(left, top, left, bottom, "s-axis")
    page.text(left - 6, top + 8, svg.plain(high / 1.05), "f-soft", "end", 10)
    page.text(left - 6, bottom, "0", "f-soft", "end", 10)
    corners = pace_line(run, x, y, bottom)
    page.path(corners, f"f-{name}", 0, opacity=0.22, closed=True)
    page.path(corners[1:-1], f"n s-{name}", 1.2)
    page.line(left, bottom, left + STRIP_WIDTH, bottom, "s-axis")
    height = min(4.0, 20 / len(stalls))
    for row, (round_number, spans) in enumerate(stalls.items()):
        at = bottom + 5 + row * height
        page.rect(left, at, STRIP_WIDTH, height * 0.7, "f-grid")
        for begin, lasting in spans:
            hint = f"round {round_number}: {lasting} ms from {begin / 1e3:.2f} s on"
            page.rect(x(begin / 1e3), at, max(2, x((begin + lasting) / 1e3) - x(begin / 1e3)), height * 0.7, "f-ink", hint)


def draw_timeline(figures, runs):
    """How evenly the runs went."""
    cells = summary.by_cell(runs)
    writers = shown_writers(figures["cells"])
    least = min(cell.group.in_flight for cell in cells if cell.group.writers == writers)
    shown = [cell for cell in cells if cell.group.writers == writers and cell.group.in_flight == least]
    groups = sorted({cell.group for cell in shown}, key=summary.group_place)
    settings = sorted({cell.setting for cell in shown}, key=matrix.place)
    length = max([seconds_of(run) for cell in shown for run in cells[cell].values()] + [0.1])
    bottom = 118 + STRIP_HEIGHT * len(settings)
    words = f"MiB/s of the middle run of each setting, {writers} writers, {least} in flight; each strip has its own scale."
    words += " Below it a row for each round, with a bar where it stalled:\n"
    words += f"at least {summary.STALL_MS} ms in which less than a tenth of the run's mean pace was acknowledged"
    page = svg.Page(24 + max(900, (STRIP_WIDTH + 70) * len(groups)), bottom + 44, "The course of the runs", words)
    for column, group in enumerate(groups):
        left = 70 + (STRIP_WIDTH + 70) * column
        page.text(left, 100, load_title(group.block, group.in_flight, figures["cells"]), "b f-ink", size=14)
        for row, setting in enumerate(settings):
            own = cells.get(matrix.Cell(group, setting))
            if own and any(seconds_of(run) for run in own.values()):
                strip(page, setting, own, left, 132 + STRIP_HEIGHT * row, length)
        x = svg.Scale(0, length, left, left + STRIP_WIDTH)
        abscissa(page, (left, 0, left + STRIP_WIDTH, bottom), [(x(tick), f"{tick:g}") for tick in svg.linear_ticks(0, length)], "seconds")
    return page.svg()


# File name to what draws it, from all figures and the recorded runs.
ALL = {"drop.svg": draw_drops, "writers.svg": draw_writers, "latency.svg": draw_latency, "timeline.svg": draw_timeline}
