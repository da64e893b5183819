"""AdamW by bitsandbytes' names: constructors and files; the optimizer is qk.optim.AdamW."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from qlora_kernels import optim
from qlora_kernels.compat.bitsandbytes.errors import MisfitError, UnsupportedError
from qlora_kernels.compat.bitsandbytes.optim.names import NamedState, from_file, to_file
from qlora_kernels.compat.bitsandbytes.optim.optimizer import GlobalOptimManager
from qlora_kernels.errors import InputError
from qlora_kernels.optim.paged import Pages

_OPTIONS = {"max_unorm": 0.0, "skip_zeros": False, "percentile_clipping": 100, "block_wise": True}


class AdamW(optim.AdamW):
    """`p = p (1 - lr weight_decay) - lr m / (sqrt(v) + eps)`, decay first as in torch.

    16-bit parameters have no masters, as in bitsandbytes. optim_bits: 32 or 8; parameters of fewer
    than min_8bit_size elements keep 32-bit states. args: an object whose optim_bits and
    min_8bit_size replace the arguments. `state[p]` answers to state1, state2, absmax1, absmax2,
    qmap1 and qmap2; files are bitsandbytes', both ways.

    betas: two numbers, or "(0.9, 0.999)". amsgrad, and optim_bits where the name says 32, change
    nothing and are warned of, as they change nothing there.

    Raises ValueError for numbers that make no sense, and with 8 bits by name for amsgrad and
    optim_bits; NotImplementedError for other bits, update clipping, skipped zeros and states that
    are not in blocks; from step, RuntimeError for a sparse gradient.
    """

    fixed_bits: int | None = None
    always_paged = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] | str = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        optim_bits: int = 32,
        args: Any = None,
        min_8bit_size: int = 4096,
        is_paged: bool = False,
        **older: Any,
    ) -> None:
        """As bitsandbytes; older: percentile_clipping=100 and block_wise=True of its past."""
        name = type(self).__name__
        _refuse_unknown(self, older)
        _refuse_options(name, args, older)
        _without_effect(self, "amsgrad", amsgrad, False)
        if self.fixed_bits is not None:
            _without_effect(self, "optim_bits", optim_bits, 32)
        bits = self.fixed_bits or getattr(args, "optim_bits", optim_bits)
        if bits not in (32, 8):
            raise UnsupportedError(f"{name}: optim_bits should be 32 or 8, was {bits}")
        smallest = getattr(args, "min_8bit_size", min_8bit_size)
        self.args = SimpleNamespace(
            optim_bits=bits, min_8bit_size=smallest, max_unorm=0.0, skip_zeros=False
        )
        self.is_paged = self.always_paged or is_paged
        super().__init__(
            params,
            lr,
            _pair(betas, name),
            eps,
            weight_decay,
            bits=bits,
            paged=self.is_paged,
            min_quantized_size=smallest,
            master_weights=False,
        )
        self._answer_to_names()

    # The base reads the settings of parameters in these two. `step` itself is left alone: torch
    # wraps it, and would call hooks once for each class that has one.

    def _work(self) -> Any:
        with self._overridden():
            try:
                return super()._work()
            except InputError as error:  # a gradient that is not dense
                raise MisfitError(str(error)) from None

    def _keep(self, taken: Mapping[Any, Any]) -> None:
        with self._overridden():
            super()._keep(taken)

    @contextmanager
    def _overridden(self) -> Iterator[None]:
        """Parameters with overrides in GlobalOptimManager are in groups of their own."""
        groups = self.param_groups
        if configs := GlobalOptimManager.get_instance().configs():
            self.param_groups = _split(groups, configs)
        try:
            yield
        finally:
            self.param_groups = groups

    def state_dict(self) -> dict[str, Any]:
        """In bitsandbytes' form, which it loads."""
        found = super().state_dict()
        states = {key: to_file(state) for key, state in found["state"].items() if state}
        return {**found, "state": states}

    def load_state_dict(self, state_dict: Mapping[str, Any], move_to_device: bool = True) -> None:
        """What bitsandbytes, this class or qk.optim.AdamW wrote; states go where parameters are.

        Raises ValueError for groups or states that do not fit the parameters.
        """
        states = {key: from_file(state) for key, state in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": states})
        self._answer_to_names()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "args": self.args, "is_paged": self.is_paged}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._answer_to_names()

    def _add_pages(self, wanted: Callable[[Tensor], bool]) -> None:
        super()._add_pages(wanted)
        for parameter, state in self.state.items():
            if not isinstance(state, NamedState):
                self.state[parameter] = self._named(parameter, state)

    def _answer_to_names(self) -> None:
        named = {parameter: self._named(parameter, s) for parameter, s in self.state.items()}
        self.state = defaultdict(NamedState, named)

    def _named(self, parameter: Tensor, state: Mapping[str, Any]) -> NamedState:
        named = NamedState(state)
        if parameter in self._pages:
            named.read = partial(_read, self._pages, parameter)
        return named


