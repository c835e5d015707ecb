#!/usr/bin/env python3
"""The peers that are programs: RocksDB, Redis, PostgreSQL, and fio as the ceiling.

The same writers, blocks and seconds as `peers`, on the same folder, and records of the same shape. README.md
says what is asked of each. A program that is missing is named on stderr and in the record, and skipped.
Standard library only, Python 3.11.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCHEMA = "forebay.peers/1"
# Memtables so large that a run measures the log and no flush, as for fjall.
MEMTABLE_BYTES = 2 << 30
# What fio writes to, per job; laid out before.
FIO_JOB_BYTES = 16 << 20
FIO_FILE_BYTES = 2 << 30
SECTOR = 4096
# A program that takes so much longer than it was asked to is ended.
PATIENCE_S = 300


class Run:
    """One run: its parameters and its folder."""

    def __init__(self, options, folder, block_bytes):
        self.writers, self.seconds, self.warmup = options.writers, options.seconds, options.warmup
        self.folder, self.block_bytes = folder, block_bytes
        self.commands = []

    def call(self, *command, **more):
        """Runs a program to its end and gives its stdout; what it was asked for goes into the record."""
        command = [str(word) for word in command]
        self.commands.append(short(command))
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE_S + self.seconds + self.warmup, **more)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:].strip()}")
        return done.stdout + done.stderr


def short(command):
    return " ".join(word if len(word) < 200 else word[:40] + "..." for word in command)


def settle(folder):
    """Writes out all that the file system holds, so that no run pays for what came before it."""
    subprocess.run(["sync", "-f", str(folder)], check=True)


def sync_files(folder):
    """Syncs every file below the folder, and says how long that took and how many bytes they have."""
    began, size = time.monotonic(), 0
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not path.is_symlink():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(file)
                size += os.fstat(file).st_size
            finally:
                os.close(file)
    return time.monotonic() - began, size


def whole_seconds(seconds):
    return max(1, math.ceil(seconds))


def figures(blocks, seconds, block_bytes, ack_us, **more):
    return {
        "seconds": round(seconds, 3), "blocks": blocks, "bytes": blocks * block_bytes,
        "blocks_per_s": round(blocks / seconds, 3), "bytes_per_s": round(blocks * block_bytes / seconds, 3),
        "ack_us": ack_us, **more,
    }


def percentiles(us):
    """Of a sorted list of microseconds."""
    if not us:
        return None
    at = lambda share: us[min(len(us) - 1, math.ceil(share * len(us)) - 1)]
    return {"min": us[0], "mean": round(statistics.fmean(us), 3), "p50": at(0.5), "p90": at(0.9), "p95": at(0.95),
            "p99": at(0.99), "p999": at(0.999), "max": us[-1]}


class RocksDb:
    engines = {"rocksdb": ("none", "each")}
    needs = {"db_bench": "rocksdb-tools"}

    @staticmethod
    def version():
        package = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "rocksdb-tools"], capture_output=True, text=True)
        return package.stdout or None

    @staticmethod
    def run(run, engine, sync):
        store = run.folder / "db"
        text = run.call(
            "db_bench", "--benchmarks=fillrandom", f"--db={store}", f"--threads={run.writers}",
            f"--duration={whole_seconds(run.seconds)}", "--num=1000000000", "--key_size=16",
            f"--value_size={run.block_bytes}", f"--sync={str(sync == 'each').lower()}", "--histogram=true",
            "--compression_type=none", "--enable_pipelined_write=true", "--allow_concurrent_memtable_write=true",
            f"--write_buffer_size={MEMTABLE_BYTES}", "--max_write_buffer_number=8", "--disable_auto_compactions=true",
            "--level0_slowdown_writes_trigger=1000", "--level0_stop_writes_trigger=2000")
        found = re.search(r"fillrandom\s*:.* ([\d.]+) seconds (\d+) operations", text)
        seconds, blocks = float(found[1]), int(found[2])
        synced, stored = sync_files(store)
        named = dict(re.findall(r"(P[\d.]+|Median|Min|Max|Average): ([\d.]+)", text))
        number = lambda name: float(named[name]) if name in named else None
        ack_us = {"min": number("Min"), "mean": number("Average"), "p50": number("P50"), "p90": None, "p95": None,
                  "p99": number("P99"), "p999": number("P99.9"), "max": number("Max")}
        if stored < blocks * run.block_bytes:
            raise RuntimeError(f"{stored} bytes are stored, {blocks * run.block_bytes} were acknowledged")
        warnings = [line.strip() for line in text.splitlines() if line.startswith("WARNING")]
        return figures(blocks, seconds + synced, run.block_bytes, ack_us, stored_bytes=stored, warnings=warnings)


class Redis:
    engines = {"redis-no": ("none",), "redis-everysec": ("none",), "redis-always": ("each",)}
    needs = {"redis-server": "redis-server", "redis-benchmark": "redis-tools", "redis-cli": "redis-tools"}

    @staticmethod
    def version():
        text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
        return re.search(r"v=(\S+)", text)[1]

    @staticmethod
    def run(run, engine, sync):
        with tempfile.TemporaryDirectory(prefix="peers-") as sockets:
            socket = f"{sockets}/redis"
            command = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", str(run.folder), "--save", "",
                       "--appendonly", "yes", "--appendfsync", engine.removeprefix("redis-"),
                       "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"]
            run.commands.append(short(command))
            with Server(command) as server:
                server.wait(lambda: subprocess.run(["redis-cli", "-s", socket, "ping"], capture_output=True).stdout == b"PONG\n")
                settle(run.folder)
                # It takes a number of requests, not seconds.
                count, row = run.writers * 20, None
                for seconds in (0, run.warmup, run.seconds):
                    if row:
                        count = max(run.writers, int(float(row["rps"]) * seconds))
                    _, before = sync_files(run.folder)
                    row = Redis.benchmark(run, socket, count)
                # While a sync of everysec runs, what was acknowledged may wait in the server's memory.
                began = time.monotonic()
                while not Redis.has_written_all(socket):
                    time.sleep(0.001)
                _, after = sync_files(run.folder)
                synced = time.monotonic() - began
        stored = after - before
        if stored < count * run.block_bytes:
            raise RuntimeError(f"{stored} bytes are in the AOF, {count * run.block_bytes} were acknowledged")
        us = lambda name: round(float(row[name]) * 1e3, 3)
        ack_us = {"min": us("min_latency_ms"), "mean": us("avg_latency_ms"), "p50": us("p50_latency_ms"), "p90": None,
                  "p95": us("p95_latency_ms"), "p99": us("p99_latency_ms"), "p999": None, "max": us("max_latency_ms")}
        return figures(count, count / float(row["rps"]) + synced, run.block_bytes, ack_us, stored_bytes=stored)

    @staticmethod
    def has_written_all(socket):
        told = subprocess.run(["redis-cli", "-s", socket, "info", "persistence"], capture_output=True, text=True).stdout
        return "aof_buffer_length:0\r" in told or "aof_buffer_length:0\n" in told

    @staticmethod
    def benchmark(run, socket, count):
        text = run.call("redis-benchmark", "-s", socket, "-t", "set", "-c", run.writers, "-d", run.block_bytes,
                        "-n", count, "--csv")
        rows = [line.strip('"').split('","') for line in text.splitlines() if line.startswith('"')]
        return dict(zip(rows[0], rows[1]))


class Postgres:
    engines = {"postgres-off": ("none",), "postgres-on": ("each",)}
    needs = {"pgbench": "postgresql-15", "psql": "postgresql-15", "initdb": "postgresql-15", "postgres": "postgresql-15",
             "setpriv": "util-linux"}
    options = {
        "listen_addresses": "", "wal_level": "minimal", "max_wal_senders": "0", "shared_buffers": "1GB",
        "wal_buffers": "64MB", "max_wal_size": "32GB", "checkpoint_timeout": "1h", "autovacuum": "off",
        "max_connections": "1100", "jit": "off",
    }

    @staticmethod
    def program(name):
        """Debian keeps the server's programs out of PATH."""
        own = Path("/usr/lib/postgresql/15/bin") / name
        return str(own) if own.exists() else shutil.which(name)

    @classmethod
    def version(cls):
        return subprocess.run([cls.program("postgres"), "--version"], capture_output=True, text=True).stdout.split()[2]

    @classmethod
    def run(cls, run, engine, sync):
        # The server refuses to be root.
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        with tempfile.TemporaryDirectory(prefix="peers-") as home:
            if user:
                shutil.chown(home, "postgres", "postgres")
                shutil.chown(run.folder, "postgres", "postgres")
            data = run.folder / "data"
            place = {"cwd": home}
            run.call(*user, cls.program("initdb"), "-D", data, "-U", "peers", "-A", "trust", "-E", "UTF8",
                     "--locale=C", "--no-sync", **place)
            mode = engine.removeprefix("postgres-")
            options = {**cls.options, "unix_socket_directories": home, "synchronous_commit": mode}
            command = user + [cls.program("postgres"), "-D", str(data)]
            command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
            run.commands.append(short(command))
            psql = lambda text: run.call(cls.program("psql"), "-h", home, "-U", "peers", "-d", "postgres", "-Atqc", text, **place).strip()
            with Server(command, **place) as server:
                ready = [cls.program("psql"), "-h", home, "-U", "peers", "-d", "postgres", "-c", "select 1"]
                server.wait(lambda: subprocess.run(ready, capture_output=True, **place).returncode == 0)
                psql("create table blocks (block text); alter table blocks alter column block set storage external")
                letters = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=run.block_bytes))
                script = Path(home) / "insert.sql"
                script.write_text(f"insert into blocks values ('{letters}');\n")
                settle(run.folder)
                warm = cls.bench(run, home, script, run.warmup)[0] if run.warmup > 0 else 0
                blocks, seconds, us = cls.bench(run, home, script, run.seconds)
                began = time.monotonic()
                psql("set synchronous_commit = on; insert into blocks values ('')")
                seconds += time.monotonic() - began
                stored = int(psql("select count(*) from blocks")) - 1 - warm
        if stored != blocks:
            raise RuntimeError(f"{stored} rows are stored, {blocks} were acknowledged")
        return figures(blocks, seconds, run.block_bytes, percentiles(us), stored_blocks=stored)

    @classmethod
    def bench(cls, run, home, script, seconds):
        """Blocks, seconds and the sorted microseconds of each."""
        log = Path(home) / f"log-{time.monotonic_ns()}"
        text = run.call(cls.program("pgbench"), "-h", home, "-U", "peers", "-n", "-M", "prepared", "-f", script,
                        "-c", run.writers, "-j", min(os.cpu_count(), run.writers), "-T", whole_seconds(seconds), "-l",
                        f"--log-prefix={log}", "postgres", cwd=home)
        blocks = int(re.search(r"number of transactions actually processed: (\d+)", text)[1])
        failed = re.search(r"number of failed transactions: (\d+)", text)
        if failed and int(failed[1]):
            raise RuntimeError(f"{failed[1]} transactions failed")
        tps = float(re.search(r"tps = ([\d.]+)", text)[1])
        us = [int(line.split()[2]) for path in Path(home).glob(f"{log.name}.*") for line in path.open()]
        return blocks, blocks / tps, sorted(us)


