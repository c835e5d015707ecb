"""What fsync costs on this disk, started by scripts/compare-fsync.sh.

load-test measures, one process a run; this program decides what runs when, records each run as it ends, and
says what the settings cost. Every round has level 1 and the plain file in it, so that each ratio is one of
runs that were neighbours. Exit codes: 0 done, 1 failure, 2 usage, 3 a drop beyond --max-drop, 130 interrupted.
"""

import argparse
import datetime
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
from compare_fsync import machine, matrix, plots, report, summary  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
WARMUP_SECONDS = 0.3
PRESETS = {
    # More than 3 s, or (2,3000) would never sync.
    "quick": {"rounds": 5, "seconds": 3.5},
    "full": {"rounds": 6, "seconds": 6.0},
}
# The quick preset ends within five minutes on whatever disk: with fewer rounds, at worst in the middle of one.
QUICK_SECONDS = 285
# What one run may take beside its seconds, however slow the disk.
STUCK_SECONDS = 600
# A gate judges the load that the published figure speaks of.
GATE_WRITERS = 50
GATED = {setting for reading in summary.READINGS for setting in reading}


def words(allowed):
    """For an option that takes some of these, with commas between them."""

    def parse(text):
        found = [allowed.get(word) for word in text.split(",")]
        if None in found:
            raise argparse.ArgumentTypeError(f"'{text}': some of {','.join(allowed)}, with commas between them")
        return list(dict.fromkeys(found))

    return parse


def numbers(least, most):
    def parse(text):
        try:
            found = [int(word) for word in text.split(",")]
        except ValueError:
            found = [least - 1]
        if not all(least <= number <= most for number in found):
            raise argparse.ArgumentTypeError(f"'{text}': numbers of {least}..={most}, with commas between them")
        return sorted(set(found))

    return parse


def options(arguments):
    parser = argparse.ArgumentParser(prog="compare-fsync.sh", description=__doc__.partition("\n\n")[0])
    lasting = "quick: less than 5 minutes; full: the matrix, hours"
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=lasting)
    disk = "a folder on the disk to measure (default: target/measure here)"
    parser.add_argument("--dir", default=ROOT / "target/measure", help=disk)
    parser.add_argument("--out", help="folder of the results (default: results/DATE-HOST-COMMIT)")
    parser.add_argument("--rounds", type=int, help="how often each setting is run")
    parser.add_argument("--seconds", type=float, help="how long each run is measured")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the runs (default: %(default)s)")
    gate = "exit 3 where (2,3000) against (1), or (2,0) against (2,3000), costs more in the median of the paired ratios"
    parser.add_argument("--max-drop", type=float, metavar="PERCENT", help=gate)
    judged = "the loads that --max-drop judges (default: %(default)s writers)"
    parser.add_argument("--gate-writers", type=int, default=GATE_WRITERS, metavar="N", help=judged)
    parser.add_argument("--redraw", metavar="DIR", help="summary and plots again, from DIR/runs.jsonl; measures nothing")
    parser.add_argument("--load-test", metavar="PROGRAM", help="measure with this one, and build none")
    axes = parser.add_argument_group("the matrix, where it is not the preset's; what is not named is as in full")
    axes.add_argument("--blocks", type=words(matrix.BLOCK_WORDS), help=",".join(matrix.BLOCK_WORDS))
    axes.add_argument("--writers", type=numbers(1, 10_000), help="such as 1,50")
    axes.add_argument("--in-flight", type=numbers(1, 65_536), help="such as 1,16")
    axes.add_argument("--periods", type=numbers(0, 180_000), help="of level 2, in ms, such as 0,3000")
    parser.add_argument("extra", nargs="*", metavar="-- OPTIONS", help="for every load-test, such as --shards 4")
    found = parser.parse_args(arguments)
    preset = PRESETS[found.preset]
    # Who says how long, says that it may take longer than five minutes.
    axes_given = any((found.blocks, found.writers, found.in_flight, found.periods))
    found.bounded = found.preset == "quick" and not (found.rounds or found.seconds or axes_given)
    found.rounds = preset["rounds"] if found.rounds is None else found.rounds
    found.seconds = preset["seconds"] if found.seconds is None else found.seconds
    if found.rounds < 1 or found.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    if found.preset == "full" or axes_given:
        axis = (found.blocks or list(matrix.BLOCKS), found.in_flight or matrix.IN_FLIGHT)
        found.groups = matrix.product(*axis, found.writers or matrix.WRITERS, found.periods or matrix.PERIODS_MS)
    else:
        found.groups = matrix.quick()
    if found.max_drop is not None and not found.redraw and not any(is_gated(cells, found.gate_writers) for cells in found.groups.values()):
        judged = f"{found.gate_writers} writers at (1), (2,3000) and (2,0)"
        parser.error(f"--max-drop judges {judged}: nothing of the matrix; see --gate-writers")
    return found


def is_gated(cells, writers):
    """Whether --max-drop can judge a load of the matrix."""
    return cells[0].group.writers == writers and GATED <= {cell.setting for cell in cells}


