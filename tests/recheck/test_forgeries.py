"""Every field of a record, forged: the check refuses and names it. A field without a row in the table fails a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from lipcert.certificates import OTHER_STAGES, STAGES
from lipcert.norms.lanczos import SMALLEST_PROBABILITY
from lipcert.recheck import consistency
from lipcert.records.format import COLUMNS, Contents, RowsFile, Totals
from tests.recheck.genuine import BUILDER, EPSILONS, Content, Forgery, Genuine, Rows, certified, renew

SMALL, LARGE = EPSILONS
INFINITE, NAN = float("inf"), float("nan")


@pytest.fixture(scope="session", name="genuine")
def fixture_genuine(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """A record of twelve images with certificates of several stages, at both radii, at the smaller one, and of none."""
    return certified(tmp_path_factory.mktemp("genuine"), "stages=[global,local,tight,tight-100,liplt]")


@dataclass(frozen=True)
class Case:
    """A forgery, what the refusal says, and whether the rows it changes are derived anew."""

    forge: Forgery
    said: str
    derived: bool = False


KINDS: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "at both": lambda small, large: large["certified"],
    "late": lambda small, large: large["certified"] and large["stage"] != "global",
    "at the smaller": lambda small, large: small["certified"] and not large["certified"],
    "never": lambda small, large: large["label"] == large["prediction"] and not large["certified"],
    "wrong": lambda small, large: large["label"] != large["prediction"],
}
"""Kinds of images by their rows at both radii; the first image of a kind is forged."""


def edit(kind: str, *epsilons: float, **values: Any) -> Forgery:
    """Return a forgery of columns of the first image of a kind; values may be functions of the row."""

    def forge(content: Content, rows: Rows) -> None:
        by_image = zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True)
        for row in next(pair for pair in by_image if KINDS[kind](*pair)):
            if row["epsilon"] in (epsilons or EPSILONS):
                row.update({name: value(row) if callable(value) else value for name, value in values.items()})
        renew(content, rows)

    return forge


def put(path: str, value: Any) -> Forgery:
    """Return a forgery of a field of `certificate.json`; the value may be a function of what was there."""

    def forge(content: Content, rows: Rows) -> None:
        place: Any = content
        *parents, last = path.split("/")
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = value(place[last]) if callable(value) else value

    return forge


def all_of(*forgeries: Forgery) -> Forgery:
    """Return forgeries one after the other."""
    return lambda content, rows: [forge(content, rows) for forge in forgeries]


def other_radii(content: Content, rows: Rows) -> None:
    """Let all rows speak of a larger radius."""
    content["epsilons"][1] = content["totals"][1]["epsilon"] = 2 * LARGE
    for row in rows:
        row["epsilon"] = 2 * LARGE if row["epsilon"] == LARGE else row["epsilon"]
        row["radius"] = 2 * LARGE if row["radius"] == LARGE else row["radius"]


def more_images(content: Content, rows: Rows) -> None:
    """Invent images behind the last of the data."""
    count = content["data"]["num_images"] = 400
    for epsilon in EPSILONS:
        last = [row for row in rows if row["epsilon"] == epsilon][-1]
        place = rows.index(last) + 1
        rows[place:place] = [{**last, "index": index} for index in range(last["index"] + 1, count)]
    renew(content, rows)


def renamed_stage(content: Content, rows: Rows) -> None:
    """Call a stage by a name of one's own."""
    content["stages"][0]["name"] = "magic"
    for row in rows:
        row["stage"] = row["stage"].replace("global", "magic")
    renew(content, rows)


