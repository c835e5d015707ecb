#!/usr/bin/env python3
"""What the engine is held to on a disk, measured in one interleaved run: every round has each load once, in random
order. Appends a JSON line for each run to OUT (load-test's or fio's, with `target` naming load and round), and prints
a table of the targets. --show prints it again from OUT. python3 and fio; about 20 minutes.

    scripts/targets.py OUT.jsonl [--rounds N] [--dir FOLDER-ON-THE-DISK-TO-MEASURE] [--only LOAD]... [--show]
"""

import argparse
import json
import operator
import os
import pathlib
import random
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = [128, 4096, 65536]
LEVEL_1 = "--wal-level 1"
PERIOD = "--wal-level 2 --wal-fsync-period 3000"
EACH = "--wal-level 2 --wal-fsync-period 0"
SETTINGS = {"(1)": LEVEL_1, "(2,3000)": PERIOD, "(2,0)": EACH}
FIO = "fio --name=targets --filename={file} --direct=1 --time_based --runtime=3 --output-format=json"
PATH_SECONDS = 60


def loads():
    """All that a round runs: a name, and options of load-test or a command of fio's."""
    found = {}
    for name, setting in SETTINGS.items():
        for size in SIZES:
            found[f"{size} B {name}"] = f"{setting} --block-bytes {size}"
        found[f"4096 B {name} 16 in flight"] = f"{setting} --block-bytes 4096 --in-flight 16"
        found[f"10000 rows {name}"] = f"{setting} --rows-per-block 10000 --store none"
    for name in ("(1)", "(2,0)"):
        for size in SIZES:
            found[f"{size} B {name} plain file"] = f"{SETTINGS[name]} --block-bytes {size} --baseline=only"
    for size in SIZES[1:]:
        found[f"{size} B (1) open loop"] = f"{LEVEL_1} --block-bytes {size} --rate {{half of {size} B (1)}}"
    found["4096 B (2,0) one writer"] = f"{EACH} --block-bytes 4096 --writers 1"
    found["fio sequential"] = f"{FIO} --rw=write --bs=1M --iodepth=4 --ioengine=io_uring --size=1G"
    found["fio psync"] = f"{FIO} --rw=write --bs=4k --ioengine=psync --fdatasync=1 --size=256M"
    return found


def whole_path():
    """Minutes, once each: lines to Parquet."""
    return {f"whole path {name}": f"{setting} --rows-per-block 1000 --store parquet --seconds {PATH_SECONDS}"
            for name, setting in SETTINGS.items()}


class Runs:
    def __init__(self, out, folder):
        self.out, self.folder, self.runs = out, folder, {}

    def load(self):
        for line in self.out.read_text(encoding="utf-8").splitlines():
            self.take(json.loads(line))

    def take(self, run):
        self.runs.setdefault(run["target"]["load"], []).append(run)

    def run(self, name, options, number):
        if "{half" in options:
            of = options[options.index("{half of ") + 9:options.index("}")]
            if of not in self.runs:
                return False
            options = options[:options.index("{")] + f"{self.middle(of, pace) / 2:.0f}"
        file = self.folder / "fio.dat"
        if options.startswith("fio "):
            command = shlex.split(options.format(file=file))
        else:
            command = [str(ROOT / "target/release/load-test"), "--dir", str(self.folder / "store"), "--json", "-",
                       "--repeat", "1", *shlex.split(options)]
            if "--seconds" not in command:
                command += ["--seconds", "3"]
        subprocess.run(["sync"], check=True)
        print(f"round {number}: {name}", file=sys.stderr, flush=True)
        ran = subprocess.run(command, capture_output=True, text=True)
        file.unlink(missing_ok=True)
        if ran.returncode != 0:
            sys.exit(f"{shlex.join(command)} ended with {ran.returncode}: {ran.stderr[-2000:]}")
        if command[0] == "fio":
            write = json.loads(ran.stdout)["jobs"][0]["write"]
            run = {"schema": "forebay.fio/1", "bytes_per_s": write["bw_bytes"], "blocks_per_s": write["iops"]}
        else:
            run = json.loads(ran.stdout.splitlines()[-1])
        run["target"] = {"load": name, "round": number, "command": shlex.join(command).replace(f"{ROOT}/", "")}
        with open(self.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(run) + "\n")
        self.take(run)
        return True

    def middle(self, name, figure):
        return statistics.median(figure(run) for run in self.runs[name])

    def ratio(self, name, to, figure):
        return self.middle(name, figure) / self.middle(to, figure)


def pace(run):
    return run["blocks_per_s"]


def band(run):
    return run["bytes_per_s"]


def latency(key, corrected=False):
    return lambda run: run["ack_us_corrected" if corrected else "ack_us"][key]


def least_second(run):
    return run["by_second"]["least_to_median"]


