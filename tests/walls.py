#!/usr/bin/env python3
"""Walls: what each wing may include, as the CMakeLists.txt of fs/ and mount-helpers/ declare it with `wing(NAME USES...)`.

An include that climbs, one that no wing declares, a declaration that nothing uses, and a circle of files within a wing
are faults. Prints a line for each wing; the exit status is 0 when there is no fault.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)
HOUSES = ["accounting", "fs", "mount-helpers"]  # from the ground up


def declared(house):
    """The wings of a house in the order of their declaration, each with those it may use."""
    text = (ROOT / house / "CMakeLists.txt").read_text()
    return {words[0]: words[1:] for words in
            (match.split() for match in re.findall(r"^wing\(([^)]*)\)", text, re.M))}


def place(path):
    """The house and the wing of a source; a house without wings is one wing named ''."""
    parts = pathlib.PurePosixPath(path).parts
    return parts[0], parts[1] if len(parts) > 2 else ""


def sources(directory):
    return sorted(p for p in directory.iterdir() if p.suffix in (".cpp", ".hpp"))


def includes(source):
    return [target for target in INCLUDE.findall(source.read_text()) if place(target)[0] in HOUSES]


def circles(files):
    """Circles among the headers, and from a header through its own source back: unit by unit, as one reads them."""
    unit = lambda path: str(path)[:-4]
    graph = {}
    for source in files:
        here = unit(source.relative_to(ROOT))
        graph.setdefault(here, set()).update(t[:-4] for t in includes(source) if t[:-4] != here)
    state, stack, found = {}, [], []

    def visit(node):
        state[node] = "open"
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in graph:
                continue
            if state.get(target) == "open":
                found.append(stack[stack.index(target):] + [target])
            elif target not in state:
                visit(target)
        stack.pop()
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            visit(node)
    return found


def check(house, wing, files, allowed, problems):
    used = set()
    for source in files:
        name = source.relative_to(ROOT)
        for target in includes(source):
            if not (ROOT / target).is_file():
                continue  # made by the build
            to_house, to_wing = place(target)
            if HOUSES.index(to_house) < HOUSES.index(house):
                continue
            if to_house != house:
                problems.append(f"{name} includes {target}: {house}/ stands below {to_house}/")
            elif wing and to_wing != wing:
                used.add(to_wing)
                if to_wing not in allowed:
                    problems.append(f"{name} includes {target}: {house}/{wing} may use {', '.join(allowed) or 'none'}")
    for circle in circles(files) if wing else ():
        problems.append(f"{house}/{wing}: a circle: {' -> '.join(circle)}")
    for unused in sorted(set(allowed) - used):
        problems.append(f"{house}/CMakeLists.txt: {wing} uses {unused} no more: take it off the list")


def check_house(house):
    """The problems of each wing of a house; of a house without wings as a whole."""
    wings = declared(house)
    if not wings:
        problems = []
        check(house, "", [p for p in (ROOT / house).rglob("*.[ch]pp")], [], problems)
        return {house: problems}
    found = {}
    folders = [p.name for p in sorted((ROOT / house).iterdir()) if p.is_dir() and sources(p)]
    for wing in [*wings, *(name for name in folders if name not in wings)]:
        problems = found[f"{house}/{wing}"] = []
        if wing not in wings:
            problems.append(f"{house}/CMakeLists.txt declares no wing {wing}")
            continue
        below = list(wings)[: list(wings).index(wing)]
        problems += [f"{house}/CMakeLists.txt: {wing} uses {other}, which stands no lower"
                     for other in wings[wing] if other not in below]
        check(house, wing, sources(ROOT / house / wing), wings[wing], problems)
    return found


def main():
    failed = False
    for house in HOUSES:
        for name, problems in check_house(house).items():
            print("not ok" if problems else "ok", name)
            for problem in problems:
                print("  " + problem)
            failed = failed or bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
