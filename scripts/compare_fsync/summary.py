"""Figures of recorded runs: medians of each cell, and what a setting costs against another one.

Two settings are compared within a round, where they ran within minutes of each other; of these ratios the
median counts, and its interval comes from drawing rounds again with replacement. The best run is never
singled out.
"""

import json
import random
import statistics
from collections import Counter

from . import matrix

SCHEMA = "forebay.compare-fsync/1"
RESAMPLES = 10_000
# Fixed: the same runs give the same interval.
SEED = 1
# Where less than this share of the run's mean pace was acknowledged for so long, it stalled.
STALL_SHARE = 0.1
STALL_MS = 100
PERCENTILES = ("min", "p50", "p90", "p95", "p99", "p999", "max")


def records(path):
    """Every whole line of runs.jsonl; the last one may be torn where the machine went down."""
    found = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError:
            if number == len(lines):
                continue
            raise SystemExit(f"error: {path} line {number}: not JSON") from None
        if record and record.get("schema") != SCHEMA:
            raise SystemExit(f"error: {path} line {number}: not of schema {SCHEMA}")
        found += [record] if record else []
    return found


def cell_of(record):
    return matrix.Cell(matrix.Group(record["block"], record["in_flight"], record["writers"]), record["setting"])


def why_unusable(record):
    """Why a run counts nowhere; `None` for one that counts."""
    run = record.get("run")
    if record.get("error") or not run:
        return record.get("error") or "no figures"
    if run.get("ended_early"):
        return f"ended early: {run['ended_early']}"
    return None if run["blocks_per_s"] > 0 else "nothing was acknowledged"


def by_cell(found):
    """Cell to round to run, of what counts."""
    cells = {}
    for record in found:
        if why_unusable(record) is None:
            cells.setdefault(cell_of(record), {})[record["round"]] = record["run"]
    return cells


def paired_ratios(of, against):
    """The ratio in each round that has both; two dicts of round to figure."""
    return [of[number] / against[number] for number in sorted(of.keys() & against.keys()) if against[number] > 0]


def interval(ratios, resamples=RESAMPLES):
    """The bootstrap's 95 % interval of the median; `None` of fewer than two rounds."""
    if len(ratios) < 2:
        return None
    rng = random.Random(SEED)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(resamples))
    cut = int(resamples * 0.025)
    return medians[cut], medians[-cut - 1]


def most_coverage(rounds):
    """The chance that the true median lies between the least and the greatest of so many ratios: no interval
    that is made of them can be surer."""
    return 1 - 2 ** (1 - rounds) if rounds else 0.0


def drop_percent(ratio):
    return (1 - ratio) * 100


def stalls_of(run):
    """(from, length) in milliseconds of each stall."""
    line = run.get("timeline") or {"interval_ms": 1, "bytes": []}
    step, found, begin = line["interval_ms"], [], None
    low = STALL_SHARE * sum(line["bytes"]) / max(1, len(line["bytes"]))
    for at, count in enumerate([*line["bytes"], low + 1]):
        if count < low and begin is None:
            begin = at
        elif count >= low and begin is not None:
            if (at - begin) * step >= STALL_MS:
                found.append((begin * step, (at - begin) * step))
            begin = None
    return found


