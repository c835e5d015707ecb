#!/bin/sh
# Makes tests/data/nyc-weather-2000.lp: the first 2,000 lines of the weather file that is named
# (line protocol, gzip).
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 path/to/nyc-weather.lp.gz" >&2
    exit 2
fi
target="$(dirname "$0")/../tests/data/nyc-weather-2000.lp"
mkdir -p "$(dirname "$target")"
gzip -dc "$1" | sed 2000q >"$target"
