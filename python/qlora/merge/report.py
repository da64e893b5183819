"""What a whole merge did: the layers, and the same numbers over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qlora.merge.measure import LayerReport
from qlora.settings import key

if TYPE_CHECKING:
    from qlora.evaluation import Evaluation


@dataclass(frozen=True)
class MergeReport:
    """adapters and weights in the order they were given; per layer what `LayerReport` defines.

    The numbers over several layers treat these as one long vector. evaluation: who -> task ->
    result, where tasks were given.
    """

    title: str
    spec: dict[str, Any]
    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    evaluation: "Mapping[str, Mapping[str, Evaluation]]" = field(default_factory=dict)

    @cached_property
    def overall(self) -> dict[str, Any]:
        """All layers together."""
        return summary(self.layers, self.weights)

    def by_kind(self) -> dict[str, dict[str, Any]]:
        """Layers with the same last name (q_proj, ...) together."""
        kinds: dict[str, list[LayerReport]] = {}
        for layer in self.layers:
            kinds.setdefault(layer.name.rpartition(".")[2], []).append(layer)
        return {kind: summary(layers, self.weights) for kind, layers in kinds.items()}

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds."""
        return {
            "spec": {key(name): value for name, value in self.spec.items()},
            "adapters": self.adapters,
            "weights": self.weights,
            "notes": self.notes,
            "overall": self.overall,
            "evaluation": {
                name: {task: asdict(result) for task, result in results.items()}
                for name, results in self.evaluation.items()
            },
            "layers": [asdict(layer) for layer in self.layers],
        }


def summary(layers: Sequence[LayerReport], weights: Sequence[float]) -> dict[str, Any]:
    """The fields of LayerReport for several layers as one vector; rank is a range."""
    count = range(len(weights))
    gram = [
        [sum(r.cosine[i][j] * r.norms[i] * r.norms[j] for r in layers) for j in count]
        for i in count
    ]
    norms = [gram[i][i] ** 0.5 for i in count]
    own = sum(weights[i] ** 2 * gram[i][i] for i in count)
    together = sum(weights[i] * weights[j] * gram[i][j] for i in count for j in count)
    energy = sum(r.norm**2 for r in layers)
    lost = sum((r.error * r.norm) ** 2 for r in layers)
    sizes = [r.shape[0] * r.shape[1] for r in layers]
    mass = sum(r.mass for r in layers)
    return {
        "layers": len(layers),
        "rank": [min(r.rank for r in layers), max(r.rank for r in layers)],
        "norm": energy**0.5,
        "energy": 1.0 - lost / energy if energy else 1.0,
        "error": (lost / energy) ** 0.5 if energy else 0.0,
        "norms": norms,
        "cosine": [[_ratio(gram[i][j], norms[i] * norms[j]) for j in count] for i in count],
        "interference": _ratio(own - together, own),
        "present": [
            _ratio(sum(r.present[i] * r.norms[i] ** 2 for r in layers), gram[i][i]) for i in count
        ],
        "sign_conflict": sum(r.sign_conflict * n for r, n in zip(layers, sizes, strict=True))
        / sum(sizes),
        "minority_mass": _ratio(sum(r.minority_mass * r.mass for r in layers), mass),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