def _read(pages: Pages, parameter: Tensor) -> dict[str, Tensor]:
    """The states of one parameter on its device; none before its first step."""
    found = pages.read([parameter]).get(parameter, {})
    return {name: tensor.to(parameter.device) for name, tensor in found.items()}


def _refuse_unknown(optimizer: AdamW, older: Mapping[str, Any]) -> None:
    for option in older:
        if option not in _OPTIONS:
            name = type(optimizer).__name__
            raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")


def _refuse_options(name: str, args: Any, older: Mapping[str, Any]) -> None:
    for option, default in _OPTIONS.items():
        value = older.get(option, getattr(args, option, default))
        if value != default:
            raise NotImplementedError(f"{name}: {option} should be {default}, was {value}")


def _without_effect(optimizer: AdamW, option: str, value: Any, default: Any) -> None:
    """Those with 8 bits by name refuse what the others pass over."""
    if value != default:
        wrong = f"{type(optimizer).__name__}: {option} should be {default}, was {value}"
        if optimizer.fixed_bits == 8:
            raise InputError(wrong)
        warnings.warn(f"{wrong}; it has no effect, as in bitsandbytes", stacklevel=3)


def _pair(betas: tuple[float, float] | str, name: str) -> Any:
    """Numbers as they are, text in the form of a tuple read."""
    if not isinstance(betas, str):
        return betas
    try:
        return tuple(float(beta) for beta in betas.strip().strip("()").split(","))
    except ValueError:
        raise InputError(f"{name}: betas should be two numbers, were {betas!r}") from None


def _split(
    groups: list[dict[str, Any]], configs: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The same parameters in groups of one setting, those with overrides alone."""
    split = []
    for group in groups:
        plain = [p for p in group["params"] if id(p) not in configs]
        split.append({**group, "params": plain})
        for parameter in group["params"]:
            config = dict(configs.get(id(parameter), {}))
            if config:
                bits = config.pop("optim_bits", group["bits"])
                split.append({**group, **config, "bits": bits, "params": [parameter]})
    return split


class AdamW8bit(AdamW):
    """`AdamW` with 8-bit states."""

    fixed_bits = 8


class AdamW32bit(AdamW):
    """`AdamW` with 32-bit states."""

    fixed_bits = 32


class PagedAdamW(AdamW):
    """`AdamW` with states in pages; `state[p]` gives copies of them."""

    always_paged = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] | str = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        optim_bits: int = 32,
        args: Any = None,
        min_8bit_size: int = 4096,
        **older: Any,
    ) -> None:
        """As `AdamW` without is_paged."""
        _refuse_unknown(self, older)
        rest = (amsgrad, optim_bits, args, min_8bit_size)
        super().__init__(params, lr, betas, eps, weight_decay, *rest, **older)


class PagedAdamW8bit(PagedAdamW):
    """`AdamW` with 8-bit states in pages."""

    fixed_bits = 8


class PagedAdamW32bit(PagedAdamW):
    """`AdamW` with 32-bit states in pages."""

    fixed_bits = 32
