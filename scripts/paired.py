#!/usr/bin/env python3
"""Builds of load-test, or ways to call one, against each other: every round runs each once, in random order, and
each is compared with the first of its round. Appends load-test's JSON lines to OUT, with `paired` naming round and
variant, and prints medians.

    scripts/paired.py OUT.jsonl [--rounds N] NAME=COMMAND NAME=COMMAND ...

A COMMAND is a path to load-test with options; --dir, --json and --repeat 1 are added. For example:

    scripts/paired.py OUT.jsonl 'before=/tmp/load-test-before --wal-level 1' 'after=target/release/load-test --wal-level 1'
"""

import argparse
import json
import random
import shlex
import statistics
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("variants", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default="target/measure/paired")
    arguments = parser.parse_args()
    variants = dict(variant.split("=", 1) for variant in arguments.variants)
    runs = {name: [] for name in variants}
    with open(arguments.out, "a", encoding="utf-8") as out:
        for number in range(1, arguments.rounds + 1):
            for name in random.sample(list(variants), len(variants)):
                subprocess.run(["sync"], check=True)
                options = ["--dir", arguments.dir, "--json", "-", "--repeat", "1"]
                command = [*shlex.split(variants[name]), *options]
                ran = subprocess.run(command, capture_output=True, text=True)
                if ran.returncode != 0:
                    sys.exit(f"{shlex.join(command)} ended with {ran.returncode}: {ran.stderr[-2000:]}")
                run = json.loads(ran.stdout.splitlines()[-1])
                run["paired"] = {"round": number, "variant": name, "command": shlex.join(command)}
                out.write(json.dumps(run) + "\n")
                out.flush()
                runs[name].append(run)
    first = runs[next(iter(variants))]
    print("| variant | blocks/s, median | least | most | times the first, median of rounds | ack p50 us | p99 us | blocks a batch |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, of_it in runs.items():
        pace = [run["blocks_per_s"] for run in of_it]
        ratio = statistics.median(a / b["blocks_per_s"] for a, b in zip(pace, first))
        middle = [statistics.median(run["ack_us"][key] for run in of_it) for key in ("p50", "p99")]
        batch = statistics.median(run["blocks_per_batch"] for run in of_it)
        print(f"| {name} | {statistics.median(pace):,.0f} | {min(pace):,.0f} | {max(pace):,.0f} | {ratio:.2f} "
              f"| {middle[0]:,.1f} | {middle[1]:,.1f} | {batch:.1f} |")


if __name__ == "__main__":
    main()
