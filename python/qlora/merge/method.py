"""What a method of merging is; `qlora.merge.methods` has them, one file each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from qlora.merge.layer import Layer

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec

LayerMerge = Callable[[Layer], Tensor]  # the merged update, in the basis of the layer


class Adapters(Protocol):
    """All layers of all adapters, in the standard basis; each iteration reads them again."""

    def __len__(self) -> int:
        """How many adapters."""

    def __iter__(self) -> Iterator[Layer]:
        """The layers, by name."""


@dataclass(frozen=True)
class Method:
    """`prepare(spec, adapters)` is called once, and what it returns merges one layer.

    prepare may walk through all layers, as often as it needs. basis "core": the method asks only
    for sums, products and singular values, so it gets the small cores of `qlora.merge.layer`
    (TSV-merge and Iso-C are of this kind). "standard": it looks at single entries, so it gets the
    dense updates, one layer at a time (DELLA, SCE, and KnOTS, whose right factors TIES merges). A
    core method does not see the basis: where an update has no core (DoRA) it gets the dense ones.
    options: the fields of
    MergeSpec that it reads besides those that every method has.
    """

    prepare: Callable[["MergeSpec", Adapters], LayerMerge]
    formula: str
    basis: Literal["core", "standard"]
    options: tuple[str, ...] = ()
