"""What a run was taken on."""
import datetime
import os
import platform

from place import GIB, meminfo, run


def now():
    """When, and how busy the machine was beside the run."""
    return {"time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "load_average": os.getloadavg()}


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def facts(peers):
    return {
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": meminfo("MemTotal"),
        "kernel": platform.release(),
        "libfuse": run("pkg-config", "--modversion", "fuse3").strip(),
        "fio": run("fio", "--version").strip(),
        "versions": {peer.name: peer.version() for peer in peers if not peer.why_missing()},
    }


def sentence(machine):
    return (f"{machine['cpus']} CPUs ({machine['processor']}), {machine['memory_bytes'] / GIB:.0f} GiB, Linux {machine['kernel']}, "
            f"libfuse {machine['libfuse']}, {machine['fio']}")
