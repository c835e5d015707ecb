"""The release run, started by scripts/torture.sh.

Each part is a fault's proof with the count of a release, cut into chunks, which as many jobs work off as
there are cores. A chunk that has ended is a line of the record at once: an interrupted run keeps what it
did, and started again at the same commit it goes on behind it. How much ran is read from what the programs
print, never from what they were asked for; a part that does not say it, ran less than asked, or found
something has failed.
"""

import argparse
import datetime
import json
import math
import os
import platform
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SCHEMA = "forebay.torture/1"
LOGS = Path("target/torture")
PAGE = Path("docs/durability.md")
# No chunk takes so long, on however busy a machine.
STUCK_SECONDS = 3 * 3600
# Violations of one chunk after which it is given up.
VIOLATIONS_MAX = 20
# Chunks beside the planned ones, for a part whose chunks come to less than was asked.
MORE_CHUNKS = 20
CLASSES_OF_FLIPS = 14
FLIPS_A_CLASS = 5
OF_THE_RING = ("ring header", "ring's freed mark", "ring slot", "ring bytes")


class Part:
    """A fault's proof with the count that a release asks for, in units that its programs print."""

    def __init__(self, name, asked, unit, rows, chunk=None, title=None):
        self.name, self.asked, self.unit, self.rows = name, asked, unit, rows
        self.chunk = chunk or asked
        # How the unit reads in the table of faults.
        self.title = title or unit

    def scale(self, factor):
        # Whole chunks of a small run would be larger than what is asked.
        self.asked = max(1, math.ceil(self.asked * factor))
        self.chunk = min(self.chunk, self.asked)
        return self


class Test(Part):
    """A test that runs as often as a variable of the environment says, and prints how often it ran."""

    def __init__(self, name, asked, unit, rows, program, test, said, variable=None, each=1.0, **more):
        super().__init__(name, asked, unit, rows, **more)
        self.program, self.test, self.said, self.variable, self.each = program, test, re.compile(said, re.M), variable, each

    def scale(self, factor):
        # What runs once runs once.
        return super().scale(factor) if self.variable else self

    def run(self, job, number, amount):
        environment = {self.variable: str(math.ceil(amount / self.each - 1e-9))} if self.variable else {}
        exact = [] if self.test.endswith("::") else ["--exact"]
        arguments = [self.test, *exact, "--nocapture", "--test-threads=1"]
        shown = ["cargo", "test", "--locked", "--all-features", "--test", self.program, "--", *arguments]
        code, text = job.run([job.built[self.program], *arguments], shown, environment)
        found = self.said.findall(text)
        ran = sum(int(count) for count in found) if self.said.groups else len(found)
        counts = {self.unit: ran}
        seeds = re.findall(r"FOREBAY_\w*SEED=(\d+)", text)
        passed = re.search(r"^test result: ok\. [1-9]", text, re.M) and "SKIPPED" not in text
        if code == 0 and not passed:
            job.problem("the test was skipped, or is not there")
        elif code == 0 and ran == 0:
            job.problem("it does not say how often it ran")
        violations = [last_of(text)] if code != 0 else []
        return counts, sorted(set(seeds)), violations


class Simulate(Part):
    """Histories of one world of the simulator. Behind a violation it goes on with the next seed."""

    def __init__(self, name, asked, rows, arguments, unit="histories", a_seed=1, **more):
        super().__init__(name, asked, unit, rows, **more)
        self.arguments, self.a_seed = arguments, a_seed

    def run(self, job, number, amount):
        seeds = math.ceil(self.chunk / self.a_seed)
        first = number * seeds
        end = first + math.ceil(amount / self.a_seed)
        counts, violations, at = {}, [], first
        while at < end:
            arguments = ["--seeds", f"{at}..{end}", *self.arguments]
            shown = ["cargo", "run", "--release", "--features", "sim", "--bin", "simulate", "--", *arguments]
            code, text = job.run([job.built["simulate"], *arguments], shown, {})
            for name, count in self.counted(text).items():
                counts[name] = counts.get(name, 0) + count
            found = re.search(r"^seed (\d+) life .*$", text, re.M)
            if not found:
                if code != 0:
                    violations.append(last_of(text))
                break
            repeat = re.search(r"^repeat with: (.*?)(?: --trace)?$", text, re.M)
            violations.append(found.group(0) + (f"; {repeat.group(1)}" if repeat else ""))
            at = int(found.group(1)) + 1
            if len(violations) >= VIOLATIONS_MAX:
                job.problem(f"given up after {VIOLATIONS_MAX} violations")
                break
        if not counts.get(self.unit):
            job.problem("it does not say how many ran")
        return counts, f"{first}..{end}", violations

    def counted(self, text):
        line = re.search(r"^(\d+) seeds in ", text, re.M)
        # The one that failed is not in it.
        return {self.unit: int(line.group(1)) + ("before the first violation" in text)} if line else {}


