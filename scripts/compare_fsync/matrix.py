"""What is measured: cells (a setting of the engine or of the plain file under one load) in groups that share
the load, and the order of a round."""

import random
from dataclasses import dataclass

PERIODS_MS = (0, 1, 10, 100, 1000, 3000)
WRITERS = (1, 10, 50, 200)
IN_FLIGHT = (1, 16)
# Name of a block, and the options of load-test that make it. All go to the log alone: a store that is slower
# than the log would be what is measured.
BLOCKS = {
    "128 B": ("--block-bytes", "128"),
    "4 KiB": ("--block-bytes", "4096"),
    "64 KiB": ("--block-bytes", "65536"),
    "10,000 rows": ("--rows-per-block", "10000", "--store", "none"),
}
# How blocks are named on the command line.
BLOCK_WORDS = {"128": "128 B", "4k": "4 KiB", "64k": "64 KiB", "meters": "10,000 rows"}
LEVEL_1 = "(1)"
FILE = "plain file "


@dataclass(frozen=True)
class Group:
    """One load."""

    block: str
    in_flight: int
    writers: int


@dataclass(frozen=True)
class Cell:
    """One setting under one load."""

    group: Group
    setting: str

    def options(self):
        """For load-test."""
        found = [*BLOCKS[self.group.block], "--writers", str(self.group.writers)]
        found += ["--in-flight", str(self.group.in_flight)]
        setting = self.setting
        if setting.startswith(FILE):
            found.append("--baseline=only")
            setting = setting.removeprefix(FILE)
        level, _, period = setting.strip("()").partition(",")
        return found + ["--wal-level", level] + (["--wal-fsync-period", period] if period else [])


def level_2(period_ms):
    return f"(2,{period_ms})"


def place(setting):
    """Sorts settings: the engine's from the one that syncs least, then the plain file's."""
    is_file = setting.startswith(FILE)
    level, _, period = setting.removeprefix(FILE).strip("()").partition(",")
    return is_file, int(level), -int(period or 0)


def quick():
    """Both drops with 50 writers and with one, at 4 KiB and for requests of rows."""
    both_drops = (LEVEL_1, level_2(3000), level_2(0))
    settings = {
        Group("4 KiB", 1, 50): (*both_drops, FILE + LEVEL_1),
        Group("4 KiB", 1, 1): both_drops,
        Group("10,000 rows", 1, 50): both_drops,
    }
    return {group: [Cell(group, setting) for setting in found] for group, found in settings.items()}


def product(blocks, in_flights, writers, periods_ms):
    """Every combination; level 1 and the plain file are in each."""
    settings = [LEVEL_1, *(level_2(period) for period in sorted(periods_ms, reverse=True)), FILE + LEVEL_1]
    if 0 in periods_ms:
        settings.append(FILE + level_2(0))
    groups = [Group(block, depth, count) for block in blocks for depth in in_flights for count in writers]
    return {group: [Cell(group, setting) for setting in settings] for group in groups}


def order(groups, seed, number):
    """The cells of a round: groups in random order, and the cells of each, so that what is compared ran within
    minutes, and none always behind the same other one, whose traces in the disk it would bear."""
    rng = random.Random(f"{seed} round {number}")
    found = list(groups.values())
    rng.shuffle(found)
    return [cell for cells in found for cell in rng.sample(cells, len(cells))]
