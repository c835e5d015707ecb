#!/usr/bin/env python3
"""Compares data files with what pyarrow writes from the same rows: size, and DuckDB's time for a group-by.

    scripts/compare-files.py STORE/data/NAMESPACE/TABLE --by location --avg current

Reads every Parquet file below the folder and writes its rows again with pyarrow: a file for each, the same
compression (zstd at level 1, or lz4), everything else as pyarrow has it by default. Then DuckDB runs
`select BY, avg(AVG) ... group by BY` over both sets of files in turn, each once to warm up. Prints a JSON
line of schema `forebay.compare-files/1`: sums of bytes, medians in milliseconds, and ratios to pyarrow's.

Exit codes: 0 done, 1 failure, 2 usage.
"""

import argparse
import glob
import json
import os
import statistics
import sys
import tempfile
import time

import duckdb
import pyarrow.parquet

REPEATS = 15


def written_again(paths, folder):
    """The same rows as pyarrow writes them; how they are compressed."""
    codecs = set()
    for number, path in enumerate(paths):
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        codec = file.metadata.row_group(0).column(0).compression.lower()
        codecs.add(codec)
        level = {"compression_level": 1} if codec == "zstd" else {}
        out = os.path.join(folder, f"{number:06}.parquet")
        pyarrow.parquet.write_table(file.read(), out, compression="lz4" if codec.startswith("lz4") else codec, **level)
    if len(codecs) != 1:
        sys.exit(f"the files are compressed in several ways: {sorted(codecs)}")
    return codecs.pop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a table's folder below STORE/data")
    parser.add_argument("--by", required=True, help="a tag to group by")
    parser.add_argument("--avg", required=True, help="a field to take the mean of")
    args = parser.parse_args()
    own = sorted(glob.glob(os.path.join(glob.escape(args.folder), "**", "*.parquet"), recursive=True))
    if not own:
        sys.exit(f"no Parquet file below {args.folder}; close the engine, or wait for its first flush")
    with tempfile.TemporaryDirectory() as folder:
        codec = written_again(own, folder)
        others = sorted(glob.glob(os.path.join(glob.escape(folder), "*.parquet")))
        quote = lambda name: '"' + name.replace('"', '""') + '"'
        by, avg = quote(args.by), quote(args.avg)
        query = f"select {by}, avg({avg}) from read_parquet(?, hive_partitioning = false) group by {by} order by {by}"
        times, found = {"own": [], "pyarrow": []}, []
        with duckdb.connect() as session:
            for repeat in range(REPEATS + 1):
                for name, paths in [("own", own), ("pyarrow", others)][:: 1 if repeat % 2 else -1]:
                    began = time.perf_counter()
                    rows = session.execute(query, [paths]).fetchall()
                    if repeat:
                        times[name].append((time.perf_counter() - began) * 1e3)
                    found.append([(key, round(value, 6)) for key, value in rows])
            count = session.execute("select count(*) from read_parquet(?)", [own]).fetchone()[0]
        if any(rows != found[0] for rows in found):
            sys.exit("the two sets of files do not say the same")
        size = lambda paths: sum(os.path.getsize(path) for path in paths)
        bytes_own, bytes_pyarrow = size(own), size(others)
        ms_own, ms_pyarrow = statistics.median(times["own"]), statistics.median(times["pyarrow"])
        figures = {
            "schema": "forebay.compare-files/1",
            "files": len(own),
            "rows": count,
            "compression": codec,
            "bytes": bytes_own,
            "pyarrow_bytes": bytes_pyarrow,
            "bytes_ratio": round(bytes_own / bytes_pyarrow, 3),
            "query": query,
            "ms": round(ms_own, 2),
            "pyarrow_ms": round(ms_pyarrow, 2),
            "ms_ratio": round(ms_own / ms_pyarrow, 3),
            "pyarrow": pyarrow.__version__,
            "duckdb": duckdb.__version__,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