class Flips(Simulate):
    """Flipped bits in every class of bytes, counted by class."""

    def counted(self, text):
        counts = {}
        for name, flips, silent, refused in re.findall(
            r"^(\S.*?) +(\d+) flips: .*?(\d+) silent losses, (\d+) false refusals$", text, re.M
        ):
            if name == "all":
                counts |= {"flips": int(flips), "silent losses": int(silent), "false refusals": int(refused)}
            else:
                counts[f"flips: {name}"] = int(flips)
        return counts


class Fuzz(Part):
    """libFuzzer on every target, one after the other; what is asked is seconds for each."""

    def run(self, job, number, amount):
        command = ["scripts/fuzz.sh", "--seconds", str(amount)]
        code, text = job.run(command, command, {})
        lines = re.findall(r"^(\w+) +(\d+) +\d+ +\d+ +\S+ +\d+$", text, re.M)
        counts = {f"executions: {target}": int(count) for target, count in lines}
        if not lines or not all(counts.values()):
            job.problem("a target does not say how many inputs ran")
        else:
            counts[self.unit] = amount
        return counts, [], [last_of(text)] if code != 0 else []


def parts(worlds):
    """All parts, by the name of their group: those before the first '/'."""
    def rig(name, asked, each, test, rows, title, chunk, said=r"^(?:\w+: )?(\d+) states"):
        return Test(f"rig/{name}", asked, "states", rows, "rig", f"power_cut::{test}", said, "FOREBAY_RIG_STATES",
                    each, chunk=chunk, title=title)

    def on_all(name, asked, each, test, rows, title, chunk):
        """On ext4, a tenth on XFS, a fiftieth on btrfs."""
        return [
            rig(name, asked, each, test, rows, title, chunk),
            rig(f"{name}-xfs", asked // 10, each / 10, f"{test}_on_xfs", rows, title, chunk // 10),
            rig(f"{name}-btrfs", asked // 50, each / 50, f"{test}_on_btrfs", rows, title, chunk // 10),
        ]

    def full(name, asked, each, test):
        return Test(f"rig/{name}", asked, "full disks", [10], "rig", f"disk_full::{test}", r"(\d+) times filled",
                    "FOREBAY_RIG_STATES", each)

    def fault(name, test, row):
        # Each of 1st to 100th, at each of the three settings.
        return Test(f"rig/{name}", 300, "faults", [row], "rig", f"disk_faults::{test}", r"(\d+) faults",
                    "FOREBAY_RIG_FAULTS", 3)

    def kills(name, asked, chunk, program, test, rows, said=r"(\d+) kills"):
        return Test(f"kills/{name}", asked, "kills", rows, program, test, said, "FOREBAY_KILLS", chunk=chunk)

    cuts, deep, log = [2, 3, 36], [4], [2, 3, 4, 7, 36]
    filled = "a_full_disk_loses_nothing_and_always_starts"
    found = [
        # 5,000 states of each of three kinds, spread over three settings; on XFS a tenth, on btrfs a fiftieth.
        rig("ext4-level-1", 5000, 1, "ext4_at_level_1", cuts, "states on ext4", 500),
        rig("ext4-level-2-period", 5000, 1, "ext4_at_level_2_with_a_period", cuts, "states on ext4", 500),
        rig("ext4-level-2-fsync", 5000, 1, "ext4_at_level_2_with_fsync", cuts, "states on ext4", 500),
        rig("xfs", 1500, 0.3, "xfs_at_every_setting", cuts, "on XFS", 150),
        rig("btrfs", 300, 0.06, "btrfs_at_every_setting", cuts, "on btrfs", 60),
        *on_all("data-files", 1500, 0.3, "every_row_is_in_the_data_files_once", [*cuts, 30], "with data files", 300),
        *on_all("twice-deep", 1000, 0.2, "a_cut_during_recovery_twice_deep", deep, "states two recoveries deep", 100),
        # 1,000 of either kind.
        *on_all("lost-writes", 2000, 0.4, "lost_and_misdirected_writes_are_named_and_never_silent", [7], "states", 400),
        # Each is killed three times while it is full, and cut.
        full("full-disk", 72, 1 / 70, filled),
        full("full-disk-xfs", 8, 1 / 700, f"{filled}_on_xfs"),
        fault("write-errors", "every_nth_write_that_fails", 9),
        fault("flush-errors", "every_nth_flush_that_fails", 8),
        # All tests of that name.
        Test("controls", 4, "planted bugs found", [], "rig", "controls::", r": found (?:in state|at flush) \d+"),
    ]
    rows_of = {"shard": [*log, 10, 12, 31], "shards": [*log], "files": [2, 4, 30, 31],
               "sites": [14, 15, 16, 17, 33]}
    for world, asked in worlds.items():
        chunk = {"shard": 100_000, "shards": 20_000, "sites": 2_000}.get(world, 50_000)
        found.append(Simulate(f"sim/{world}", asked, rows_of.get(world, []), ["--world", world], chunk=chunk,
                              title="histories"))
    found += [
        # About 1,400 histories of 70 flips a chunk; some classes are not in every history.
        Flips("flips", 1_000_000, [5, 6, 34], ["--flips", str(FLIPS_A_CLASS)], unit="flips",
              a_seed=CLASSES_OF_FLIPS * FLIPS_A_CLASS, chunk=70_000, title="flips"),
        # 2,000 in all.
        kills("level-1", 500, 50, "kill", "a_kill_loses_nothing_acknowledged_at_level_1", [1]),
        kills("level-2-period", 500, 50, "kill", "a_kill_loses_nothing_acknowledged_at_level_2_with_a_period", [1]),
        kills("level-2-fsync", 500, 50, "kill", "a_kill_loses_nothing_acknowledged_at_level_2_with_fsync", [1]),
        kills("data-files", 500, 50, "data_kill",
              "a_kill_at_any_step_leaves_every_acknowledged_row_in_the_data_files_once", [1, 30]),
        Test("crash-loop", 300, "kills", [35], "kill", "a_crash_loop_loses_nothing_and_leaves_a_bounded_store_that_starts",
             r"(\d+) kills", "FOREBAY_CRASH_LOOPS", title="kills of one store"),
        Test("races", 100, "races", [29], "faults", "of_two_who_open_one_store_one_is_refused_and_changes_nothing",
             r"(\d+) races", "FOREBAY_RACES"),
    ]
    def links(name, asked, row, program, test, said, variable):
        return Test(f"links/{name}", asked, said.rpartition(") ")[2], row, program, test, said, variable)

    # Real nodes and connections.
    found += [
        links("proxy", 30, [15, 16], "network",
              "a_way_that_is_disturbed_in_any_manner_loses_nothing_and_brings_nothing_twice", r"(\d+) times disturbed",
              "FOREBAY_CUTS"),
        links("namespaces", 30, [15], "network",
              "two_machines_whose_network_is_cut_or_works_one_way_only_go_on_with_each_other", r"^(\d+) times cut",
              "FOREBAY_NAMESPACE_CUTS"),
        links("tricklers", 200, [21], "network", "who_trickles_is_put_out_and_keeps_nobody_from_anything",
              r"(\d+) tricklers", "FOREBAY_TRICKLERS"),
        links("backfill", 20, [18], "backfill",
              "a_follower_behind_the_log_that_is_killed_again_and_again_has_every_row_once", r"(\d+) backfills",
              "FOREBAY_BACKFILLS"),
    ]
    for target in ("batch", "segment", "scan", "ring", "manifest", "lines", "config", "wire"):
        found.append(Test(f"fuzz-smoke/{target}", 100_000, "inputs", [6] if target == "scan" else [], "fuzz_smoke",
                          target, r"(\d+) inputs", "FOREBAY_FUZZ_RUNS", title="inputs"))
    found.append(Fuzz("fuzz", 600, "seconds a target", []))
    return found


# Only where it is named: it needs a C++ compiler and builds everything anew.
NAMED_ONLY = ("fuzz",)


def last_of(text):
    """What a program said in the end: the panic, if there is one."""
    lines = [line for line in text.splitlines() if line.strip()]
    at = next((at for at, line in enumerate(lines) if "panicked at" in line), max(0, len(lines) - 5))
    return "\n".join(lines[at:at + 6])[:2000]


class Interrupted(Exception):
    """The run is to end."""


class Job:
    """One chunk under way: the commands that it ran, and what went wrong beside violations."""

    def __init__(self, run, part, number):
        self.of, self.built = run, run.built
        self.log = LOGS / f"{part.name.replace('/', '-')}-{number}.log"
        self.commands, self.problems = [], []

    def problem(self, text):
        self.problems.append(text)

    def run(self, command, shown, environment):
        variables = [f"{name}={value}" for name, value in environment.items()]
        self.commands.append(shlex.join([*variables, *shown]))
        full = os.environ | {"REQUIRE_RIG": "1", "RUST_BACKTRACE": "0"} | environment
        with open(self.log, "ab") as log:
            start = log.tell()
            with self.of.lock:
                if self.of.killed:
                    raise Interrupted
                child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                         env=full, start_new_session=True)
                self.of.children.add(child)
            try:
                code = child.wait(STUCK_SECONDS)
            except subprocess.TimeoutExpired:
                end(child)
                code = child.wait()
                self.problem(f"no end within {STUCK_SECONDS} s")
            finally:
                with self.of.lock:
                    self.of.children.discard(child)
        if self.of.killed:
            raise Interrupted
        text = self.log.read_bytes()[start:].decode(errors="replace")
        return code, text


def end(child):
    """Ends a process that we started, and what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Run:
    """The parts being worked off, and the record of it."""

    def __init__(self, chosen, out, built, header):
        self.parts = {part.name: part for part in chosen}
        self.built = built
        self.lock = threading.Lock()
        self.over, self.killed, self.children = False, False, set()
        self.lines, self.started = [], {}
        if out.exists():
            self.lines = read_record(out)
            same = {key: self.lines[0].get(key) for key in ("commit", "scale")}
            if same != {key: header[key] for key in same}:
                sys.exit(f"{out} is of another run ({same}): name another file with --out, or remove it")
            print(f"going on with {out}")
        self.out = open(out, "a", encoding="utf-8")
        if not self.lines:
            self.write(header)
        self.queue = queue.SimpleQueue()
        self.planned = {}
        for part in chosen:
            done = {line["chunk"] for line in self.of(part)}
            chunks = math.ceil(part.asked / part.chunk)
            self.planned[part.name] = max(chunks, max(done, default=-1) + 1)
            for number in range(chunks):
                if number not in done:
                    self.queue.put((part, number, min(part.chunk, part.asked - number * part.chunk)))
            if all(number in done for number in range(chunks)):
                self.go_on(part)

    def of(self, part):
        return [line for line in self.lines if line["kind"] == "chunk" and line["part"] == part.name]

    def write(self, line):
        self.lines.append(line)
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()
        os.fsync(self.out.fileno())

    def go_on(self, part):
        """Another chunk, where all that were planned came to less than was asked."""
        done = self.of(part)
        missing = part.asked - sum(line["counts"].get(part.unit, 0) for line in done)
        failed = any(line["problems"] for line in done)
        planned = self.planned[part.name]
        if missing > 0 and not failed and planned < math.ceil(part.asked / part.chunk) + MORE_CHUNKS:
            self.planned[part.name] = planned + 1
            self.queue.put((part, planned, min(part.chunk, missing)))

    def work(self):
        while not self.over:
            try:
                part, number, amount = self.queue.get_nowait()
            except queue.Empty:
                # Another job's chunk may still ask for one more.
                with self.lock:
                    if not self.started:
                        return
                time.sleep(0.2)
                continue
            job = Job(self, part, number)
            with self.lock:
                self.started[(part.name, number)] = True
            began = time.monotonic()
            try:
                counts, seeds, violations = part.run(job, number, amount)
            except Interrupted:
                return
            except Exception as error:  # What the record does not show did not happen.
                counts, seeds, violations = {}, [], []
                job.problem(f"{type(error).__name__}: {error}")
            seconds = round(time.monotonic() - began, 1)
            with self.lock:
                self.write({
                    "kind": "chunk", "part": part.name, "chunk": number, "commands": job.commands, "asked": amount,
                    "unit": part.unit, "counts": counts, "seeds": seeds, "violations": violations,
                    "problems": job.problems, "seconds": seconds, "ended": now(),
                })
                done = self.of(part)
                if len(done) == self.planned[part.name]:
                    self.go_on(part)
                del self.started[(part.name, number)]
            told = f"{counts.get(part.unit, 0)} {part.unit}, {len(violations)} violations, {seconds} s"
            print(f"{part.name} {len(done)}/{self.planned[part.name]}: {told}", flush=True)
            for text in [*job.problems, *violations]:
                print(f"    {text}", flush=True)

    def interrupt(self, *_):
        """What is under way ends by itself: a rig that is killed leaves a file system mounted whose disk is gone,
        and then every sync of this machine hangs. Whoever asks twice gets that."""
        if self.over:
            self.killed = True
            for child in list(self.children):
                end(child)
            return
        self.over = True
        print("ending behind the chunks that are under way", flush=True)

    def work_all(self, jobs):
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self.interrupt)
        threads = [threading.Thread(target=self.work) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
        totals = [total(part, self.of(part)) for part in self.parts.values()]
        failed = [line["part"] for line in totals if line["failed"]]
        self.write({"kind": "end", "interrupted": self.over, "parts": totals, "failed": failed, "ended": now()})
        return totals, failed


def total(part, done):
    """What a part came to, and why it failed if it did."""
    ran = sum(line["counts"].get(part.unit, 0) for line in done)
    violations = sum(len(line["violations"]) for line in done)
    why = [text for line in done for text in line["problems"]]
    if violations:
        why.append(f"{violations} violations")
    if ran < part.asked:
        why.append(f"{ran} of {part.asked} {part.unit} ran")
    counts = {}
    for line in done:
        for name, count in line["counts"].items():
            counts[name] = counts.get(name, 0) + count
    seconds = round(sum(line["seconds"] for line in done), 1)
    return {"part": part.name, "asked": part.asked, "unit": part.unit, "ran": ran, "violations": violations,
            "counts": counts, "seconds": seconds, "failed": sorted(set(why))}


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def said(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace").strip()


def commit():
    changed = said("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!docs")
    return said("git", "rev-parse", "HEAD") + (" with changes" if changed else "")


def machine():
    cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    makers = {"ext4": ["mkfs.ext4", "-V"], "xfs": ["mkfs.xfs", "-V"], "btrfs": ["mkfs.btrfs", "--version"]}
    versions = {}
    for name, command in makers.items():
        try:
            versions[name] = said(*command).splitlines()[0]
        except (OSError, IndexError):
            versions[name] = None
    memory = re.search(r"MemTotal: *(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "kernel": platform.release(), "cpu": cpus[0] if cpus else None, "cores": os.cpu_count(),
        "memory_bytes": int(memory.group(1)) << 10, "file_system": said("findmnt", "-n", "-o", "FSTYPE", "-T", "target"),
        "rig_file_systems": versions, "rustc": said("rustc", "--version"),
    }


def build():
    """Tests at opt-level 2 with debug assertions (the test profile), the simulator in release; each by its name."""
    built = {}
    for command in (
        ["cargo", "test", "--locked", "--all-features", "--no-run"],
        ["cargo", "build", "--locked", "--release", "--features", "sim", "--bin", "simulate"],
    ):
        print(f"building: {shlex.join(command)}", flush=True)
        command = [*command, "--message-format=json-render-diagnostics"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            sys.exit("it does not build")
        for line in done.stdout.decode().splitlines():
            message = json.loads(line)
            target = message.get("target", {})
            is_test = message.get("profile", {}).get("test") and "test" in target["kind"]
            if message.get("executable") and (is_test or (target["name"] == "simulate" and "--release" in command)):
                built[target["name"]] = message["executable"]
    return built


def read_record(path):
    """The lines of a record; one that was cut short in the middle counts for nothing."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line that is no JSON: {line[:80]}", file=sys.stderr)
    if not lines or lines[0].get("schema") != SCHEMA:
        sys.exit(f"{path} is no record of schema {SCHEMA}")
    return lines


