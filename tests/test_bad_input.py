"""What a user may get wrong in `lipcert.train`: one sentence, exit code 1, and nothing trained."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from tests.data.test_tinyimagenet import TOP
from tests.data.test_tinyimagenet import _write_folder as write_tiny_imagenet
from tests.running import QUICK, contents, train_each

CASES = {
    "epsilon nan": ("epsilon=nan", "Expected `epsilon` > 0 and finite, got nan"),
    "epsilon negative": ("epsilon=-1", "Expected `epsilon` > 0 and finite, got -1"),
    "epsilon infinite": ("epsilon=inf", "Expected `epsilon` > 0 and finite, got inf"),
    "epsilon zero": ("epsilon=0", "Expected `epsilon` > 0 and finite, got 0"),
    "devices": ("trainer.devices=100000", "trainer.devices"),
    "no devices": ("trainer.devices=0", "trainer.devices"),
    "batch that devices cannot split": (
        "trainer.devices=2 trainer.accelerator=cpu batch_size=15",
        "`batch_size`=15 is that of all devices together and cannot be split over `trainer.devices`=2",
    ),
    "no archive": ("data=tinyimagenet data.root=empty", "Tiny-ImageNet was not found"),
    "no image": ("data=tinyimagenet data.root=spoilt", "n02_0.JPEG is no readable image"),
    "no class": ("data=tinyimagenet data.root=lacking", "train/n02/n02_boxes.txt, which is not there"),
    "folder below a file": ("hydra.run.dir=file.txt/run", "file.txt/run: Not a directory"),
    "no such data": ("data=mnist data.root=missing", "data.root=missing is not a folder"),
    "no such checkpoint": ("resume=missing.ckpt", "resume=missing.ckpt: no such checkpoint"),
    "not a checkpoint": ("resume=file.txt", "file.txt"),
    "cut checkpoint": ("resume=cut.ckpt", "cut.ckpt"),
    "foreign checkpoint": ("resume=foreign.ckpt", "foreign.ckpt"),
    "other architecture": ("resume=other.ckpt", "The checkpoint holds {'model': 'other'}"),
    "unknown key": ("epslion=1", "There is no setting `epslion`: did you mean `epsilon`?"),
    "unknown key of a group": ("bound.iteration=1", "did you mean `bound.iterations`?"),
    "added key": ("+epslion=1", "There is no setting `epslion`: did you mean `epsilon`?"),
    "added key of a group": ("+data.nonsense=1", "There is no setting `data.nonsense`: expected one of name, root"),
    "wrong type": ("batch_size=many", "Expected `batch_size` to be a whole number, got many."),
    "not null": ("seed=null", "Expected `seed` to be a whole number, got null."),
    "no number": ("data.limit_test=x", "Expected `data.limit_test` to be a whole number or null, got x."),
    "no list": ("plugins=corners", "Expected `plugins` to be a list, [one,two], got corners."),
    "unknown option of a method": ("method.lamda=1", "There is no setting `method.lamda`: expected one of exclude"),
    "unknown group": ("modle=small", "There is no setting `modle`: did you mean `model`?"),
    "no value": ("epsilon", "epsilon cannot be read: expected KEY=VALUE"),
    "syntax": ("plugins=[one", "plugins=[one cannot be read: expected KEY=VALUE"),
    "sweep without -m": ("seed=0,1", "seed=0,1 holds several values; add -m for a sweep"),
    "folder": ("empty", "to go on with the run in it, type hydra.run.dir=empty resume=auto"),
    "epochs": ("epochs=3", "did you mean `schedule.epochs`?"),
    "max_epochs": ("trainer.max_epochs=3", "did you mean `schedule.epochs`?"),
    "added max_epochs": ("+trainer.max_epochs=3", "did you mean `schedule.epochs`?"),
    "learning rate": ("lr=1", "did you mean `schedule.initial_lr`?"),
    "learning rate of the optimizer": ("optimizer.lr=1", "did you mean `schedule.initial_lr`?"),
    "batch": ("batch=3", "did you mean `batch_size`?"),
    "gpus": ("gpus=3", "did you mean `trainer.devices`?"),
    "no metrics": ("logger.csv=null", "`logger.csv`=null"),
    "no pictures": ("data=imagefolder", "Give data.root=FOLDER"),
    "pictures without classes": ("data=imagefolder data.root=empty", "Expected a folder for each class"),
    "no arrays": ("data=npz data.root=none.npz", "data.root=none.npz is not a file"),
    "text for arrays": ("data=npz data.root=file.txt", "file.txt is damaged or no .npz file"),
    "no data set": ("data=dataset", "Give data.dataset._target_=package.Class"),
    "unknown data set": ("data=dataset data.dataset._target_=no.Such", "data.dataset._target_=no.Such"),
    "folder of what has none": ("data.root=empty", "data=digits takes no `data.root`, got empty"),
    "extra images that are missing": ("data.extra.path=none.npz", "none.npz is no file"),
    "transform": (
        "data.transforms.one._target_=torchvision.transforms.v2.CenterCrop data.transforms.one.size=3",
        "`data.transforms` must leave images (1, 8, 8)",
    ),
    "absent callback": (
        "+callbacks.x._target_=no.Such",
        "`callbacks.x._target_`=no.Such cannot be imported",
    ),
    "callback without its settings": (
        "+callbacks.x._target_=pytorch_lightning.callbacks.EarlyStopping",
        "refuses its settings: EarlyStopping.__init__() missing 1 required positional argument: 'monitor'",
    ),
    "setting of the trainer": ("+trainer.clip=1", "unexpected keyword argument 'clip'"),
    "setting of the trainer that is set": ("+trainer.deterministic=false", "or that lipcert sets"),
    "setting of the optimizer": ("+optimizer.beta=1", "unexpected keyword argument 'beta'"),
    "value of the optimizer": ("optimizer=lookahead optimizer.share=2", "Expected 0 < `optimizer.share` <= 1, got 2"),
    "unknown model": ("model=vgg", "There is no model=vgg: expected one of 4c3f"),
    "unknown experiment": ("experiment=missing", "same_work"),
    "unknown activation": ("model.activation=swish", "clipped_maxmin"),
    "unknown bound": ("evaluation.bounds=[loose]", "tight"),
    "unknown checkpoint": ("evaluation.checkpoint=first", "last or best"),
    "batch size": ("batch_size=0", "`batch_size` >= 1"),
    "no held-out images left": ("data.validation=5000", "data.validation"),
    "evaluation batch size": ("evaluation.batch_size=0", "batch_size"),
    "lanczos steps": ("evaluation.lanczos_steps=0", "steps"),
    "pgd steps": ("evaluation.pgd_steps=-1", "pgd_steps"),
    "half precision": ("trainer.precision=16-true", "precision"),
    "precision of products": ("trainer.matmul=medium", "Expected `trainer.matmul` to be highest or high"),
    "method option": ("method.exclude=nobody", "method.exclude"),
    "method steps": ("method=adversarial method.steps=0", "Expected `method.steps` to be a whole number >= 1, got 0"),
    "method weight": ("method=trades method.beta=-1", "Expected `method.beta` to be a number, finite and >= 0, got -1"),
    "activation of a method": (
        "method=relu_stability model.activation=maxmin",
        "it works with model.activation=relu or model.activation=clipped_relu",
    ),
    "autoattack images": ("evaluation.autoattack_images=-1", "autoattack_images"),
    "method's slack": ("method=cll method.slack=2", "method.slack"),
    "negative sparsity": ("sparsity.weight=-1", "sparsity.weight"),
    "activation beyond a method's bound": ("method=cap model.activation=maxmin", "works with model.activation=relu"),
    "cap's projections": ("method=cap model.activation=relu method.projections=-1", "method.projections"),
    "sparsity of plain relu": (
        "sparsity.weight=0.1 model.activation=relu",
        "set model.activation=clipped_relu or model.activation=clipped_maxmin or sparsity.weight=0",
    ),
    "sparsity of cap": ("method=cap sparsity.weight=0.1 model.activation=relu", "set sparsity.weight=0."),
}


@pytest.fixture(scope="module", name="outcomes")
def fixture_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Exit code, stderr and files of every case."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file.txt").write_text("hello")
    (folder / "empty").mkdir()
    for name in ("spoilt", "lacking"):
        write_tiny_imagenet(folder / name / TOP)
    (folder / "spoilt" / TOP / "train" / "n02" / "images" / "n02_0.JPEG").write_text("no picture")
    shutil.rmtree(folder / "lacking" / TOP / "train" / "n02")
    torch.save({"weight": torch.zeros(3)}, folder / "foreign.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "foreign.ckpt").read_bytes()[:200])
    saved = {"lipcert": {"model": "other"}, "epoch": 0, "state_dict": {}, "pytorch-lightning_version": "2.5.0"}
    torch.save(saved, folder / "other.ckpt")
    lines = []
    for number, (arguments, _) in enumerate(CASES.values()):
        places = [] if "hydra.run.dir" in arguments else [f"hydra.run.dir=run{number}"]
        lines.append([*QUICK, "schedule.epochs=1", "data.limit_train=16", *places, *arguments.split()])
    results = train_each(lines, folder)
    for number, outcome in enumerate(results):
        outcome["files"] = set(contents(folder / f"run{number}"))
        outcome["folder"] = (folder / f"run{number}").exists()
    return dict(zip(CASES, results, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_sentence(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    outcome = outcomes[case]
    assert outcome["exit"] == 1
    assert "Traceback" not in outcome["stderr"]
    assert "Error executing job" not in outcome["stderr"]
    assert CASES[case][1] in outcome["stderr"].partition("error: ")[2]


@pytest.mark.parametrize("case", CASES)
def test_refused_before_training(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    assert outcomes[case]["exit"] == 1
    kept = {name for name in outcomes[case]["files"] if not name.startswith(".hydra/")}
    assert kept <= {"train.log", "lipcert.train.log"}


@pytest.mark.parametrize("case", CASES)
def test_no_empty_folder_is_left_and_nobody_is_told_to_resume_nothing(
    outcomes: dict[str, dict[str, Any]], case: str
) -> None:
    outcome = outcomes[case]
    assert outcome["folder"] == bool(outcome["files"])
    assert "To go on" not in outcome["stderr"]
