"""The leaderboard: a row a network, from its card alone."""

from collections.abc import Mapping

from lipcert.zoo.cards import Card

COLUMNS = (
    *("network", "data", "ε", "parameters", "clean %", "PGD %", "AutoAttack %"),
    *("global %", "local %", "tight %", "certified %", "L", "method", "commit"),
)


def leaderboard(cards: Mapping[str, Card]) -> list[tuple[str, ...]]:
    """Return the header and a row a network, by its name: by data and ε, the most certified first."""
    order = sorted(
        cards, key=lambda name: (cards[name].data, cards[name].epsilon, -cards[name].certified.certified_accuracy)
    )
    return [COLUMNS, *(_row(name, cards[name]) for name in order)]


def _row(name: str, card: Card) -> tuple[str, ...]:
    said, by_bound = card.evaluation, card.evaluation.get("certified_accuracy_by_bound", {})
    return (
        *(name, card.data, f"{card.epsilon:.4g}", f"{card.parameters:,}"),
        *(_percent(said.get(f"{key}_accuracy")) for key in ("clean", "pgd", "autoattack")),
        *(_percent(by_bound.get(bound)) for bound in ("global", "local", "tight")),
        _percent(card.certified.certified_accuracy),
        f"{said['global_lipschitz']:.3g}" if "global_lipschitz" in said else "",
        str(card.training.get("method", "")),
        str(card.training.get("commit") or "")[:7],
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
