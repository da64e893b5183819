"""DARE with the sign election of TIES (`dare_ties` in mergekit)."""

from typing import TYPE_CHECKING

from qlora.merge.election import Election
from qlora.merge.method import Adapters, LayerMerge
from qlora.merge.methods.dare import dropped

if TYPE_CHECKING:
    from qlora.merge.spec import MergeSpec


def dare_ties(spec: "MergeSpec", adapters: Adapters) -> LayerMerge:
    """merged = sum of w_i m_i t_i [sign(w_i m_i t_i) = s], s = sign(sum of w_i m_i t_i).

    m_i as in `dare`, a zero sum as in `ties`. Not divided: the masks leave few entries that meet.
    """
    return Election(lambda layer: dropped(spec, layer), adapters).sum