class Fio:
    """What the disk gives: in `fio-fdatasync` each writer syncs its own blocks; in `fio-group` one job writes the
    blocks of all writers at once and syncs them, `fio-dsync` in one write that is durable by itself; `fio-seq`
    writes 1 MiB at a time, 16 at once."""
    engines = {"fio-seq": ("none",), "fio-fdatasync": ("each",), "fio-group": ("each",), "fio-dsync": ("each",)}
    needs = {"fio": "fio"}

    @staticmethod
    def version():
        return subprocess.run(["fio", "--version"], capture_output=True, text=True).stdout.strip()

    @staticmethod
    def run(run, engine, sync):
        up = lambda count: -(-count // SECTOR) * SECTOR
        jobs = {
            "fio-seq": [f"--bs={1 << 20}", "--iodepth=16", f"--size={FIO_FILE_BYTES}", "--end_fsync=1"],
            "fio-fdatasync": [f"--bs={up(run.block_bytes)}", "--iodepth=1", f"--numjobs={run.writers}", "--fdatasync=1",
                              f"--size={max(FIO_JOB_BYTES, up(run.block_bytes))}"],
            "fio-group": [f"--bs={up(run.block_bytes * run.writers)}", "--iodepth=1", "--fdatasync=1",
                          f"--size={FIO_FILE_BYTES}"],
            "fio-dsync": [f"--bs={up(run.block_bytes * run.writers)}", "--iodepth=1", "--sync=dsync",
                          f"--size={FIO_FILE_BYTES}"],
        }
        common = ["fio", "--name=peers", f"--directory={run.folder}", "--rw=write", "--ioengine=io_uring", "--direct=1",
                  "--overwrite=1", "--fallocate=none", "--group_reporting", "--refill_buffers=0", "--output-format=json",
                  *jobs[engine]]
        run.call(*common, "--create_only=1")
        settle(run.folder)
        text = run.call(*common, "--time_based", f"--runtime={run.seconds}s", f"--ramp_time={run.warmup}s")
        write = json.loads(text[text.index("{"):text.rindex("}") + 1])["jobs"][0]["write"]
        seconds = write["runtime"] / 1e3
        blocks = {"fio-seq": write["io_bytes"] // run.block_bytes, "fio-fdatasync": write["total_ios"]}
        blocks = blocks.get(engine, write["total_ios"] * run.writers)
        return figures(blocks, seconds, run.block_bytes, None, written_bytes=write["io_bytes"])


class Server:
    """A server that is ended by its process's id."""

    def __init__(self, command, **more):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **more)

    def __enter__(self):
        return self

    def wait(self, is_ready):
        end = time.monotonic() + 60
        while not is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                raise RuntimeError(f"the server is not ready: {self.log.read()[-600:].strip()}")
            time.sleep(0.05)

    def __exit__(self, *_):
        # SIGINT: PostgreSQL's fast shutdown; Redis ends as well.
        self.process.send_signal(2)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


SYSTEMS = {"rocksdb": RocksDb, "redis": Redis, "postgres": Postgres, "fio": Fio}


def missing(system):
    """Packages of which a program is not there."""
    find = system.program if system is Postgres else shutil.which
    return sorted({package for program, package in system.needs.items() if not find(program)})


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = lambda text: text.split(",")
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--systems", type=words, default=list(SYSTEMS))
    parser.add_argument("--writers", type=int, default=50)
    parser.add_argument("--block-bytes", type=numbers, default=[128, 4096, 65536])
    parser.add_argument("--sync", type=words, default=["none", "each"])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--first-repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("--dir", type=Path, default=Path("forebay-peers"))
    parser.add_argument("--json", default="-", help="where JSON lines are appended; - is stdout")
    parser.add_argument("--env", default="{}", help="what figures depend on, as `peers --env` prints it")
    options = parser.parse_args()
    unknown = set(options.systems) - set(SYSTEMS)
    if unknown:
        parser.error(f"no system {', '.join(sorted(unknown))}; there are: {', '.join(SYSTEMS)}")
    return options


def main():
    options = parsed()
    made = not options.dir.exists()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = options.dir.resolve()
    out = sys.stdout if options.json == "-" else open(options.json, "a", encoding="ascii")
    print(f"seed {options.seed}", file=sys.stderr)
    order, sound = random.Random(options.seed), True
    absent = {name: missing(SYSTEMS[name]) for name in options.systems}
    for name, packages in absent.items():
        if packages:
            print(f"SKIPPED: {name}: not installed: {' '.join(packages)}", file=sys.stderr)
    for repeat in range(options.first_repeat, options.first_repeat + options.repeat):
        jobs = [(name, engine, sync, size) for name in options.systems for engine, syncs in SYSTEMS[name].engines.items()
                for sync in syncs if sync in options.sync for size in options.block_bytes]
        order.shuffle(jobs)
        for name, engine, sync, size in jobs:
            line = {"schema": SCHEMA, "engine": engine,
                    "engine_version": None if absent[name] else SYSTEMS[name].version(),
                    "settings": {"sync": sync, "writers": options.writers, "in_flight": 1, "block_bytes": size},
                    "repeat": repeat}
            if absent[name]:
                line["skipped"] = "not installed: " + " ".join(absent[name])
            else:
                line |= one(options, folder, SYSTEMS[name], engine, sync, size)
                sound &= "failed" not in line
            line |= {"seed": options.seed, "env": json.loads(options.env)}
            told = next((f"{word}: {line[word]}" for word in ("skipped", "failed") if word in line), None)
            told = told or f"{line['blocks_per_s']} blocks/s"
            print(f"{engine:<18}{sync:<6}{size:>7} bytes  {told}", file=sys.stderr)
            print(json.dumps(line), file=out, flush=True)
    if made:
        folder.rmdir()
    return 0 if sound else 1


def one(options, folder, system, engine, sync, size):
    """The figures of one run in a folder of its own, or why it failed."""
    own = folder / f"run-{os.getpid()}"
    own.mkdir()
    run = Run(options, own, size)
    try:
        found = system.run(run, engine, sync)
    except (RuntimeError, OSError, subprocess.SubprocessError, TypeError, ValueError, KeyError) as error:
        found = {"failed": f"{type(error).__name__}: {error}"}
    finally:
        shutil.rmtree(own)
    return {**found, "commands": run.commands}


if __name__ == "__main__":
    sys.exit(main())