class Runner:
    """Starts load-test, and records what it says."""

    def __init__(self, asked):
        self.asked, self.out = asked, None
        self.folder = Path(asked.dir) / "compare-fsync"
        # Held to the end: of two comparisons in one folder the second must not remove what the first one needs.
        self.lock = os.open(asked.dir, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"error: another comparison works in {asked.dir}") from None
        # What load-test left that was killed has its mark, and is removed by the next one.
        if self.folder.exists() and not (self.folder / "LOAD-TEST").exists():
            raise SystemExit(f"error: {self.folder} is there already; remove it or name another --dir")
        self.began = time.monotonic()
        self.longest = 0.0

    def load_test(self, cell, more=()):
        """(what it says, problem or `None`, seconds) of one process. Ctrl-C ends it before it ends this one."""
        command = [self.asked.program, "--dir", str(self.folder), "--repeat", "1", "--json", "-"]
        command += [*cell.options(), *self.asked.extra, *more]
        began = time.monotonic()
        # In a session of its own: a Ctrl-C comes here alone, and is passed on once.
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        try:
            text, complaint = child.communicate(timeout=self.asked.seconds + STUCK_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return None, "it did not end", time.monotonic() - began
        except KeyboardInterrupt:
            end(child)
            raise
        seconds = time.monotonic() - began
        self.longest = max(self.longest, seconds)
        if child.returncode != 0:
            # What a failed run wrote it keeps for its user: here it would be in the way of the next one.
            shutil.rmtree(self.folder, ignore_errors=True)
            last = (complaint.strip().splitlines() or ["it said nothing"])[-1]
            return None, f"exit code {child.returncode}: {last}", seconds
        return json.loads(text.splitlines()[-1]), None, seconds

    def probe(self):
        """Seconds that a run takes beside its own: opening, the last sync, closing and removing. Also shows
        that load-test runs there at all."""
        cell = next(iter(self.asked.groups.values()))[0]
        run, problem, seconds = self.load_test(cell, ["--seconds", "0.2", "--warmup", "0"])
        if problem:
            raise SystemExit(f"error: load-test {shlex.join(cell.options())}: {problem}")
        return max(0.0, seconds - run["seconds"])

    def record(self, cell, number, place):
        """One run as a line of runs.jsonl, at once: an interrupted comparison keeps what it did."""
        group = cell.group
        slug = f"{group.block.replace(' ', '').replace(',', '')}-{group.writers}-{group.in_flight}"
        histogram = self.out / "histograms" / f"new-{slug}.hlog"
        started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        more = ["--seconds", str(self.asked.seconds), "--warmup", str(WARMUP_SECONDS), "--hdr", str(histogram)]
        try:
            run, problem, seconds = self.load_test(cell, more)
            if not problem:
                keep_histogram(histogram, self.out / "histograms" / f"{slug}.hlog", number)
        finally:
            histogram.unlink(missing_ok=True)
        record = {
            "schema": summary.SCHEMA,
            "round": number,
            "place": place,
            "started": started,
            "wall_seconds": round(seconds, 3),
            "block": group.block,
            "in_flight": group.in_flight,
            "writers": group.writers,
            "setting": cell.setting,
            "options": shlex.join([*cell.options(), *self.asked.extra]),
            "error": problem,
            "run": run,
        }
        with open(self.out / "runs.jsonl", "a") as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
        return problem or f"{run['blocks_per_s']:,.0f} blocks/s"

    def is_late(self):
        """Whether a run that takes as long as the longest so far would end behind the five minutes."""
        return self.asked.bounded and time.monotonic() - self.began + self.longest > QUICK_SECONDS + 10

    def run(self):
        """All rounds. Returns whether it got to the end."""
        total = self.asked.rounds * sum(map(len, self.asked.groups.values()))
        done = 0
        for number in range(1, self.asked.rounds + 1):
            for place, cell in enumerate(matrix.order(self.asked.groups, self.asked.seed, number)):
                if self.is_late():
                    say(f"ends here, in round {number}: it would take more than five minutes")
                    return False
                said = self.record(cell, number, place)
                done += 1
                say(f"{done}/{total} round {number}: {report.load(vars(cell.group))}, {cell.setting}: {said}")
        return True


def end(child):
    """Asks a load-test to end, as Ctrl-C would, and makes it."""
    for sent in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        child.send_signal(sent)
        try:
            child.communicate(timeout=20)
            return
        except subprocess.TimeoutExpired:
            continue


def keep_histogram(new, log, number):
    """Moves the run's interval behind those of its load, with the round's number in its tag."""
    lines = new.read_text().splitlines(keepends=True)
    is_interval = [line.startswith("Tag=") for line in lines]
    head = [line for line, interval in zip(lines, is_interval) if not interval and not log.exists()]
    runs = [line.replace("-run-1,", f"-run-{number},", 1) for line, interval in zip(lines, is_interval) if interval]
    with open(log, "a") as file:
        file.writelines(head + runs)


def say(text):
    print(text, file=sys.stderr, flush=True)


def build(asked):
    """The load-test to measure with."""
    if asked.load_test:
        return str(Path(asked.load_test).resolve())
    environment = os.environ | {"FOREBAY_COMMIT": machine.commit(ROOT)}
    command = ["cargo", "build", "--locked", "--release", "--bin", "load-test"]
    if subprocess.run(command, env=environment, cwd=ROOT).returncode != 0:
        raise SystemExit("error: load-test cannot be built")
    return str(ROOT / "target/release/load-test")


def folder_for(asked):
    """A new folder for the results: one that is there is never written to."""
    if asked.out:
        out = Path(asked.out)
        if out.exists() and any(out.iterdir()):
            raise SystemExit(f"error: --out {out}: not empty; --redraw {out} draws it again")
    else:
        name = f"{ROOT}/results/{datetime.date.today()}-{machine.host()}-{machine.commit(ROOT)}"
        others = (Path(f"{name}-{number}") for number in range(2, 1000))
        out = next(path for path in (Path(name), *others) if not path.exists())
    (out / "histograms").mkdir(parents=True, exist_ok=True)
    return out


def write_env(out, asked, load, overhead, estimate):
    plan = {"preset": asked.preset, "rounds": asked.rounds, "seconds": asked.seconds, "warmup_seconds": WARMUP_SECONDS}
    plan |= {"seed": asked.seed, "load_test_options": asked.extra, "groups": len(asked.groups)}
    plan |= {"runs_a_round": sum(map(len, asked.groups.values())), "estimated_seconds": round(estimate)}
    more = {"load_average": load, "plan": plan, "seconds_beside_a_run": round(overhead, 3)}
    env = machine.describe(asked.dir, ROOT) | more
    (out / "env.json").write_text(json.dumps(env, indent=2) + "\n")
    return env


def measure(asked):
    """Everything up to runs.jsonl. Returns its folder, and whether it was interrupted."""
    Path(asked.dir).mkdir(parents=True, exist_ok=True)
    # Before the building and the first run, which are load too.
    load = os.getloadavg()
    asked.program = build(asked)
    runner = Runner(asked)
    overhead = runner.probe()
    runner.out = out = folder_for(asked)
    a_run = asked.seconds + WARMUP_SECONDS + overhead
    a_round = a_run * sum(map(len, asked.groups.values()))
    if asked.bounded:
        asked.rounds = max(1, min(asked.rounds, int((QUICK_SECONDS - overhead) // a_round)))
    estimate = a_round * asked.rounds
    env = write_env(out, asked, load, overhead, estimate)
    runs = asked.rounds * env["plan"]["runs_a_round"]
    times = f"{asked.seconds} s a run and {overhead:.1f} s beside it"
    say(f"{asked.preset}: {runs} runs, {asked.rounds} of each setting: about {estimate / 60:.1f} minutes, {times}")
    say(f"results: {out}")
    if asked.bounded and a_round * asked.rounds > QUICK_SECONDS:
        say("this disk is too slow for a whole round in five minutes: it will end in the middle of one")
    if env["load_average"][0] > 0.5 * env["cpu"]["cores"]:
        say(f"warning: the machine is busy (load {env['load_average'][0]:.1f}); figures of a busy machine are noise")
    try:
        runner.run()
        return out, False
    except KeyboardInterrupt:
        say("interrupted: what was measured so far follows")
        return out, True
    finally:
        shutil.rmtree(runner.folder, ignore_errors=True)


def conclude(out, asked):
    """Summary, plots and verdict of what is in runs.jsonl. Returns the exit code."""
    path = out / "runs.jsonl"
    if not path.exists():
        raise SystemExit(f"error: {path} is not there: nothing was measured")
    found = summary.records(path)
    figures = summary.summarize(found)
    if asked.max_drop is not None:
        figures["gate"] = summary.gate(figures, asked.max_drop, asked.gate_writers)
    env = json.loads((out / "env.json").read_text()) if (out / "env.json").exists() else None
    (out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    (out / "summary.md").write_text(report.markdown(figures, env))
    if figures["cells"]:
        for name, draw in plots.ALL.items():
            (out / name).write_text(draw(figures, found), encoding="ascii", errors="xmlcharrefreplace")
    print(report.drops(figures))
    say(f"{out / 'summary.md'} and {', '.join(plots.ALL)}")
    for record in figures["left_out"]:
        say(f"left out: round {record['round']}, {report.load(record)}, {record['setting']}: {record['why']}")
    if "gate" not in figures:
        return 1 if figures["left_out"] else 0
    verdict, code = report.verdict(figures["gate"])
    print(verdict)
    return max(code, 1 if figures["left_out"] else 0)


def main(arguments):
    asked = options(arguments)
    # SIGINT too: a shell that starts this in the background has it ignored.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    try:
        out, interrupted = (Path(asked.redraw), False) if asked.redraw else measure(asked)
        if interrupted and not (out / "runs.jsonl").exists():
            return 130
        code = conclude(out, asked)
    except KeyboardInterrupt:
        return 130
    return 130 if interrupted else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
