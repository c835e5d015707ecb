"""summary.md, and what is said at the end."""

from . import matrix, summary


def load(entry):
    writers = entry["writers"]
    return f"{entry['block']}, {writers} writer{'s' if writers > 1 else ''}, {entry['in_flight']} in flight"


def percent(value):
    return f"{abs(value):.1f} % {'slower' if value >= 0 else 'faster'}"


def with_interval(entry):
    """The drop with its interval."""
    drop = entry["drop_percent"]
    if drop["interval"] is None:
        return f"{percent(drop['median'])} (one round: no interval)"
    low, high = drop["interval"]
    if low >= 0 or high < 0:
        ends = f"{abs(low):.1f} to {abs(high):.1f}"
    else:
        ends = f"{-low:.1f} faster to {high:.1f} slower"
    return f"{percent(drop['median'])} [{ends}]"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def micros(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    if value >= 1e3:
        return f"{value / 1e3:.2f} ms"
    return f"{value:.2f} us"


def is_drop(entry):
    return not entry["against"].startswith(matrix.FILE)


def drops(figures):
    """Both readings of the published figure, for a terminal."""
    shown = [entry for entry in figures["comparisons"] if (entry["of"], entry["against"]) in summary.READINGS]
    lines = [f"{load(entry)}: {entry['of']} against {entry['against']}: {with_interval(entry)}{bound(entry)}" for entry in shown]
    return "\n".join(lines) or "no round has two settings to compare"


def bound(entry):
    return f"; runs bound by the {' or the '.join(entry['bound_by'])}, not by the log" if entry["bound_by"] else ""


def verdict(gate):
    """What the gate says, and its exit code."""
    allowed = f"{gate['max_drop_percent']:g} %"
    both = "(2,3000) against (1) and (2,0) against (2,3000), median of the paired ratios"
    if gate["judged"] == 0:
        return f"gate: nothing to judge: no round has both settings with {gate['writers']} writers ({both})", 1
    if not gate["beyond"]:
        return f"gate: passed: none of {gate['judged']} drops is beyond {allowed} ({both}, {gate['writers']} writers)", 0
    lines = [f"gate: failed: beyond {allowed} ({both}):"]
    for entry in gate["beyond"]:
        low = (entry["drop_percent"]["interval"] or [None])[0]
        sure = "" if low is not None and low > gate["max_drop_percent"] else "; its interval is not wholly beyond"
        lines.append(f"  {load(entry)}: {entry['of']} against {entry['against']}: {with_interval(entry)}{sure}{bound(entry)}")
    return "\n".join(lines), 3


def machine(env):
    if not env:
        return ["The machine is not recorded: there is no env.json."]
    queue = env.get("queue") or {}
    plan = env["plan"]
    words = [f"Commit {env['commit']}, {env['date']}, kernel {env['kernel']}, {env['cpu']['model']} ({env['cpu']['cores']} cores),"]
    words.append(f"{env['file_system']} ({env['mount_options']}) on {queue.get('disk') or env['device']},")
    words.append(f"write cache: {queue.get('write_cache')}, scheduler: {queue.get('scheduler')}; load average at the beginning {env['load_average'][0]:.1f}.")
    words.append(f"Preset {plan['preset']}: {plan['rounds']} rounds of {plan['runs_a_round']} runs of {plan['seconds']} s,")
    words.append(f"order from seed {plan['seed']}.")
    return [" ".join(words)]


def drop_rows(figures):
    for entry in filter(is_drop, figures["comparisons"]):
        bound_by = ", ".join(entry["bound_by"]) or "-"
        compared = f"{entry['of']} against {entry['against']}"
        yield [load(entry), compared, with_interval(entry), entry["rounds"], bound_by]


def file_rows(figures):
    for entry in figures["comparisons"]:
        if not is_drop(entry):
            ends = entry["ratio"]["interval"]
            shown = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
            yield [load(entry), entry["of"], f"{entry['ratio']['median']:.2f} x{shown}", entry["rounds"]]


def cell_rows(figures):
    for cell in figures["cells"]:
        pace, ack, stalls = cell["blocks_per_s"], cell["ack_us"], cell["stalls"]
        bound_by = ", ".join(f"{name} ({count} runs)" for name, count in cell["bound_by"].items())
        yield [
            load(cell),
            cell["setting"],
            f"{pace['median']:,.0f} ({pace['least']:,.0f} to {pace['most']:,.0f})",
            f"{cell['bytes_per_s']['median'] / (1 << 20):,.1f}",
            micros(ack["p50"]),
            micros(ack["p99"]),
            micros(ack["max"]),
            f"{cell['fsyncs_per_s']:,.1f}",
            f"{stalls['count']}, {stalls['longest_ms']} ms" if stalls["count"] else "none",
            bound_by or "-",
        ]


def caveats(figures):
    rounds = max((entry["rounds"] for entry in figures["comparisons"]), default=0)
    lines = []
    if 0 < rounds < 6:
        most = summary.most_coverage(rounds) * 100
        lines.append(
            f"Of {rounds} rounds even the range from the least to the greatest ratio holds the true median with"
            f" {most:.1f} % only: read these intervals as no surer than that."
        )
    lines += sorted({f"Warning of load-test: {warning}." for cell in figures["cells"] for warning in cell["warnings"]})
    for record in figures["left_out"]:
        lines.append(f"Left out: round {record['round']}, {load(record)}, {record['setting']}: {record['why']}.")
    return lines


def markdown(figures, env):
    """All of summary.md."""
    parts = ["# What fsync costs", *machine(env)]
    parts.append(
        "A drop is by how much a setting is slower than another one in acknowledged blocks a second, up to the final sync: the median"
        " of the ratios within each round, in brackets the bootstrap's 95 % interval (10,000 resamples of the rounds)."
    )
    parts += caveats(figures)
    if "gate" in figures:
        parts.append("```\n" + verdict(figures["gate"])[0] + "\n```")
    parts += ["## Drops", "![drop by setting](drop.svg)"]
    parts.append(table(["load", "compared", "drop [95 %]", "rounds", "bound by something else"], drop_rows(figures)))
    parts += ["## Against the plain file", table(["load", "setting", "times the plain file [95 %]", "rounds"], file_rows(figures))]
    parts += ["## Each setting", "![throughput by writers](writers.svg)", "![latency](latency.svg)", "![time line](timeline.svg)"]
    parts.append(
        f"Medians of the rounds (least to most). A stall: at least {summary.STALL_MS} ms in which less than a tenth of"
        " the run's mean pace was acknowledged."
    )
    head = ["load", "setting", "blocks/s", "MiB/s", "ack p50", "p99", "max", "fsyncs/s", "stalls, longest", "bound by (runs)"]
    parts.append(table(head, cell_rows(figures)))
    return "\n\n".join(parts) + "\n"