BEGIN, END = "<!-- last release run: begin -->", "<!-- last release run: end -->"


def cells(record):
    """For each row of the table of faults, what a record says of it."""
    header, lines = record[0], record[1:]
    known = {part.name: part.scale(header["scale"]) for part in parts(header["worlds"])}
    rows = {}
    for part in known.values():
        done = [line for line in lines if line["kind"] == "chunk" and line["part"] == part.name]
        if not done:
            continue
        summed = total(part, done)
        for row in part.rows:
            ran, of = summed["ran"], part.asked
            if part.name == "flips" and row == 34:
                ran = of = sum(summed["counts"].get(f"flips: {name}", 0) for name in OF_THE_RING)
            sums = rows.setdefault(row, {})
            so_far, asked, bad = sums.get(part.title, (0, 0, []))
            # What ran less than asked is no failure of what ran: it is told by its count.
            found = [f"{part.name}: {why}" for why in summed["failed"] if not why.endswith(" ran")]
            sums[part.title] = (so_far + ran, asked + of, bad + found)
    return {
        row: "; ".join(
            f"{ran:,} {title}" + (f" (of {asked:,})" if ran < asked else "")
            + (f" ({', '.join(bad)})" if bad else "") for title, (ran, asked, bad) in sums.items()
        )
        for row, sums in rows.items()
    }