FORGERIES: dict[str, list[Case]] = {
    "index": [
        Case(edit("at both", index=5), "one row an image"),
        Case(edit("at both", index=-1), "one row an image"),
    ],
    "label": [
        Case(edit("wrong", label=lambda row: row["prediction"]), "label "),
        Case(edit("at both", label=9, prediction=9), "label 9 of class"),
        Case(edit("wrong", LARGE, label=lambda row: row["prediction"]), "label "),
        Case(edit("at both", label=10), "class outside 0 to 9"),
    ],
    "prediction": [
        Case(edit("wrong", prediction=lambda row: row["label"]), "prediction "),
        Case(edit("never", LARGE, prediction=9, radius=0.0), "prediction 9"),
        Case(edit("at both", prediction=9), "prediction is 9"),
    ],
    "epsilon": [
        Case(edit("at both", LARGE, epsilon=0.2), "one row an image"),
        Case(other_radii, "epsilon 0.6"),
    ],
    "margin": [
        Case(edit("at both", margin=INFINITE), "margin inf"),
        Case(edit("at both", margin=-INFINITE), "margin -inf"),
        Case(edit("at both", margin=NAN), "NaN"),
        Case(edit("at both", margin=-0.1), "certified with margin -0.1"),
        Case(edit("never", LARGE, margin=1e-3), "not certified with margin 0.001"),
        Case(edit("never", LARGE, margin=-INFINITE), "margin -inf"),
        Case(edit("never", LARGE, margin=0.0), "margin 0 is above the one derived", derived=True),
        Case(edit("at both", margin=lambda row: row["margin"] + 5), "margin "),
        Case(edit("late", margin=lambda row: row["margin"] * 2), "margin ", derived=True),
        Case(edit("at the smaller", SMALL, margin=1e-9), "what follows from lipschitz"),
        Case(edit("at both", SMALL, margin=lambda row: row["margin"] + 1e-4), "margin "),
        Case(edit("wrong", margin=-1e-9), "margin -1e-09 is above"),
    ],
    "certified": [
        Case(edit("never", LARGE, certified=True, stage="liplt", radius=LARGE, margin=1e-3), "certified", derived=True),
        Case(edit("wrong", certified=True, stage="liplt", radius=LARGE, margin=1e-3), "certified, but"),
        Case(edit("at both", SMALL, certified=False, stage="", radius=0.0, margin=-1.0), "certified False where True"),
        Case(edit("at both", certified=False, stage="", radius=0.0, margin=-1.0), "margin + rounding "),
        Case(edit("at both", certified=False), "`certified` 0"),
    ],
    "lipschitz": [
        Case(edit("at both", lipschitz=1e-9), "lipschitz 1e-09"),
        Case(edit("late", lipschitz=1e-9), "lipschitz 1e-09"),
        Case(edit("never", LARGE, lipschitz=lambda row: 0.99 * row["lipschitz"]), "lipschitz ", derived=True),
        Case(edit("late", lipschitz=lambda row: 0.5 * row["lipschitz"]), "what follows from lipschitz"),
        Case(edit("never", LARGE, lipschitz=1e9), "lipschitz 1e+09"),
        Case(edit("never", LARGE, lipschitz=INFINITE), "lipschitz inf"),
        Case(edit("never", LARGE, lipschitz=-1.0), "lipschitz -1"),
        Case(edit("at both", SMALL, lipschitz=13.6), "lipschitz 13.6 where"),
    ],
    "radius": [
        Case(edit("at both", radius=1.5 * LARGE), "radius 0.45"),
        Case(edit("at both", radius=INFINITE), "radius inf"),
        Case(edit("at both", radius=0.1), "radius 0.1"),
        Case(edit("at the smaller", SMALL, radius=lambda row: row["radius"] + 1e-3), "radius "),
        Case(edit("never", LARGE, radius=0.9999 * LARGE), "at the radius 0.29997", derived=True),
        Case(edit("never", LARGE, radius=LARGE), "not certified with radius 0.3"),
        Case(edit("never", LARGE, radius=-0.1), "radius -0.1"),
        Case(edit("wrong", radius=0.01), "radius 0.01 of a wrong prediction"),
    ],
    "rounding": [
        Case(edit("at both", rounding=0.0), "rounding 0 is below"),
        Case(edit("never", LARGE, rounding=0.0), "rounding 0 is below"),
        Case(edit("at both", rounding=-1e-3), "rounding -0.001"),
        Case(edit("at both", rounding=INFINITE), "rounding inf"),
        Case(edit("never", LARGE, rounding=1e-5), "rounding 1e-05 is far below", derived=True),
        Case(edit("at both", rounding=50.0), "margin + rounding "),
        Case(edit("late", rounding=lambda row: row["rounding"] + 1.0), "margin + rounding ", derived=True),
        Case(edit("at both", SMALL, rounding=lambda row: row["rounding"] * 1.01), "rounding "),
    ],
    "stage": [
        Case(edit("late", stage="global"), "which stage 'global' takes"),
        Case(edit("at both", SMALL, stage="tight"), "stage tight where global follows"),
        Case(edit("at both", stage="magic"), "stage 'magic'"),
        Case(edit("never", stage="global"), "`certified` 0 with stage 'global'"),
        Case(lambda content, rows: rows[0].update(stage="tight"), "stage"),
    ],
    "format": [Case(put("format", 2), "format 1, got 2"), Case(put("format", True), "format 1, got True")],
    "lipcert_version": [
        Case(put("lipcert_version", "99.0"), "lipcert_version '99.0'"),
        Case(put("lipcert_version", "next"), "lipcert_version 'next'"),
    ],
    "model.sha256": [Case(put("model/sha256", "0" * 64), "another network")],
    "model.dtype": [
        Case(put("model/dtype", "float64"), "in float64"),
        Case(put("model/dtype", "bfloat16"), "in bfloat16"),
    ],
    "model.description": [
        Case(put("model/description", {}), "model.description"),
        Case(put("model/description", {"builder": BUILDER, "method": "gloro"}), "model.description"),
        Case(put("model/description/builder", "net:build"), "model.description"),
    ],
    "data.name": [Case(put("data/name", "photos"), "data"), Case(put("data/name", "faces"), "data.name")],
    "data.split": [Case(put("data/split", "train"), "other data"), Case(put("data/split", "all"), "split")],
    "data.num_images": [
        Case(put("data/num_images", 10), "10 images"),
        Case(more_images, "data.num_images is 400"),
    ],
    "data.image_shape": [
        Case(put("data/image_shape", [1, 4, 16]), "data"),
        Case(put("data/image_shape", [64]), "data"),
    ],
    "data.num_classes": [Case(put("data/num_classes", 11), "data"), Case(put("data/num_classes", 2), "class outside")],
    "data.sha256": [Case(put("data/sha256", "0" * 64), "other data")],
    "epsilons": [
        Case(put("epsilons", [SMALL]), "epsilons"),
        Case(put("epsilons", [SMALL, SMALL]), "epsilons"),
        Case(put("epsilons", [SMALL, -LARGE]), "epsilons"),
        Case(put("epsilons", [SMALL, 2 * LARGE]), "one row an image for each epsilon"),
    ],
    "clip_input": [
        Case(all_of(edit("never", LARGE, rounding=0.002), put("clip_input", False)), "margin ", derived=True),
        Case(put("clip_input", 1), "clip_input"),
    ],
    "arithmetic.executed": [
        Case(put("arithmetic/executed", "float64"), "in float64"),
        Case(put("arithmetic/executed", "bfloat16"), "in bfloat16"),
    ],
    "arithmetic.unit_roundoff": [
        Case(put("arithmetic/unit_roundoff", 2.0**-53), "arithmetic.unit_roundoff"),
        Case(put("arithmetic/unit_roundoff", 0.0), "arithmetic.unit_roundoff"),
    ],
    "arithmetic.statement": [
        Case(put("arithmetic/statement", lambda text: text + " On every device."), "arithmetic.statement"),
        Case(put("arithmetic/statement", ""), "arithmetic.statement"),
    ],
    "execution": [
        Case(put("execution", None), "execution is not stated"),
        Case(lambda content, rows: content.pop("execution"), "certify the network anew"),
        Case(put("execution", {}), "no 'torch'"),
        Case(put("execution", "covered"), "expected an object in 'the record.execution'"),
        Case(put("execution/winograd", False), "an unknown 'winograd'"),
    ],
    "execution.torch": [
        Case(put("execution/torch", "mine"), "execution.torch 'mine'"),
        Case(put("execution/torch", ""), "execution.torch ''"),
        Case(put("execution/torch", 2.9), "execution.torch"),
    ],
    "execution.device": [
        Case(put("execution/device", "meta"), "execution.device"),
        Case(put("execution/device", ""), "execution.device"),
        Case(put("execution/device", "cuda:0"), "execution.device"),
    ],
    "execution.threads": [
        Case(put("execution/threads", 0), "execution.threads is 0"),
        Case(put("execution/threads", True), "execution.threads"),
    ],
    "execution.autocast": [
        Case(put("execution/autocast", True), "execution.autocast"),
        Case(put("execution/autocast", 0), "execution.autocast"),
    ],
    "execution.convolution_precision": [
        Case(put("execution/convolution_precision", "bf16"), "execution.convolution_precision"),
        Case(put("execution/convolution_precision", "tf32"), "execution.convolution_precision"),
        Case(put("execution/convolution_precision", ""), "execution.convolution_precision"),
        Case(
            all_of(put("execution/device", "cuda"), put("execution/convolution_precision", "tf32")),
            "cudnn.conv.fp32_precision is 'tf32'",
        ),
    ],
    "execution.matrix_precision": [
        Case(put("execution/matrix_precision", "tf32"), "execution.matrix_precision"),
        Case(put("execution/matrix_precision", "medium"), "execution.matrix_precision"),
    ],
    "execution.cudnn": [
        Case(all_of(put("execution/device", "cuda"), put("execution/cudnn", True)), "execution.cudnn"),
        Case(put("execution/cudnn", None), "execution.cudnn"),
    ],
    "execution.onednn": [Case(put("execution/onednn", False), "execution.nnpack")],
    "execution.nnpack": [
        Case(all_of(put("execution/onednn", False), put("execution/nnpack", True)), "execution.nnpack"),
        Case(put("execution/nnpack", "off"), "execution.nnpack"),
    ],
    "execution.environment": [
        Case(put("execution/environment", "ONEDNN_DEFAULT_FPMATH_MODE=BF16"), "execution.environment"),
        Case(put("execution/environment", " "), "execution.environment"),
    ],
    "execution.flush_denormal": [Case(put("execution/flush_denormal", True), "execution.flush_denormal")],
    "failure_probability.per_norm": [
        Case(put("failure_probability", {"per_norm": 0.0, "norms": 0, "total": 0.0}), "failure_probability.per_norm"),
        Case(put("failure_probability", {"per_norm": 1e-300, "norms": 44, "total": 4.4e-299}), "per_norm"),
        Case(put("failure_probability", {"per_norm": -1e-9, "norms": 44, "total": -4.4e-8}), "per_norm"),
        Case(put("failure_probability", {"per_norm": 1.5, "norms": 44, "total": 1.0}), "failure_probability.per_norm"),
        Case(put("failure_probability/per_norm", 1e-12), "failure_probability.total"),
    ],
    "failure_probability.norms": [
        Case(put("failure_probability", {"per_norm": 1e-9, "norms": 0, "total": 0.0}), "failure_probability.norms"),
        Case(put("failure_probability", {"per_norm": 1e-9, "norms": -1, "total": -1e-9}), "failure_probability.norms"),
        Case(put("failure_probability/norms", 7), "failure_probability.total"),
    ],
    "failure_probability.total": [
        Case(put("failure_probability/total", 0.0), "failure_probability.total"),
        Case(put("failure_probability/total", lambda total: total / 2), "failure_probability.total"),
    ],
    "stages.name": [
        Case(renamed_stage, "stages.magic"),
        Case(put("stages/0/name", "magic"), "stage 'global'"),
        Case(put("stages/1/name", "tight"), "not each once"),
        Case(put("stages", []), "stage 'global'"),
    ],
    "stages.bound": [
        Case(put("stages/4/bound", "global"), "stages.liplt.bound global"),
        Case(put("stages/0/bound", "crown"), "stages.global.bound crown"),
    ],
    "stages.lanczos_steps": [Case(put("stages/1/lanczos_steps", 200), "lanczos_steps 200")],
    "stages.entered": [
        Case(put("stages/0/entered", lambda count: count - 1), "stages.global.entered"),
        Case(put("stages/0/entered", lambda count: count + 1), "stages.global.entered"),
        Case(put("stages/4/entered", 0), "stages.liplt.entered"),
        Case(put("stages/4/entered", 23), "stages.liplt.entered"),
    ],
    "stages.certified": [
        Case(put("stages/0/certified", lambda count: count + 1), "stages.global.certified"),
        Case(put("stages/4/certified", 0), "stages.liplt.certified"),
    ],
    "stages.seconds": [
        Case(put("stages/0/seconds", -1.0), "stages.global.seconds"),
        Case(put("stages/0/seconds", 1e9), "stages.seconds"),
        Case(put("stages/0/seconds", NAN), "NaN"),
    ],
    "norms": [
        Case(put("norms", {}), "norms are of no map"),
        Case(put("norms", lambda norms: {**norms, "0": norms["2"]}), "norms are of 2, 4, 0"),
    ],
    "norms.lower": [
        Case(put("norms/2/lower", lambda lower: lower * 1.001), "norms.2.lower"),
        Case(put("norms/2", {"lower": 9.9e9, "upper": 9.9e9}), "norms.2.lower"),
        Case(put("norms/4/lower", -1.0), "norms.4.lower"),
    ],
    "norms.upper": [
        Case(put("norms/4/upper", lambda upper: upper * 0.999), "norms.4.upper"),
        Case(put("norms/4", {"lower": 0.0, "upper": 0.0}), "norms.4.upper"),
        Case(put("norms/4/upper", INFINITE), "Infinity"),
    ],
    "seconds": [Case(put("seconds", 0.0), "seconds is 0"), Case(put("seconds", -1.0), "seconds is -1")],
    "totals": [Case(put("totals", lambda totals: totals[:1]), "totals are of 1 epsilons")],
    "totals.epsilon": [Case(put("totals/1/epsilon", 0.4), "totals.epsilon at epsilon 0.4")],
    "totals.num_images": [Case(put("totals/1/num_images", 360), "totals.num_images")],
    "totals.clean_accuracy": [Case(put("totals/1/clean_accuracy", 1.0), "totals.clean_accuracy")],
    "totals.certified_accuracy": [
        Case(put("totals/1/certified_accuracy", lambda share: share + 1e-6), "totals.certified_accuracy"),
        Case(put("totals/0/certified_accuracy", 1.0), "totals.certified_accuracy"),
    ],
    "totals.certified_by_stage": [
        Case(put("totals/1/certified_by_stage/global", 9), "totals.certified_by_stage"),
        Case(put("totals/1/certified_by_stage", {}), "totals.certified_by_stage"),
    ],
    "rows.file": [
        Case(put("rows/file", "../certificates.csv"), "rows.file"),
        Case(put("rows/file", "mine.pt"), "was changed"),
        Case(put("rows/file", "none.csv"), "none.csv is missing"),
    ],
    "rows.sha256": [Case(put("rows/sha256", "0" * 64), "was changed")],
    "rows.count": [Case(put("rows/count", 23), "expected 23 rows")],
}

