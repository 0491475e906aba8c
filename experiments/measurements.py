"""Tables of measurements other than runs, from the JSON files beside a page, as rows of cells, header first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiments.tables import Table
from lipcert.reporting.tables import percent

Files = Mapping[str, Mapping[str, Any]]
"""What JSON files hold, by the path from the page."""

NETWORKS = {"4c3f": "4C3F", "6c2f": "6C2F", "clipped_relu": "clipped ReLU", "clipped_maxmin": "clipped MaxMin"}

SECONDS = {
    "power iterations, s an image": "power_iteration_seconds_per_image",
    "the cascade, s an image": "cascade_seconds_per_image",
    "`tight` alone, s an image": "tight_seconds_per_image",
}
RATIOS = {"power iterations over the cascade": "power_to_cascade", "over `tight` alone": "power_to_tight"}
CERTIFIED = {
    "certified %, network as executed: cascade, at most by exact norms": "certified_executed",
    "certified %, weights as real numbers: the same": "certified_exact",
}
"""Rows of `costs`: keys of what was measured."""


def steps(files: Files) -> Table:
    """Return what training steps of `lipcert.benchmark` cost, over plain ones of the same network."""
    table = [["network", "plain s", "global / plain", "local / plain", "tight / plain", "local / global"]]
    table[0] += ["memory, local / plain", "numbers"]
    for name, rows in ((name, file["rows"]) for name, file in files.items()):
        for model, activation in dict.fromkeys((row["model"], row["activation"]) for row in rows):
            found = {row["bound"]: row for row in rows if (row["model"], row["activation"]) == (model, activation)}
            ratios = [found[bound]["ratio_to_plain"] for bound in ("global", "local", "tight")]
            ratios.append(found["local"]["seconds"] / found["global"]["seconds"])
            ratios.append(found["local"]["peak_memory_mb"] / found["plain"]["peak_memory_mb"])
            cells = [f"{NETWORKS[model]}, {NETWORKS[activation]}", f"{found['plain']['seconds']:.4f}"]
            table.append([*cells, *(f"{ratio:.2f}" for ratio in ratios), f"[{name}]({name})"])
    return table


def growth(files: Files) -> Table:
    """Return a row a kind of growth and bound: seconds and memory at each size, the exponent of seconds."""
    table = [["grows", "sizes", "bound", "seconds", "MB", "seconds ~ size^"]]
    for measured, fit in ((each, fit) for each in files.values() for fit in each["exponents"]):
        rows = [row for row in measured["rows"] if (row["growth"], row["bound"]) == (fit["growth"], fit["bound"])]
        sizes = ", ".join(f"{row['size']:g}" for row in rows)
        seconds = ", ".join(f"{row['seconds']:.4f}" for row in rows)
        memory = ", ".join("-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}" for row in rows)
        kind, bound = (fit[key].replace("_", " ") for key in ("growth", "bound"))
        table.append([kind, sizes, bound, seconds, memory, f"{fit['exponent']:.2f}"])
    return table


def estimates(files: Files) -> Table:
    """Return estimates of norms over exact ones, a row a network, kind of warm start and number of iterations."""
    table = [["network", "kind", "iterations", "mean %", "worst %", "product: mean %", "worst %", "mean % by layer"]]
    table[0] += ["time", "bytes an image"]
    for name, network in ((name, network) for file in files.values() for name, network in file["networks"].items()):
        timings = {(each["kind"], each["iterations"]): each["ratio"] for each in network["timings"]}
        for row in network["rows"]:
            kind, iterations = row["kind"], row["iterations"]
            shares = [percent(row[key]) for key in ("mean", "worst", "product_mean", "product_worst")]
            layers = " ".join(percent(each) for each in row["layers"])
            cost = [f"{timings[kind, iterations]:.2f}", f"{network['bytes'][kind]:,}"]
            table.append([name, kind, str(iterations), *shares, layers, *cost])
    return table


def costs(files: Files) -> Table:
    """Return seconds and accuracies of sound certificates beside those of power iteration and of exact norms."""
    measured = list(files.values())
    table = [["", *(f"[{name}]({name})" for name in files)]]
    for label, key in SECONDS.items():
        table.append([label, *(f"{each[key]:.3f}" for each in measured)])
    for label, key in RATIOS.items():
        table.append([label, *(f"{each[key]:.1f}" for each in measured)])
    for label, key in CERTIFIED.items():
        found = [(each[key], each[f"{key}_by_exact_norms_at_most"]) for each in measured]
        table.append([label, *(f"{percent(sound)}, {percent(exact)}" for sound, exact in found)])
    failure = [f"{each['failure_probability']:.1e}" for each in measured]
    return [*table, ["some statement may fail with probability", *failure]]


def refutations(files: Files) -> Table:
    """Return what tried to refute certificates, and what it found."""
    table = [["", *(f"[{name}]({name})" for name in files)]]
    columns = []
    for file in files.values():
        ratios, attacks = file["norms"]["ratios"], file["attacks"]
        above = percent(max(each["largest"] for each in ratios) - 1) if ratios else "-"
        columns.append(
            {
                "certified images": str(file["certified"]),
                "norms compared with dense SVD, float64": str(file["norms"]["compared"]),
                "bounds below the norm; at most above it, %": f"{_sum(ratios, 'below')}; {above}",
                "attacks": ", ".join(dict.fromkeys(each["attack"] for each in attacks)),
                "adversarial points found": str(_sum(attacks, "found")),
                "executed margins below the certified one": str(_sum(attacks, "below")),
                "smallest executed margin": f"{min(each['smallest_executed'] for each in attacks):.3f}",
                "least room above the certified one": f"{min(each['smallest_room'] for each in attacks):.3f}",
                "rounding, as a share of what certificates allow": f"{file['rounding']['largest_share']:.1e}",
                "certified in float32, refused in float64": str(file["precision"]["refused"]),
            }
        )
    return [*table, *([label, *(column[label] for column in columns)] for label in columns[0])]


def _sum(rows: Iterable[Mapping[str, Any]], key: str) -> int:
    return sum(each[key] for each in rows)


def stages(files: Files) -> Table:
    """Return what each stage of a record with one epsilon certified, and its seconds."""
    table = [["stage", "images that entered", "certified by it", "seconds"]]
    for stage in (stage for record in files.values() for stage in record["stages"]):
        table.append([f"`{stage['name']}`", str(stage["entered"]), str(stage["certified"]), f"{stage['seconds']:.1f}"])
    return table


def records(files: Files) -> Table:
    """Return what records certified at each of their epsilons, and their seconds."""
    epsilons = [f"{totals['epsilon']:g}" for totals in next(iter(files.values()))["totals"]]
    table = [["record", "stages", "`clip_input`", *(f"certified % at {each}" for each in epsilons), "seconds"]]
    for name, record in files.items():
        names = ",".join(dict.fromkeys(stage["name"] for stage in record["stages"]))
        certified = [percent(totals["certified_accuracy"]) for totals in record["totals"]]
        cells = [f"[{name}]({name})", f"`{names}`", str(record["clip_input"]).lower()]
        table.append([*cells, *certified, f"{record['seconds']:.0f}"])
    return table


def others(files: Files) -> Table:
    """Return what stages certified of others' networks, per cent with the stages before, beside published figures."""
    rows: Table = []
    for content in files.values():
        published, total, shares = content["published"], 0, {}
        for name, _, certified, _ in content["stages"]:
            total += certified
            shares[name] = f"{100 * total / content['images']:.1f}"
        figures = {f"*{key}*": f"*{value:g}*" for key, value in published.items()}
        cells = {"network, ε": content["network"], **figures, **shares}
        cells["ours, s an image"] = f"{content['seconds_an_image']:.2f}"
        if "broken" in content:
            cells["broken by attacks"] = f"{content['broken']} of {content['certified']}"
        rows = rows or [list(cells)]
        rows.append(list(cells.values()))
    return rows
