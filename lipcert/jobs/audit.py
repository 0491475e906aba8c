"""The job of `lipcert.audit`: bound and attack a network and its layers, hold both against what is claimed, write."""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from lipcert.bounds import Bound
from lipcert.jobs.preparation import check_choice, check_numbers, make_folder, prepare
from lipcert.jobs.tables import print_audit
from lipcert.records.fingerprint import model_sha256
from lipcert.soundness.claims import BOUNDS, audit, check_claim
from lipcert.soundness.secants import Search
from lipcert.version import __version__

SHOWN = 5
"""Most refutations that the error names; the file has all."""


def run(config: DictConfig) -> float:
    """Audit a network's claimed constants; return the upper bound of the network's.

    Raises:
        ArithmeticError: naming what is refuted, after the audit is written.
        ValueError, OSError: for settings, files or folders that cannot be, before anything is computed.
    """
    check_numbers(config, ("steps",), ("seed", "tolerance"), ("failure_probability",))
    check_numbers(config, ("starts",))
    check_choice("bounds", config.bounds, BOUNDS)
    if config.claimed is None:
        raise ValueError("Which Lipschitz constant is claimed of the network? Type claimed=1.0, for example.")
    claimed, claims = check_claim("claimed", config.claimed), claims_of(config)
    subject = prepare(config)
    images, _ = subject.tensors()
    about = {
        "lipcert_version": __version__,
        "checkpoint": str(subject.checkpoint),
        "model": {"sha256": model_sha256(subject.model), "description": dict(subject.network.description)},
        "data": subject.data.name,
        "tolerance": config.tolerance,
    }
    folder = subject.output("audit")
    make_folder(folder)
    search = Search(config.starts, config.steps, config.seed)
    bounds, failure = [Bound(name) for name in config.bounds], config.failure_probability
    found = audit(subject.model, images, claimed, claims, bounds, search, config.tolerance, failure)
    found.write(folder, about)
    print_audit(found, subject.data, folder)
    if refuted := found.refutations:
        more = f"; and {len(refuted) - SHOWN} more" if len(refuted) > SHOWN else ""
        raise ArithmeticError(f"Refuted: {'; '.join(refuted[:SHOWN])}{more}.")
    return found.network.upper


def claims_of(config: DictConfig) -> dict[str, float] | None:
    """Return what is claimed of layers, by name; None where nothing is.

    Raises:
        ValueError: for what is no mapping from names to constants.
    """
    if config.claims is None:
        return None
    claims = OmegaConf.to_container(config.claims) if OmegaConf.is_config(config.claims) else config.claims
    if not isinstance(claims, Mapping) or not claims:
        raise ValueError(
            f"Expected `claims` as 'claims={{LAYER:CONSTANT}}', {{4:1.0,head:1.5}} for example, got {config.claims}."
        )
    named = {str(name): value for name, value in claims.items()}
    return {name: check_claim(f"claims.{name}", value) for name, value in named.items()}
