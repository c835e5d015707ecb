#!/usr/bin/env python3
"""Reads the data files of a store with DuckDB, Polars and pandas, and says what each of them found.

    scripts/read-with.py STORE/data                      rows, counts and sums of columns, rows by a tag
    scripts/read-with.py STORE/data --expect input.lp.gz   and compares them with line protocol
    forebay files --json --dir STORE > list; scripts/read-with.py --files list   only the files listed

Each reader gets the files as a user would give them: docs/data-files.md shows the same calls. A sum is
that of numbers and times (in nanoseconds), the number of true values, or the bytes of texts.

A package that is missing is skipped with a warning; with REQUIRE_RIG=1 that is a failure.
Exit codes: 0 done, 1 failure, 2 usage, 3 a difference from what was expected or between readers.
"""

import argparse
import contextlib
import glob
import gzip
import io
import json
import math
import os
import re
import sys
import tempfile
from collections import namedtuple

RESERVED = {"time", "day", "_received_at", "_origin", "_shard", "_epoch", "_seq", "_row"}
TYPES = "tag|float|integer|unsigned|boolean|string"
# The files of a table: its name, its namespace, its folder's name or None, paths, rows where known.
Table = namedtuple("Table", "namespace name raw paths rows")


class Failure(Exception):
    """Something that ends the program with exit code 1."""


# ---- Which files there are


def plain(folder):
    """A folder's name without its escapes."""
    if folder == "%":
        return ""
    text = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), folder.encode())
    return text.decode()


def tables_of_folder(data):
    if not os.path.isdir(data):
        raise Failure(f"{data} is no folder; name the folder 'data' in the engine's folder")
    groups = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(data), "*", "*", "day=*", "*.parquet"))):
        namespace, table = path.split(os.sep)[-4:-2]
        groups.setdefault((namespace, table), []).append(path)
    return [
        Table(plain(namespace), plain(table.removesuffix("@raw")), table.endswith("@raw"), paths, None)
        for (namespace, table), paths in sorted(groups.items())
    ]


def tables_of_list(name):
    with open(name, encoding="utf-8") as file:
        listing = json.load(file)
    if listing.get("schema") != "forebay.files/1":
        raise Failure(f"{name}: not the output of 'forebay files --json': its schema is {listing.get('schema')!r}")
    groups = {}
    for file in listing["files"]:
        key = (file["namespace"], file["table"], file["kind"] == "raw")
        groups.setdefault(key, []).append(file)
    return [
        Table(*key, [file["path"] for file in files], sum(file["rows"] for file in files))
        for key, files in sorted(groups.items())
    ]


# ---- Three readers: each gives rows, {column: (count, sum)} and {tag value: rows}


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def with_duckdb(table, tag):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    source = "read_parquet(?, union_by_name = true, hive_partitioning = true)"
    columns = connection.execute(f"DESCRIBE SELECT * FROM {source}", [table.paths]).fetchall()
    parts = ["count(*)"]
    for name, kind, *_ in columns:
        column = quoted(name)
        if kind in ("VARCHAR", "BLOB"):
            value = f"octet_length({column}::BLOB)" if kind == "BLOB" else f"strlen({column})"
        elif kind == "BOOLEAN":
            value = f"{column}::INTEGER"
        elif kind.startswith("TIMESTAMP"):
            value = f"epoch_ns({column})::HUGEINT"
        elif kind == "DATE":
            value = "0"
        elif kind == "DOUBLE":
            value = column
        else:
            value = f"{column}::HUGEINT"
        parts += [f"count({column})", f"coalesce(sum({value}), 0)"]
    found = connection.execute(f"SELECT {', '.join(parts)} FROM {source}", [table.paths]).fetchone()
    sums = {name: (found[1 + 2 * at], found[2 + 2 * at]) for at, (name, *_) in enumerate(columns)}
    groups = {}
    if tag is not None:
        column = quoted(tag)
        query = f"SELECT {column}, count(*) FROM {source} GROUP BY {column}"
        groups = dict(connection.execute(query, [table.paths]).fetchall())
    return found[0], sums, groups