REMARKS = {"checkpoint"}
"""Fields on which nothing rests: where the file of the network was; `model.sha256` says which network it is."""


def _fields(kind: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted name of every field, those of lists and of objects by any key included."""
    for field in fields(kind):
        hint, name = get_type_hints(kind)[field.name], f"{place}{field.name}"
        inner = next((each for each in get_args(hint) if is_dataclass(each)), hint)
        if get_origin(hint) in (dict, UnionType) or not is_dataclass(inner):
            yield name
        if is_dataclass(inner):
            yield from _fields(inner, f"{name}.")


def test_every_field_is_forged() -> None:
    known = {*COLUMNS, "format", "totals", *_fields(Contents), *_fields(Totals, "totals."), *_fields(RowsFile, "rows.")}
    assert known - REMARKS == FORGERIES.keys()


def test_the_genuine_record_is_confirmed(genuine: Genuine) -> None:
    content, rows = genuine.read()
    renewed, _ = genuine.read()
    renew(renewed, rows)
    assert renewed["totals"] == content["totals"]
    (_, altered), numbers = genuine.read(), []
    for kind in KINDS:
        edit(kind, stage=kind)(renewed, altered)
        numbers += [str(number) for number, row in enumerate(altered) if row["stage"] == kind]
    genuine.check(content, rows, "--rows", ",".join(numbers))


@pytest.mark.parametrize(("field", "number"), [(name, i) for name in FORGERIES for i in range(len(FORGERIES[name]))])
def test_a_forged_field_is_named(genuine: Genuine, field: str, number: int) -> None:
    case = FORGERIES[field][number]
    (content, rows), (_, before) = genuine.read(), genuine.read()
    case.forge(content, rows)
    altered = [str(place) for place, row in enumerate(before) if row not in rows]
    with pytest.raises((ValueError, FileNotFoundError), match=r"certif|record|data") as refused:
        genuine.check(content, rows, *(["--rows", ",".join(altered)] if case.derived else ["--count", "0"]))
    assert case.said in str(refused.value)


def test_stages_and_odds_are_those_of_the_certifier() -> None:
    """The check has them by heart: it shares nothing with what certifies."""
    known = {stage.name: (stage.method, stage.lanczos_steps) for stage in (*STAGES, *OTHER_STAGES)}
    assert known == consistency.STAGES
    assert consistency.LEAST_PROBABILITY == SMALLEST_PROBABILITY
