#!/usr/bin/env python3
"""Prints records of `peers` and systems.py as Markdown tables: medians, and ratios against Forebay.

    benches/peers/summary.py FILE.jsonl...

One table for each block size and sync mode. The lines of one file come from one run; quote ratios within one.
Standard library only, Python 3.11.
"""

import json
import signal
import statistics
import sys

SCHEMA = "forebay.peers/1"
OWN = "forebay"
# What the disk gives: no peer.
CEILING = "fio-"
MODES = {"none": "no ack waits for a sync", "each": "each ack waits for a sync that covers it"}


def key(line):
    settings = line["settings"]
    return settings["block_bytes"], ["none", "each"].index(settings["sync"]), settings["writers"]


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median(lines, of):
    values = [value for value in map(of, lines) if value is not None]
    return statistics.median(values) if values else None


def ratio(own, other):
    return f"{own / other:.2f}" if own and other else "-"


def p99(line):
    return (line.get("ack_us") or {}).get("p99")


def table(title, lines):
    """One table, and what follows from it."""
    engines, beside = {}, []
    for line in lines:
        if "blocks_per_s" in line:
            engines.setdefault(line["engine"], []).append(line)
        else:
            why = "skipped: " + line["skipped"] if "skipped" in line else "FAILED: " + line.get("failed", "no figures")
            beside.append(f"- {line['engine']} {why}")
    speeds = {engine: median(found, lambda line: line["blocks_per_s"]) for engine, found in engines.items()}
    own = speeds.get(OWN)
    print(f"### {title}\n")
    if speeds:
        print("| engine | runs | blocks/s, median | least | most | ack p99 us, median | Forebay is so many times as fast |")
        print("|---|---:|---:|---:|---:|---:|---:|")
    for engine in sorted(speeds, key=speeds.get, reverse=True):
        found = engines[engine]
        each = [line["blocks_per_s"] for line in found]
        name = f"**{engine}**" if engine == OWN else f"{engine} (ceiling)" if engine.startswith(CEILING) else engine
        cells = [name, len(found), number(speeds[engine]), number(min(each)), number(max(each)), number(median(found, p99)),
                 "1" if engine == OWN else ratio(own, speeds[engine])]
        print("| " + " | ".join(map(str, cells)) + " |")
    peers = {engine: speed for engine, speed in speeds.items() if engine != OWN and not engine.startswith(CEILING)}
    if peers:
        best = max(peers, key=peers.get)
        than = f"; Forebay is {ratio(own, peers[best])} times as fast" if own else "; there is no run of Forebay"
        print(f"\nBest peer: {best}, {number(peers[best])} blocks/s{than}.")
    if beside:
        print("\n" + "\n".join(sorted(set(beside))))
    warnings = {f"- {line['engine']}: {warning}" for line in lines for warning in line.get("warnings", [])}
    if warnings:
        print("\n" + "\n".join(sorted(warnings)))
    print()


def main(names):
    if not names:
        sys.exit(__doc__)
    groups, systems = {}, set()
    for name in names:
        with open(name, encoding="utf-8") as file:
            for at, text in enumerate(file, 1):
                line = json.loads(text)
                if line.get("schema") != SCHEMA:
                    sys.exit(f"{name}:{at}: schema {line.get('schema')}, not {SCHEMA}")
                groups.setdefault(key(line), []).append(line)
                env = line.get("env") or {}
                if env:
                    systems.add(", ".join(str(env.get(part)) for part in ("commit", "kernel", "cpu", "cores", "file_system", "device")))
    for system in sorted(systems):
        print(f"Measured at (commit, kernel, CPU, cores, file system, device): {system}\n")
    for (block_bytes, mode, writers), lines in sorted(groups.items()):
        told = list(MODES.values())[mode]
        table(f"{block_bytes} bytes, {writers} writers, {told}", lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main(sys.argv[1:])