def spread(values):
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def cell_summary(cell, runs):
    """Medians over the rounds, and what a reader must know about the runs."""
    stalls = [stall for run in runs.values() for stall in stalls_of(run)]
    all_runs = list(runs.values())
    group = cell.group
    return {
        "block": group.block,
        "in_flight": group.in_flight,
        "writers": group.writers,
        "setting": cell.setting,
        "rounds": sorted(runs),
        "block_bytes": statistics.median(run["bytes"] / run["blocks"] for run in all_runs),
        "blocks_per_s": spread(run["blocks_per_s"] for run in all_runs),
        "bytes_per_s": spread(run["bytes_per_s"] for run in all_runs),
        "rows_per_s": spread(run["rows_per_s"] for run in all_runs),
        "ack_us": {name: statistics.median(run["ack_us"][name] for run in all_runs) for name in PERCENTILES},
        "fsyncs_per_s": statistics.median(run["fsync"]["count"] / run["seconds"] for run in all_runs),
        "fsync_p50_us": statistics.median(run["fsync"]["us"]["p50"] for run in all_runs),
        "bound_by": dict(Counter(run["bound_by"] for run in all_runs if run.get("bound_by"))),
        "warnings": sorted({warning for run in all_runs for warning in run.get("warnings", [])}),
        "stalls": {"count": len(stalls), "longest_ms": max((length for _, length in stalls), default=0)},
        "io": sorted({run["settings"]["io"] for run in all_runs}),
    }


def comparison(cells, group, of, against):
    """What `of` costs against `against`; `None` where no round has both."""
    runs = [cells.get(matrix.Cell(group, setting), {}) for setting in (of, against)]
    ratios = paired_ratios(*({number: run["blocks_per_s"] for number, run in side.items()} for side in runs))
    if not ratios:
        return None
    middle, ends = statistics.median(ratios), interval(ratios)
    return {
        "block": group.block,
        "in_flight": group.in_flight,
        "writers": group.writers,
        "of": of,
        "against": against,
        "rounds": len(ratios),
        "ratios": ratios,
        "ratio": {"median": middle, "interval": ends},
        "drop_percent": {
            "median": drop_percent(middle),
            "interval": ends and [drop_percent(ends[1]), drop_percent(ends[0])],
        },
        "bound_by": sorted({run["bound_by"] for side in runs for run in side.values() if run.get("bound_by")}),
    }


def comparisons(cells):
    """Each setting against level 1, (2,0) also against (2,3000), and each against the plain file."""
    found = []
    for group in sorted({cell.group for cell in cells}, key=group_place):
        settings = sorted((cell.setting for cell in cells if cell.group == group), key=matrix.place)
        pairs = [(setting, matrix.LEVEL_1) for setting in settings if setting.startswith("(2,")]
        pairs.append((matrix.level_2(0), matrix.level_2(3000)))
        pairs += [(setting.removeprefix(matrix.FILE), setting) for setting in settings if setting.startswith(matrix.FILE)]
        found += [comparison(cells, group, *pair) for pair in pairs]
    return [entry for entry in found if entry]


def group_place(group):
    blocks = list(matrix.BLOCKS)
    known = blocks.index(group.block) if group.block in blocks else len(blocks)
    return known, group.block, group.in_flight, group.writers


def summarize(found):
    """All of summary.json."""
    cells = by_cell(found)
    in_order = sorted(cells, key=lambda cell: (group_place(cell.group), matrix.place(cell.setting)))
    unusable = [record for record in found if why_unusable(record)]
    names = ("round", "block", "in_flight", "writers", "setting")
    return {
        "schema": SCHEMA,
        "runs": len(found),
        "rounds": len({record["round"] for record in found}),
        "left_out": [{name: record[name] for name in names} | {"why": why_unusable(record)} for record in unusable],
        "cells": [cell_summary(cell, cells[cell]) for cell in in_order],
        "comparisons": comparisons(cells),
    }


READINGS = ((matrix.level_2(3000), matrix.LEVEL_1), (matrix.level_2(0), matrix.level_2(3000)))


def gate(summary, max_drop, writers):
    """Judges both readings of the published figure in every load with so many writers by their median drop."""
    judged = [entry for entry in summary["comparisons"] if (entry["of"], entry["against"]) in READINGS]
    judged = [entry for entry in judged if entry["writers"] == writers]
    beyond = [entry for entry in judged if entry["drop_percent"]["median"] > max_drop]
    return {"max_drop_percent": max_drop, "writers": writers, "judged": len(judged), "beyond": beyond}