def with_polars(table, tag):
    import polars as pl

    # A file need not have every column of its table.
    files = [pl.scan_parquet(path, hive_partitioning=True) for path in table.paths]
    rows = pl.concat(files, how="diagonal").collect()
    sums = {}
    for column in rows.iter_columns():
        kind = column.dtype
        if kind == pl.String:
            values = column.str.len_bytes().cast(pl.Int64)
        elif kind == pl.Binary:
            values = column.bin.size().cast(pl.Int64)
        elif kind == pl.Date:
            values = column.is_null().cast(pl.Int64) * 0
        elif isinstance(kind, pl.Datetime):
            values = column.dt.epoch("ns").cast(pl.Int128)
        elif kind == pl.Float64:
            values = column
        else:
            values = column.cast(pl.Int128)
        sums[column.name] = (column.len() - column.null_count(), values.sum())
    groups = {}
    if tag is not None:
        groups = dict(rows.group_by(tag).len().iter_rows())
    return rows.height, sums, groups


def with_pandas(table, tag):
    import pandas as pd

    # Arrow's types keep integers exact where rows have no value; partitioning=None: no 'day' column.
    read = lambda path: pd.read_parquet(path, dtype_backend="pyarrow", partitioning=None)
    rows = pd.concat([read(path) for path in table.paths], ignore_index=True)
    sums = {}
    for name in rows.columns:
        column = rows[name].dropna()
        kind = str(rows[name].dtype)
        if kind.startswith("timestamp"):
            values = column.astype("int64[pyarrow]").astype(object)
        elif kind.startswith(("string", "large_string")):
            values = column.map(lambda text: len(text.encode())).astype(object)
        elif kind.startswith(("binary", "large_binary")):
            values = column.map(len).astype(object)
        elif kind.startswith("double"):
            values = column
        else:
            values = column.astype(object).map(int).astype(object)
        sums[name] = (len(column), values.sum() if len(values) else 0)
    groups = {}
    if tag is not None:
        sizes = rows.groupby(tag, dropna=False).size()
        groups = {None if pd.isna(value) else value: int(size) for value, size in sizes.items()}
    return len(rows), sums, groups


READERS = {"duckdb": with_duckdb, "polars": with_polars, "pandas": with_pandas}
# pandas reads Parquet with pyarrow.
PACKAGES = {"duckdb": ["duckdb"], "polars": ["polars"], "pandas": ["pandas", "pyarrow"]}


def available(wanted):
    """The readers that can be used; a warning or a failure for each other."""
    there = []
    for reader in wanted:
        try:
            for package in PACKAGES[reader]:
                __import__(package)
            there.append(reader)
        except ImportError as error:
            text = f"{reader} is SKIPPED: {error}; pip install -r scripts/requirements.txt"
            if os.environ.get("REQUIRE_RIG") == "1":
                raise Failure(f"REQUIRE_RIG=1, and {text}") from error
            print(f"warning: {text}", file=sys.stderr)
    return there


# ---- Line protocol, read by its description and nothing else


def word(line, at, ends):
    """A name or value up to one of `ends`, without escapes, and where it ended."""
    out = []
    while at < len(line) and line[at] not in ends:
        if line[at] == "\\" and at + 1 < len(line) and line[at + 1] in ", =\\":
            at += 1
        out.append(line[at])
        at += 1
    return "".join(out), at


def field_value(line, at):
    """The type and value of a field, and where it ended."""
    if line[at] == '"':
        out, at = [], at + 1
        while line[at] != '"':
            if line[at] == "\\" and line[at + 1] in '"\\':
                at += 1
            out.append(line[at])
            at += 1
        return "string", "".join(out), at + 1
    text, end = word(line, at, ", ")
    if text in ("t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"):
        return "boolean", text[0] in "tT", end
    if text.endswith("i"):
        return "integer", int(text[:-1]), end
    if text.endswith("u"):
        return "unsigned", int(text[:-1]), end
    return "float", float(text), end