def targets(runs):
    """Each target of whose loads there are runs: what, how much is asked, the figure, and whether it holds."""
    rows = []

    def row(what, value, bound, asked, measured, holds):
        try:
            value = value()
        except KeyError as missing:
            if missing.args[0] not in {**loads(), **whole_path()}:
                raise
            return
        rows.append((what, asked, measured(value), holds(value, bound)))

    def at_most(what, bound, unit, value):
        row(what, value, bound, f"at most {bound:,} {unit}", lambda is_: f"{is_:,.1f} {unit}", operator.le)

    def at_least(what, bound, value):
        row(what, value, bound, f"at least {bound:,}", lambda is_: f"{is_:,.2f}", operator.ge)

    def drop(of, to):
        return 100 * (1 - runs.ratio(of, to, pace))

    for key, bound in (("p50", 1), ("p99", 10), ("p999", 1000)):
        at_most(f"level 1, 128 B, closed loop, {key} of an ack", bound, "us",
                lambda key=key: runs.middle("128 B (1)", latency(key)))
    for size in SIZES[1:]:
        at_most(f"level 1, {size} B, at half of the most, corrected p99.9", 5000, "us",
                lambda size=size: runs.middle(f"{size} B (1) open loop", latency("p999", True)))
    at_least("(2,0), 65536 B, bytes/s, against fio's sequential writes", 0.8,
             lambda: runs.ratio("65536 B (2,0)", "fio sequential", band))
    at_least("(2,0), 4096 B, one writer, against fio psync fdatasync=1", 0.9,
             lambda: runs.ratio("4096 B (2,0) one writer", "fio psync", pace))
    for size in SIZES:
        at_most(f"drop of (2,3000) against (1), {size} B", 3, "%",
                lambda size=size: drop(f"{size} B (2,3000)", f"{size} B (1)"))
    at_most("drop of (2,0) against (2,3000), requests of 10,000 rows", 15, "%",
            lambda: drop("10000 rows (2,0)", "10000 rows (2,3000)"))
    at_most("drop of (2,0) against (2,3000), 4096 B, 16 in flight", 20, "%",
            lambda: drop("4096 B (2,0) 16 in flight", "4096 B (2,3000) 16 in flight"))
    at_least("whole path, (2,0), rows/s up to the data files", 1_500_000,
             lambda: runs.middle("whole path (2,0)", lambda run: run["stored"]["rows_per_s"]))
    for what, key, bound in (("memory of the process", "memory_peak_bytes", 1024), ("the log", "wal_peak_bytes", 4096)):
        at_most(f"the same, {what}", bound, "MiB",
                lambda key=key: max(run["stored"][key] for run in runs.runs["whole path (2,0)"]) / 2**20)
    for name in ("(1)", "(2,3000)"):
        at_least(f"whole path, {name}, the slowest second against the median", 0.5,
                 lambda name=name: runs.middle(f"whole path {name}", least_second))
    return rows


def show(runs):
    print("| target | asked | measured | |\n|---|---:|---:|---|")
    for what, asked, measured, holds in targets(runs):
        print(f"| {what} | {asked} | {measured} | {'holds' if holds else 'MISSED'} |")
    print("\n| load | runs | blocks/s, median | least | most | MiB/s | ack p50 us | p99 | p99.9 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, of_it in sorted(runs.runs.items()):
        paces = sorted(map(pace, of_it))
        acks = ["", "", ""]
        if "ack_us" in of_it[0]:
            acks = [f"{runs.middle(name, latency(key, 'open loop' in name)):,.1f}" for key in ("p50", "p99", "p999")]
        print(f"| {name} | {len(of_it)} | {runs.middle(name, pace):,.0f} | {paces[0]:,.0f} | {paces[-1]:,.0f} "
              f"| {runs.middle(name, band) / 2**20:,.1f} | {' | '.join(acks)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "target/measure")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--only", action="append", metavar="LOAD",
                        help="this load of the second table, and no other; may be given again: many rounds of what "
                        "the noise of a few leaves open")
    arguments = parser.parse_args()
    runs = Runs(arguments.out, arguments.dir)
    every, path = loads(), whole_path()
    if arguments.only:
        if unknown := set(arguments.only) - set(every):
            sys.exit(f"no such load: {', '.join(unknown)}; there are: {', '.join(every)}")
        every, path = {name: every[name] for name in every if name in arguments.only}, {}
    if arguments.show:
        runs.load()
        show(runs)
        return
    if arguments.out.exists():
        sys.exit(f"{arguments.out} is there: name another file, or print its table with --show")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    os.environ["FOREBAY_COMMIT"] = commit.stdout.strip()
    subprocess.run(["cargo", "build", "--release", "--bin", "load-test"], cwd=ROOT, check=True)
    arguments.dir.mkdir(parents=True, exist_ok=True)
    for number in range(1, arguments.rounds + 1):
        left = list(every.items())
        random.shuffle(left)
        while left:
            # One that depends on another of this round waits for it.
            left = [(name, options) for name, options in left if not runs.run(name, options, number)]
    for number in range(1, max(1, arguments.rounds // 3) + 1):
        for name, options in random.sample(list(path.items()), len(path)):
            runs.run(name, options, number)
    show(runs)


if __name__ == "__main__":
    main()
