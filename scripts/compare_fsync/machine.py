"""env.json: what figures depend on, as far as the system tells."""

import datetime
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

# Of /sys/block/DEVICE/queue.
QUEUE = (
    "scheduler",
    "rotational",
    "write_cache",
    "fua",
    "nr_requests",
    "read_ahead_kb",
    "max_sectors_kb",
    "logical_block_size",
    "physical_block_size",
    "wbt_lat_usec",
    "nomerges",
    "rq_affinity",
    "io_poll",
)


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def said(*command):
    """What a program says, or nothing where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def mount_of(folder, mounts):
    """The innermost mount that holds the folder, from the text of /proc/self/mountinfo."""
    best, found = -1, {}
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        left, right = left.split(" "), right.split(" ")
        point = left[4].replace("\\040", " ")
        inside = point == "/" or folder == point or folder.startswith(point + "/")
        if inside and len(point) >= best:
            best = len(point)
            found = {"file_system": right[0], "device": right[1], "mount_options": left[5]}
            found |= {"super_options": right[2], "device_number": left[2]}
    return found


def queue_of(number):
    """Settings of the disk that holds a device such as 254:1; none for what is no block device."""
    device = Path(f"/sys/dev/block/{number}")
    if not device.exists():
        return None
    device = device.resolve()
    # A partition has the queue of its disk.
    disk = device if (device / "queue").exists() else device.parent
    settings = {name: read(disk / "queue" / name) for name in QUEUE}
    return {"disk": disk.name, "model": read(disk / "device/model"), **settings}


def cpu():
    models = [line.partition(": ")[2] for line in (read("/proc/cpuinfo") or "").splitlines() if "model name" in line]
    scaling = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return {"model": models[0] if models else None, "cores": len(os.sched_getaffinity(0)), "governor": read(scaling)}


def memory_bytes():
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return None


def commit(tree):
    """Of the tree, short; `-changed` behind it where files differ from it."""
    name = said("git", "-C", str(tree), "rev-parse", "--short", "HEAD")
    changed = said("git", "-C", str(tree), "status", "--porcelain", "--untracked-files=no")
    return (name or "unknown") + ("-changed" if changed else "")


def host():
    return socket.gethostname().partition(".")[0] or "host"


def describe(folder, tree):
    """All of it, for stores in `folder` and the program of `tree`."""
    mount = mount_of(str(Path(folder).resolve()), read("/proc/self/mountinfo") or "")
    space = os.statvfs(folder)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "host": host(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "virtualization": said("systemd-detect-virt"),
        "cpu": cpu(),
        "memory_bytes": memory_bytes(),
        **mount,
        "free_bytes": space.f_bavail * space.f_frsize,
        "queue": queue_of(mount.get("device_number")),
        "vm": {path.name: read(path) for path in sorted(Path("/proc/sys/vm").glob("dirty*"))},
        "rustc": said("rustc", "-V"),
        "cargo": said("cargo", "-V"),
        "python": sys.version.split()[0],
        "commit": commit(tree),
    }