def split_lines(text):
    """Lines of a text; a line end in a quoted string is no end."""
    start = at = 0
    while at < len(text):
        comment = text[start:].startswith("#") if at == start else False
        if comment:
            at = text.find("\n", at)
            at = len(text) if at < 0 else at
            start = at = at + 1
            continue
        char = text[at]
        if char == "\\":
            at += 1
        elif char == '"' and at > 0 and text[at - 1] == "=":
            at += 1
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif char == "\n":
            yield text[start:at].removesuffix("\r")
            start = at + 1
        at += 1
    yield text[start:]


def parsed(line):
    """Measurement, [(key, type, value)] and time of a line."""
    measurement, at = word(line, 0, ", ")
    values = []
    while line[at] == ",":
        key, at = word(line, at + 1, "=")
        value, at = word(line, at + 1, ", ")
        values.append((key, "tag", value))
    at += 1
    while True:
        key, at = word(line, at, "=")
        kind, value, at = field_value(line, at + 1)
        values.append((key, kind, value))
        if at >= len(line) or line[at] != ",":
            break
        at += 1
    rest = line[at:].strip()
    return measurement, values, int(rest) if rest else None


def expected_of_lines(text):
    """{table: {"rows": n, "columns": {name: {"count", "sum", "size"}}}} of a text of line protocol."""
    tables, types = {}, {}
    for line in split_lines(text):
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        measurement, values, time = parsed(line)
        table = tables.setdefault(measurement, {"rows": 0, "columns": {}})
        table["rows"] += 1
        values.append(("time", None, time))
        for key, kind, value in values:
            name = key
            if kind is not None:
                own = types.setdefault((measurement, key), kind)
                posing = re.search(rf"@({TYPES})$", key)
                if own != kind or key in RESERVED or posing:
                    name = f"{key}@{kind}"
            column = table["columns"].setdefault(name, {"count": 0, "sum": 0, "size": 0})
            column["count"] += 1
            if value is None:
                # It was given when the block was accepted: nobody can expect it.
                column["sum"] = None
            elif column["sum"] is not None:
                number = len(value.encode()) if isinstance(value, str) else value
                column["sum"] += number
                column["size"] += abs(number)
    return tables


def expectation(name):
    opened = gzip.open if name.endswith(".gz") else open
    with opened(name, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    base = name.removesuffix(".gz")
    if base.endswith(".json"):
        return json.loads(text)["tables"]
    if base.endswith(".lp"):
        return expected_of_lines(text)
    raise Failure(f"{name}: neither .json nor .lp, with or without .gz")


# ---- Comparing


def is_same(found, expected, size):
    """Integers exactly; floats up to what the order of an addition of so large numbers changes."""
    if expected is None:
        return True
    if isinstance(found, float) or isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12 * max(size or 0, abs(expected)))
    return int(found) == int(expected)


def differences(what, rows, sums, expected):
    """What is not as expected, in words."""
    if rows != expected["rows"]:
        yield f"{what}: {rows} rows, expected {expected['rows']}"
    user = {name: found for name, found in sums.items() if name not in RESERVED or name in expected["columns"]}
    for name in sorted(user.keys() | expected["columns"].keys()):
        count, total = user.get(name, (0, 0))
        column = expected["columns"].get(name, {"count": 0, "sum": 0})
        if count != column["count"]:
            yield f"{what}: column {name!r} has {count} values, expected {column['count']}"
        elif not is_same(total, column["sum"], column.get("size")):
            yield f"{what}: column {name!r} adds up to {total}, expected {column['sum']}"


def tag_of(paths):
    """The first tag, as a file's metadata name it; None where there is none."""
    try:
        import pyarrow.parquet as pq

        for path in paths:
            metadata = pq.read_schema(path).metadata or {}
            tags = json.loads(metadata.get(b"forebay.tags", b"[]"))
            if tags:
                return tags[0]
    except ImportError:
        print("warning: without pyarrow no tag is looked for, and rows are not grouped", file=sys.stderr)
    return None


def number(value):
    return value if isinstance(value, float) else int(value)


