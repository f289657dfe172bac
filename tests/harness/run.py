#!/usr/bin/env python3
"""Tests of the limaquota command: run.py [--at-once N] LIMAQUOTA WORKDIR TESTS-DIRECTORY [FILE | FILE.TEST]...

Runs every function test_* of TESTS-DIRECTORY/*_test.py; each gets `new_home`, which makes a harness.Home in a
directory of its own. As root or as an ordinary user. Prints a line for each test: `ok NAME`, `not ok NAME why` or
`skip NAME why`; last a line `N passed, N failed, N skipped`. Exit status 1 where one failed. WORKDIR is made where it
does not exist; what the tests make in it is removed. N tests run at once (1 unless given): those that mostly wait may,
those with a QEMU, which spins while its guest waits, keep each other from going on.
"""
import argparse
import concurrent.futures
import glob
import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True  # no __pycache__ in the source tree
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import Broken, Home, Skip  # noqa: E402 (needs the path above)

RUN = {}  # name: arguments of run_test; filled before the processes are forked, since functions cannot be sent to them
NEEDED = ("qemu-system-x86_64", "qemu-img", "as", "ld")


def tests_of(directory):
    """Name to function, in the order in which they stand in their files."""
    tests = {}
    for path in sorted(glob.glob(os.path.join(directory, "*_test.py"))):
        name = os.path.basename(path)[:-len("_test.py")]
        spec = importlib.util.spec_from_file_location(name + "_test", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for function_name, function in vars(module).items():
            if function_name.startswith("test_"):
                tests[f"{name}.{function_name[5:]}"] = function
    return tests


def run_test(function, limaquota, workdir):
    """("ok" | "skip" | "not ok", why)."""
    homes = []

    def new_home(**how):
        homes.append(Home(limaquota, tempfile.mkdtemp(prefix="t", dir=workdir), **how))
        return homes[-1]

    outcome, why = "ok", ""
    try:
        function(new_home)
    except Skip as skip:
        outcome, why = "skip", str(skip)
    except Broken as broken:
        outcome, why = "not ok", str(broken)
    except Exception:  # whatever it is, the other tests still run
        outcome, why = "not ok", traceback.format_exc()
    for home in homes:
        if outcome == "not ok" and os.path.exists(os.path.join(home.directory, "log")):
            why += f" [log: {home.log().strip()[-2000:]}]"
        home.abandon()
        try:
            home.remove()
        except OSError as error:
            outcome, why = "not ok", f"{why} cannot remove {home.directory}: {error}"
    return outcome, " ".join(why.split())


def timed(name):
    """Runs a test and tells of it; gives (name, outcome, why)."""
    started = time.monotonic()
    outcome, why = run_test(*RUN[name])
    print(f"{outcome} {name} ({time.monotonic() - started:.1f} s) {why}".rstrip(), flush=True)
    return name, outcome, why


def run_all(tests, limaquota, workdir, at_once):
    """Name to (outcome, why)."""
    RUN.update({name: (function, limaquota, workdir) for name, function in tests.items()})
    fork = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(at_once, mp_context=fork) as pool:
        return {name: (outcome, why) for name, outcome, why in pool.map(timed, tests)}


def why_skip():
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not open to this user"
    return None


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--at-once", type=int, default=1)
    for name in ("limaquota", "workdir", "directory"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("tests", nargs="*")
    given = parser.parse_args()
    # A shell starts what it puts into the background with SIGINT ignored, and nohup with SIGHUP, and so would every
    # program tested be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    limaquota, workdir, directory = given.limaquota, given.workdir, given.directory
    os.makedirs(workdir, exist_ok=True)
    tests = tests_of(directory)
    chosen = {name: test for name, test in tests.items()
              if not given.tests or name in given.tests or name.split(".")[0] in given.tests}
    if given.tests and not chosen:
        parser.error(f"no such test: {' '.join(given.tests)}")
    skip = why_skip()
    if skip:
        results = {name: ("skip", skip) for name in chosen}
        for name in chosen:
            print(f"skip {name} {skip}", flush=True)
    else:
        results = run_all(chosen, limaquota, workdir, given.at_once)
    counts = {outcome: sum(result[0] == outcome for result in results.values()) for outcome in ("ok", "not ok", "skip")}
    print(f"{counts['ok']} passed, {counts['not ok']} failed, {counts['skip']} skipped")
    return 1 if counts["not ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
