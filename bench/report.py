"""What the samples say: ratios of the samples of one round, goals, and the table as text, Markdown and a drawing."""
import statistics
from dataclasses import asdict

import chart
import machine
from peers import COMPARED, URING
from workloads import BEST_PEER, Goal

OURS = "limaquota"
PEERS = {peer.name for peer in COMPARED if peer.is_peer}


def result_of(row, filesystem, samples, missing):
    """A row's samples with all that a report needs, as it stands in the JSON."""
    goals = [{"kind": "ratio" if isinstance(goal, Goal) else "limit", **asdict(goal)} for goal in row.goals]
    return {"row": row.name, "title": row.title, "unit": row.unit, "more_is_better": row.more_is_better,
            "filesystem": filesystem, "goals": goals, "samples": samples, "skipped": missing}


def best_peer(result):
    """The name of the peer with the best median; None where none was measured."""
    medians = {name: statistics.median(samples) for name, samples in result["samples"].items() if name in PEERS}
    if not medians:
        return None
    return (max if result["more_is_better"] else min)(medians, key=medians.get)


def ratios(result, ours, against):
    """How many times as good `ours` was as `against`, in each round: above 1 is better, whatever the unit."""
    pairs = zip(result["samples"][ours], result["samples"][against])
    return [(mine / other if result["more_is_better"] else other / mine) for mine, other in pairs]


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def verdict(result, goal):
    """What became of a goal, as a line; None where there is nothing to compare with."""
    samples = result["samples"]
    if goal["ours"] not in samples:
        return None
    if goal["kind"] == "limit":
        median = statistics.median(samples[goal["ours"]])
        asked = f"at most {number(goal['at_most'])} {result['unit']}"
        if median <= goal["at_most"]:
            return f"{asked}: reached"
        return f"{asked}: not reached: {number(median)}"
    against = best_peer(result) if goal["against"] == BEST_PEER else goal["against"]
    if against not in samples:
        return None
    values = ratios(result, goal["ours"], against)
    median = statistics.median(values)
    asked = f">= {goal['at_least']:g} of {goal['against']}"
    if goal["ours"] not in (OURS, URING.name):
        asked = f"{goal['ours']} {asked}"
    if goal["against"] != BEST_PEER:
        asked += f": {spread(values)}"
    if median >= goal["at_least"]:
        return f"{asked}: reached"
    missed = f"{asked}: not reached: {median / goal['at_least']:.2f} of the goal"
    if goal["ours"] == OURS and URING.name in samples:
        missed += f"; with io_uring {verdict(result, {**goal, 'ours': URING.name})}"
    return missed


def verdicts(result):
    return [line for line in (verdict(result, goal) for goal in result["goals"]) if line]


def cells(result):
    """A compared row as the table has it."""
    samples, peer = result["samples"], best_peer(result)
    median = {name: number(statistics.median(values)) for name, values in samples.items()}
    return [
        f"{result['title']}, {result['unit']}",
        result["filesystem"],
        median.get("native", "-"),
        f"{median[peer]} ({peer})" if peer else "-",
        median.get(OURS, "-"),
        spread(ratios(result, OURS, "native")) if {OURS, "native"} <= samples.keys() else "-",
        spread(ratios(result, OURS, peer)) if peer and OURS in samples else "-",
        median.get(URING.name, "-"),
        spread(ratios(result, URING.name, peer)) if peer and URING.name in samples else "-",
        "; ".join(verdicts(result)),
    ]


HEADINGS = ["row", "on", "native", "best peer", "limaquota", "of native", "of best peer", "with io_uring", "of best peer", "goal"]


def compared(whole):
    return [result for result in whole["results"] if best_peer(result)]


def others(whole):
    """Lines of the rows that have no peers: every variant's median and spread, then the goals."""
    for result in whole["results"]:
        if best_peer(result):
            continue
        if not result["samples"]:
            yield result, f"skipped: {'; '.join(result['skipped'].values())}"
            continue
        figures = ", ".join(f"{name}: {number(statistics.median(values))} ({number(min(values))}..{number(max(values))})"
                            for name, values in result["samples"].items())
        yield result, f"{figures} {result['unit']}"


def footer(whole):
    rounds = [len(values) for result in whole["results"] for values in result["samples"].values()]
    load = whole["started"]["load_average"][0]
    lines = [f"On {machine.sentence(whole['machine'])}; {min(rounds, default=0)} to {max(rounds, default=0)} rounds, "
             f"load at the start {load:.1f}, at the end {whole['ended']['load_average'][0]:.1f}, {whole['started']['time']}.",
             "Ratios above 1: limaquota is better; median of the rounds' ratios (least..most)."]
    if whole.get("files", 20000) < 20000:
        lines.append(f"{whole['files']:,} small files, as a peer that holds a descriptor for each cannot have 20,000 here.")
    skipped = {f"skipped: {reason}" for result in compared(whole) for reason in result["skipped"].values()}
    return lines + sorted(skipped) + (["--quick: too short to be believed."] if whole["quick"] else [])


def table(whole):
    rows = [HEADINGS] + [cells(result) for result in compared(whole)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows] if rows[1:] else []
    for result, text in others(whole):
        lines.append(f"{result['title']}, {result['filesystem']}: {text}")
        lines += [f"    {line}" for line in verdicts(result)]
    return "\n".join(lines + footer(whole))


def markdown(whole):
    def line(parts):
        return f"| {' | '.join(parts)} |"

    lines = [line(HEADINGS), line(["---"] * len(HEADINGS))] + [line(cells(result)) for result in compared(whole)]
    alone = [line([result["title"], result["filesystem"], text, "; ".join(verdicts(result))])
             for result, text in others(whole)]
    if alone:
        lines += ["", line(["without peers", "on", "median (least..most)", "goal"]), line(["---"] * 4)] + alone
    return "\n".join(lines + [""] + footer(whole))


def svg(whole):
    """For each compared row how many times as good as the best peer, without and with io_uring."""
    bars = []
    for result in compared(whole):
        for ours, label in ((OURS, f"{result['title']}, {result['filesystem']}"), (URING.name, "with io_uring")):
            if ours in result["samples"]:
                values = ratios(result, ours, best_peer(result))
                bars.append(chart.Bar(label, best_peer(result), statistics.median(values), min(values), max(values)))
    return chart.draw("limaquota with limits on, against the best of its peers in each row", bars,
                      machine.sentence(whole["machine"]))
