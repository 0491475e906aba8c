"""Alterations after compilation: whoever hands a graph to an analysis must not get bounds of another function."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_state

from lipcert.bounds import analyze
from lipcert.graph import Graph, UnsupportedLayerError, check_unchanged, compile_graph
from lipcert.nn import ClippedReLU, Residual
from tests.oracles import ExactNorms


def _model() -> nn.Sequential:
    branch = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    return nn.Sequential(nn.Linear(3, 3), Residual(branch), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))).double().eval()


def _tripled(*arguments: Tensor) -> Tensor:
    return 3 * arguments[-1]


def _hook(model: nn.Module) -> None:
    model[1].branch[0].register_forward_hook(_tripled)  # type: ignore[index, union-attr]


def _pre_hook(model: nn.Module) -> None:
    model[1].branch[0].register_forward_pre_hook(lambda _, before: 3 * before[0])  # type: ignore[index, union-attr]


def _hook_of_container(model: nn.Module) -> None:
    model[1].branch.register_forward_hook(_tripled)  # type: ignore[index, union-attr]


def _hook_of_block(model: nn.Module) -> None:
    model[1].register_forward_hook(_tripled)  # type: ignore[index, operator]


def _hook_of_model(model: nn.Module) -> None:
    model.register_forward_hook(_tripled)


def _patched(model: nn.Module) -> None:
    model[2][0].forward = _tripled  # type: ignore[index, method-assign]


def _patched_block(model: nn.Module) -> None:
    model[1].forward = _tripled  # type: ignore[index, method-assign, assignment]


def _compiled(model: nn.Module) -> None:
    model[2][1]._compiled_call_impl = _tripled  # type: ignore[index]  # what `compile` does, without its imports


def _replaced(model: nn.Module) -> None:
    model[2][1] = nn.Linear(3, 2).double()  # type: ignore[index, operator]


def _replaced_branch(model: nn.Module) -> None:
    model[1].branch = nn.Linear(3, 3).double()  # type: ignore[index]


def _replaced_by_the_same_class(model: nn.Module) -> None:
    model[0] = nn.Linear(3, 3).double()  # type: ignore[index, operator]


def _appended(model: nn.Module) -> None:
    model.append(nn.Linear(2, 2).double())  # type: ignore[operator]


def _removed(model: nn.Module) -> None:
    del model[2][0]  # type: ignore[index]


def _parametrized_in_train_mode(model: nn.Module) -> None:
    nn.utils.parametrizations.spectral_norm(model[0]).train()  # type: ignore[index]


ALTERATIONS: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "hook": (_hook, r"'1\.branch\.0'.*hook"),
    "pre-hook": (_pre_hook, r"'1\.branch\.0'.*hook"),
    "hook of a container": (_hook_of_container, r"'1\.branch'.*hook"),
    "hook of a residual block": (_hook_of_block, r"'1'.*hook"),
    "hook of the model": (_hook_of_model, "'model'.*hook"),
    "forward patched": (_patched, r"'2\.0'.*`forward` of its own"),
    "forward of a block patched": (_patched_block, r"'1'.*`forward` of its own"),
    "compiled": (_compiled, r"'2\.1'.*compiled"),
    "layer replaced": (_replaced, "'2' has other layers"),
    "branch replaced": (_replaced_branch, "'1' has other layers"),
    "replaced by the same class": (_replaced_by_the_same_class, "'model' has other layers"),
    "layer appended": (_appended, "'model' has other layers"),
    "layer removed": (_removed, "'2' has other layers"),
    "parametrized in train mode": (_parametrized_in_train_mode, "'0'.*train mode"),
}


def _analyzed(graph: Graph) -> None:
    analyze(graph, torch.rand(2, 3, dtype=torch.float64), 0.1, "local", ExactNorms())


@pytest.mark.parametrize("asked", [check_unchanged, _analyzed])
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_alterations_are_refused_by_name(alteration: str, asked: Callable[[Graph], None]) -> None:
    alter, words = ALTERATIONS[alteration]
    model = _model()
    graph = compile_graph(model, (3,))
    asked(graph)
    alter(model)
    for each in (graph, graph.frozen()):
        with pytest.raises(UnsupportedLayerError, match=words):
            asked(each)


@pytest.fixture(name="global_hook")
def fixture_global_hook() -> Iterator[Callable[[], None]]:
    """Register a hook of all modules when called."""
    handles = []
    yield lambda: handles.append(module_state.register_module_forward_hook(lambda *arguments: None))
    for handle in handles:
        handle.remove()


def test_a_global_hook_is_refused(global_hook: Callable[[], None]) -> None:
    graph = compile_graph(_model(), (3,))
    global_hook()
    with pytest.raises(UnsupportedLayerError, match="A global forward hook"):
        check_unchanged(graph)


def test_weights_may_change_and_are_followed() -> None:
    model, inputs = _model(), torch.rand(2, 3, dtype=torch.float64)
    graph = compile_graph(model, (3,))
    with torch.no_grad():
        model[0].weight.mul_(2)  # type: ignore[operator]
        model[2][1].weight = nn.Parameter(model[2][1].weight.clone())  # type: ignore[index, operator]
        check_unchanged(graph)
        found = analyze(graph, inputs, 0.1, "tight", ExactNorms())
        anew = analyze(model, inputs, 0.1, "tight", ExactNorms())
    assert torch.equal(found.logits, model(inputs))
    assert torch.equal(found.lipschitz, anew.lipschitz)


def test_a_layer_that_leaves_its_affine_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    graph = compile_graph(model, (3,))
    graph.operators()
    model.train()
    with pytest.raises(UnsupportedLayerError, match="'1': batch norm"):
        graph.operators()


def test_what_a_graph_refers_to_must_not_be_exchanged() -> None:
    block = Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = nn.Sequential(nn.Linear(4, 4), ClippedReLU((4,), 0.5), block, nn.Linear(4, 2))
    graph = compile_graph(model, (4,))
    check_unchanged(graph)
    block.branch[1].inplace = True
    with pytest.raises(UnsupportedLayerError, match=r"'2': .* in place"):
        check_unchanged(graph)
    block.branch[1].inplace = False
    model[1].threshold = nn.Parameter(torch.ones(1, 4))
    with pytest.raises(UnsupportedLayerError, match="'1' has other thresholds"):
        check_unchanged(graph)


def test_images_of_another_shape_are_refused() -> None:
    graph = compile_graph(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\).*got \(1, 2, 2\)"):
        analyze(graph, torch.zeros(4, 1, 2, 2), 0.1, "global", ExactNorms())


def test_layers_that_yield_another_shape_than_at_compilation_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 3))
    graph = compile_graph(model, (1, 4, 4))
    model[0].padding = (1, 1)
    with pytest.raises(UnsupportedLayerError, match="'0' yields"):
        graph.operators()
