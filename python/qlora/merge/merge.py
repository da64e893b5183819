"""Merging: adapters in, one adapter and its report out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from qlora.merge.adapters import AdapterSet, adapter_set
from qlora.merge.base import BaseWeights
from qlora.merge.compress import compress
from qlora.merge.layer import Layer, core_layer
from qlora.merge.measure import LayerReport, measure
from qlora.merge.methods import METHODS
from qlora.merge.report import MergeReport
from qlora.merge.spec import MergeSpec
from qlora_kernels.errors import InputError
from qlora_kernels.formats.adapter_folder import AdapterFolder, AdapterFolderConfig, LayerFactors

Watch = Callable[[str, int, int], None]  # (what is done, layers done, layers in all)


def merge_folders(
    folders: Sequence[AdapterFolder],
    names: Sequence[str],
    spec: MergeSpec,
    base: BaseWeights | None = None,
    watch: Watch = lambda what, done, count: None,
) -> tuple[AdapterFolder, MergeReport]:
    """merged = lambda * method(updates), factored again layer by layer, with what that did.

    The result is plain LoRA with scaling 1, whatever the adapters were. Raises InputError where
    the adapters do not fit each other or the spec.
    """
    if not folders:
        raise InputError("merge: adapters should be at least one, were none")
    adapters = adapter_set(folders, names, spec.weights_for(len(folders)), base)
    method = METHODS[spec.method]
    merge = method.prepare(spec, _Watched(adapters, watch))
    layers: dict[str, LayerFactors] = {}
    reports: list[LayerReport] = []
    for name in adapters.shapes:
        watch("merging", len(reports), len(adapters.shapes))
        updates = adapters.updates(name)
        core = core_layer(name, adapters.weights, updates)
        layer = core if method.basis == "core" else core.standard(updates)
        result = compress(merge(layer) * spec.lambda_, layer, spec.rank)
        layers[name] = LayerFactors(result.right, result.left, 1.0)
        reports.append(_in_given_order(measure(core, updates, result), adapters.places))
    watch("merging", len(reports), len(adapters.shapes))
    report = MergeReport(
        title=str(spec),
        spec=asdict(spec),
        adapters=tuple(names),
        weights=spec.weights_for(len(folders)),
        layers=tuple(reports),
        notes=tuple(_notes(folders, names, layers)),
    )
    return _folder(layers, adapters, folders), report


@dataclass(frozen=True, eq=False)
class _Watched:
    """The adapters; every walk through the layers is told."""

    adapters: AdapterSet
    watch: Watch

    def __len__(self) -> int:
        return len(self.adapters)

    def __iter__(self) -> Iterator[Layer]:
        for done, layer in enumerate(self.adapters):
            self.watch("looking at all entries", done, len(self.adapters.shapes))
            yield layer


def _folder(
    layers: dict[str, LayerFactors], adapters: AdapterSet, folders: Sequence[AdapterFolder]
) -> AdapterFolder:
    """The merged layers with the configuration that all folders share."""
    first = folders[0].config
    targets = {_targets(folder.config) for folder in folders}
    config = AdapterFolderConfig(
        base_model=first.base_model,
        target_modules=first.target_modules if len(targets) == 1 else None,  # None: whole names
        raw=first.raw,
    )
    return AdapterFolder(
        layers={name: f for name, f in layers.items() if name not in adapters.embeddings},
        embeddings={name: f for name, f in layers.items() if name in adapters.embeddings},
        config=config,
    )


def _targets(config: AdapterFolderConfig) -> str | tuple[str, ...] | None:
    """target_modules without the order of a list, which peft draws anew at each saving."""
    told = config.target_modules
    return told if told is None or isinstance(told, str) else tuple(sorted(told))


def _in_given_order(report: LayerReport, places: tuple[int, ...]) -> LayerReport:
    """The report's numbers per adapter in the order of the folders."""
    back = sorted(range(len(places)), key=places.__getitem__)
    return replace(
        report,
        norms=tuple(report.norms[i] for i in back),
        cosine=tuple(tuple(report.cosine[i][j] for j in back) for i in back),
        present=tuple(report.present[i] for i in back),
    )


def _notes(
    folders: Sequence[AdapterFolder], names: Sequence[str], layers: dict[str, LayerFactors]
) -> Iterator[str]:
    """What the user should know before using the result."""
    bases = {folder.config.base_model for folder in folders}
    if len(bases) > 1:
        pairs = zip(names, folders, strict=True)
        listed = ", ".join(f"{name}: {folder.config.base_model}" for name, folder in pairs)
        yield f"the adapters name different base models ({listed})"
    stored = sum(f.a.numel() + f.b.numel() for f in layers.values())
    dense = sum(f.a.shape[1] * f.b.shape[0] for f in layers.values())
    if stored > dense:
        yield (
            f"the result holds {stored:,} numbers, more than the {dense:,} weights it changes: "
            "--rank 16 or energy:0.99 makes it small"
        )