def run(args):
    tables = tables_of_list(args.files) if args.files else tables_of_folder(args.data)
    if not tables:
        raise Failure(f"{args.files or args.data}: no data files")
    readers = available(args.readers)
    if args.namespace is not None:
        tables = [table for table in tables if table.namespace == args.namespace]
    expected = expectation(args.expect) if args.expect else None
    if expected is not None and len({table.namespace for table in tables}) > 1:
        raise Failure("several namespaces; --namespace says which one is compared")
    wrong, out = [], {}
    if expected is not None:
        for name in sorted(expected.keys() - {table.name for table in tables if not table.raw}):
            wrong.append(f"table {name!r} is not there")
    for table in tables:
        title = f"{table.namespace}/{table.name}" + ("@raw" if table.raw else "")
        tag = None if table.raw else tag_of(table.paths)
        first = None
        for reader in readers:
            rows, sums, groups = READERS[reader](table, tag)
            sums = {name: (count, number(total)) for name, (count, total) in sums.items() if name != "day"}
            what = f"{title} with {reader}"
            print(f"{what}: {rows} rows in {len(table.paths)} files")
            for name, (count, total) in sums.items():
                print(f"    {name}: {count} values, sum {total}")
            if tag is not None:
                top = sorted(groups.items(), key=lambda group: (-group[1], str(group[0])))[:5]
                print(f"    rows by {tag}: " + ", ".join(f"{value} {count}" for value, count in top))
            if sum(groups.values()) not in (0, rows):
                wrong.append(f"{what}: groups have {sum(groups.values())} rows of {rows}")
            if table.rows is not None and rows != table.rows:
                wrong.append(f"{what}: {rows} rows, listed are {table.rows}")
            if expected is not None and not table.raw:
                wrong.extend(differences(what, rows, sums, expected.get(table.name, {"rows": 0, "columns": {}})))
            columns = {name: {"count": count, "sum": total} for name, (count, total) in sums.items()}
            if first is None:
                first = {"rows": rows, "columns": columns}, groups
                if not table.raw:
                    out[table.name] = first[0]
            else:
                wrong.extend(differences(f"{what} beside {readers[0]}", rows, sums, first[0]))
                if groups != first[1]:
                    wrong.append(f"{what}: other groups than {readers[0]}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"schema": "forebay.read-with/1", "tables": out}, file, indent=1)
    for line in wrong:
        print(f"DIFFERENT: {line}", file=sys.stderr)
    if expected is not None and not wrong and readers:
        print(f"as expected: {', '.join(readers)}")
    return 3 if wrong else 0


# ---- The program's own test


LINES = """# two tables, every type, a day's border
m,b=y,a=x f=1.5,i=-7i,u=18446744073709551615u,t=true,s="quo\\"te, and \\\\ more" 1000
m,a=z\\ z f=2,i=9223372036854775807i -1
m f=0.1,i=9223372036854775807i,new="a
b" 86400000000000
# a key that has another type, and names that are taken
m,a=x f=3i,day=4i,v@float=1 2000
other\\ table,a=x k=t 5
"""


def make_files(data):
    """What a store would make of LINES, by hand."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = pa.timestamp("ns", tz="UTC")

    def write(path, tags, columns):
        rows = len(next(iter(columns.values()))[1])
        identity = {
            "_received_at": (stamp, [7] * rows), "_origin": (pa.string(), ["o"] * rows), "_shard": (pa.int32(), [0] * rows),
            "_epoch": (pa.int64(), [1] * rows), "_seq": (pa.int64(), list(range(rows))), "_row": (pa.int32(), [0] * rows),
        }
        table = pa.table({name: pa.array(values, kind) for name, (kind, values) in {**columns, **identity}.items()})
        table = table.replace_schema_metadata({"forebay.tags": json.dumps(tags)})
        path = os.path.join(data, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        pq.write_table(table, path)

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    write("n/m/day=1970-01-01/000000000001.parquet", ["a", "b"], {
        "time": (stamp, [1000]), "a": (text, ["x"]), "b": (text, ["y"]), "f": (real, [1.5]), "i": (whole, [-7]),
        "s": (text, ['quo"te, and \\ more']), "t": (pa.bool_(), [True]), "u": (pa.uint64(), [2**64 - 1]),
    })
    write("n/m/day=1969-12-31/000000000002.parquet", ["a"], {
        "time": (stamp, [-1]), "a": (text, ["z z"]), "f": (real, [2.0]), "i": (whole, [2**63 - 1]),
    })
    write("n/m/day=1970-01-02/000000000003.parquet", [], {
        "time": (stamp, [86400000000000]), "f": (real, [0.1]), "i": (whole, [2**63 - 1]), "new": (text, ["a\nb"]),
    })
    write("n/m/day=1970-01-01/000000000004.parquet", ["a"], {
        "time": (stamp, [2000]), "a": (text, ["x"]), "day@integer": (whole, [4]), "f@integer": (whole, [3]),
        "v@float@float": (real, [1.0]),
    })
    write("n/other%20table/day=1970-01-01/000000000005.parquet", ["a"], {
        "time": (stamp, [5]), "a": (text, ["x"]), "k": (pa.bool_(), [True]),
    })
    write("n/blobs@raw/day=1970-01-01/000000000006.parquet", [], {"payload": (pa.binary(), [b"any \x00 bytes"])})
    os.makedirs(os.path.join(data, "_tmp"))
    with open(os.path.join(data, "_tmp", "000000000007.tmp"), "wb") as file:
        file.write(b"half of a file")


def self_test():
    if len(available(READERS)) < len(READERS):
        raise Failure("the self test needs all of them")
    with tempfile.TemporaryDirectory() as scratch:
        data = os.path.join(scratch, "data")
        make_files(data)

        def exit_code(text, *more):
            name = os.path.join(scratch, "expect.lp.gz")
            with gzip.open(name, "wt", encoding="utf-8", newline="") as file:
                file.write(text)
            # What it says is of no interest here.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return main([*more, "--expect", name])

        assert exit_code(LINES, data) == 0, "what is there is as expected"
        for before, after in [
            ("i=-7i", "i=-8i"), ("f=1.5", "f=1.500001"), ("t=true", "t=false"), (" -1\n", " -2\n"), ("k=t", "k=t,l=t"),
            (",new=", ",newer="), ("m,a=z", "m2,a=z"), ("u=18446744073709551615u", "u=18446744073709551614u"),
        ]:
            assert before in LINES and exit_code(LINES.replace(before, after), data) == 3, f"{after} is a difference"
        assert exit_code(LINES + "m f=1 1\n", data) == 3, "a row that is missing"
        files = [
            {"path": path, "namespace": table.namespace, "table": table.name, "kind": "raw" if table.raw else "lines", "rows": 1}
            for table in tables_of_folder(data) for path in table.paths
        ]
        for listed, code in [(files, 0), (files[:-1], 3), ([{**files[0], "rows": 2}, *files[1:]], 3)]:
            name = os.path.join(scratch, "files.json")
            with open(name, "w", encoding="utf-8") as file:
                json.dump({"schema": "forebay.files/1", "files": listed}, file)
            assert exit_code(LINES, "--files", name) == code, f"{len(listed)} files listed"
        kept = os.path.join(scratch, "kept.json")
        assert main([data, "--json", kept]) == 0 and main([data, "--expect", kept]) == 0, "what was read is as it was"
    print("self test passed")
    return 0


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="the folder 'data' in the engine's folder")
    parser.add_argument("--files", metavar="FILE", help="read only what 'forebay files --json' listed here")
    parser.add_argument("--expect", metavar="FILE", help="line protocol (.lp, .lp.gz) or an earlier --json FILE")
    parser.add_argument("--namespace", help="only this namespace")
    parser.add_argument("--json", metavar="FILE", help="write rows, counts and sums there")
    parser.add_argument("--readers", default="duckdb,polars,pandas", type=lambda text: text.split(","))
    parser.add_argument("--self-test", action="store_true", help="try the program on files made for it (needs pyarrow)")
    args = parser.parse_args(arguments)
    unknown = [reader for reader in args.readers if reader not in READERS]
    if unknown:
        parser.error(f"no reader {unknown[0]!r}; there are {', '.join(READERS)}")
    if args.self_test:
        return self_test()
    if (args.data is None) == (args.files is None):
        parser.error("name the folder 'data' in the engine's folder, or --files")
    return run(args)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failure, OSError, json.JSONDecodeError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
