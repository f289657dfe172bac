#!/usr/bin/env python3
"""Measures limaquota beside what people could mount instead; bench/run.sh builds what is needed and calls this.

Every row takes its samples in turns (ABCABC, the order rotated each round), each on a mount of its own over the same
files, and is told as the ratio of the samples of one round: median, least and most. Progress goes to standard error,
the table to standard output. bench/README.md says what each row does.
"""
import argparse
import contextlib
import dataclasses
import json
import os
import re
import resource
import sys
import time

sys.dont_write_bytecode = True

import alone  # noqa: E402 (no __pycache__ in the sources)
import kernel  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import workloads  # noqa: E402
from peers import COMPARED, UNMETERED, Broken  # noqa: E402
from place import FULL, QUICK, backing, files_for_all, run, say  # noqa: E402

BUILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build")
OPEN_FILES = 1 << 18
ROWS = workloads.ROWS + alone.ROWS + kernel.ROWS


def parse(arguments):
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small files, short jobs, 2 rounds: only to see that it works")
    parser.add_argument("--rounds", type=int, help="rounds of each row (default 5; 2 with --quick)")
    parser.add_argument("--rows", metavar="REGEX", default="", help="only rows whose name has a match; `kernel` runs so only")
    parser.add_argument("--on", metavar="FS,...", default="tmpfs,ext4", help="filesystems (default tmpfs,ext4)")
    parser.add_argument("--one-cpu", action="store_true",
                        help="writers and daemons on one CPU: what each costs, without what the scheduler makes of it")
    parser.add_argument("--json", metavar="FILE", help="write all samples, and what they were taken on")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--svg", metavar="FILE", help="draw the ratios")
    parser.add_argument("--from", metavar="FILE", dest="samples", help="measure nothing: report the samples of a --json file")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.on = options.on.split(",")
    if options.rounds < 1 or not set(options.on) <= {"tmpfs", "ext4"}:
        parser.error("--rounds is at least 1, --on takes tmpfs and ext4")
    return options


def wanted(row, options):
    if row.on_demand:
        return bool(options.rows) and re.fullmatch(options.rows, row.name)
    return re.search(options.rows, row.name)


def sample(row, variant, place):
    place.use_home(variant.home)
    row.prepare(place, variant)
    mountpoint = os.path.join(os.path.dirname(place.root), "view")
    with variant.peer.mounted(place.home, mountpoint) as (view, daemon):
        place.view, place.daemon = view, daemon
        return row.measure(place, variant)


def measure(row, place, rounds):
    """The row's samples, one a round for each variant that is here."""
    missing = {variant.name: variant.peer.why_missing() for variant in row.variants if variant.peer.why_missing()}
    present = [variant for variant in row.variants if variant.name not in missing]
    samples = {variant.name: [] for variant in present}
    for number in range(min(rounds, row.most_rounds)):
        turn = number % len(present)
        for variant in present[turn:] + present[:turn]:
            if variant.name in missing:
                continue
            start = time.monotonic()
            try:
                value = sample(row, variant, place)
            except (Broken, OSError) as error:
                if not variant.peer.is_peer:
                    raise
                # A peer that cannot do it loses the row, not the run.
                missing[variant.name] = f"{variant.name} failed: {error}"
                say(f"  {missing[variant.name]}")
                continue
            samples[variant.name].append(value)
            say(f"  round {number + 1}  {variant.name:<22} {value:12,.2f} {row.unit}  ({time.monotonic() - start:.1f} s)")
    for home in {variant.home for variant in row.variants} - {"home"}:
        run("rm", "-rf", os.path.join(place.root, home))
    return {name: values for name, values in samples.items() if name not in missing}, missing


def measure_all(options, results, done):
    """Appends to the results, and says so after each row: a run that is cut off has not been for nothing."""
    work = os.path.join(BUILD, "bench", "work")
    for filesystem in options.on:
        rows = [row for row in ROWS if filesystem in row.filesystems and wanted(row, options)]
        if not rows:
            continue
        sizes = QUICK if options.quick else FULL
        sizes = dataclasses.replace(sizes, files=files_for_all(sizes.files))
        with backing(filesystem, work, sizes) as place:
            for row in rows:
                say(f"{filesystem}: {row.title} ({row.name})")
                reason = row.why_not(place)
                samples, missing = ({}, {"all": reason}) if reason else measure(row, place, options.rounds)
                results.append(report.result_of(row, filesystem, samples, missing))
                done()


def save(whole, path):
    whole["ended"] = machine.now()
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1)


def allow_open_files():
    """libfuse's examples hold a descriptor for each file that the kernel knows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, OPEN_FILES), hard):
        with contextlib.suppress(ValueError):  # root's right to raise it may have been taken away
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return


def main(arguments):
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{row.name:<16} {row.title}, on {' and '.join(row.filesystems)}"
                        f"{'; only on demand' if row.on_demand else ''}" for row in ROWS))
        return 0
    if options.samples:
        with open(options.samples, encoding="utf-8") as file:
            whole = json.load(file)
    else:
        allow_open_files()
        if options.one_cpu:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        whole = {"machine": machine.facts((*COMPARED, UNMETERED)), "started": machine.now(), "quick": options.quick,
                 "files": files_for_all(FULL.files),
                 "results": []}
        measure_all(options, whole["results"], lambda: save(whole, options.json))
    print(report.table(whole))
    for path, text in ((options.markdown, report.markdown), (options.svg, report.svg)):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text(whole) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Broken as broken:
        sys.exit(f"bench/run.sh: {broken}")