def put_table(page, record, name):
    """The page with the last column of the table of faults, and the line above it, as the record says."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        sys.exit(f"{PAGE} has no {BEGIN} ... {END}")
    table = rest.partition(END)[0]
    header = record[0]
    by_row = cells(record)
    lines = []
    for line in table.splitlines():
        if line.startswith("Last release run:"):
            line = f"Last release run: `{name}`, commit {header['commit'][:7]}, kernel {header['machine']['kernel']}."
        elif re.match(r"\| \d", line):
            columns = line.strip("|").split(" | ")
            numbers = [int(number) for number in columns[0].split(",")]
            found = [by_row[number] for number in numbers if number in by_row]
            line = "|" + " | ".join([*columns[:3], found[0] if found else "-"]) + " |"
        lines.append(line)
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def table(file):
    if file is None:
        # Names begin with the date.
        records = sorted(Path("results").glob("*-torture.jsonl"))
        if not records:
            sys.exit("no record in results/: scripts/torture.sh makes one")
        file = records[-1]
    record = read_record(file)
    if record[0]["scale"] != 1:
        sys.exit(f"{file} is of a run with --scale {record[0]['scale']}: no release run")
    PAGE.write_text(put_table(PAGE.read_text(encoding="ascii"), record, file), encoding="ascii")


def worlds(text):
    found = {}
    for piece in text.split(","):
        world, _, count = piece.partition("=")
        if not count.isdigit():
            raise argparse.ArgumentTypeError(f"'{piece}': a world is written NAME=SEEDS")
        found[world] = int(count)
    return found


def main():
    names = sorted({part.name.partition("/")[0] for part in parts({"shard": 1})})
    parser = argparse.ArgumentParser(
        prog="scripts/torture.sh", description="The release run: every fault with its full count, and one record of it.",
        epilog=f"Parts: {' '.join(names)}; or one of a group, such as rig/xfs. Without names all but {NAMED_ONLY[0]}. "
        "Exit code 0 only if every part ran as often as asked and found nothing.")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--scale", type=float, default=1, metavar="F", help="every count times F")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="chunks at the same time")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="the record, default results/<date>-torture.jsonl; one that is there is gone on with")
    parser.add_argument("--worlds", type=worlds, default="shard=9500000,shards=500000,files=500000,sites=10000",
                        metavar="NAME=SEEDS,...", help="seeds of each world of the simulator, default %(default)s")
    parser.add_argument("--table", nargs="?", const=True, metavar="FILE",
                        help=f"run nothing; put the counts of a record, default the newest, into {PAGE}")
    options = parser.parse_args()
    if options.table:
        table(None if options.table is True else options.table)
        return
    everything = [part.scale(options.scale) for part in parts(options.worlds)]
    chosen = [part for part in everything if not options.parts and part.name not in NAMED_ONLY]
    for name in options.parts:
        of_name = [part for part in everything if part.name == name or part.name.startswith(f"{name}/")]
        if not of_name:
            parser.error(f"no part '{name}'; there are: {' '.join(part.name for part in everything)}")
        chosen += [part for part in of_name if part not in chosen]
    out = options.out or Path(f"results/{datetime.date.today()}-torture.jsonl")
    LOGS.mkdir(parents=True, exist_ok=True)
    built = build()
    header = {"kind": "run", "schema": SCHEMA, "commit": commit(), "began": now(), "scale": options.scale,
              "worlds": options.worlds, "machine": machine(), "command": shlex.join(["scripts/torture.sh", *sys.argv[1:]])}
    totals, failed = Run(chosen, out, built, header).work_all(max(1, options.jobs))
    print(f"\n{'part':34} {'asked':>10} {'ran':>10} {'violations':>10} {'seconds':>9}")
    for line in totals:
        print(f"{line['part']:34} {line['asked']:>10} {line['ran']:>10} {line['violations']:>10} {line['seconds']:>9}")
    for line in totals:
        for why in line["failed"]:
            print(f"FAILED {line['part']}: {why}")
    print(f"the record: {out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
