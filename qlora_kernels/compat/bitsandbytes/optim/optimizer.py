"""Settings of single parameters that hold for every optimizer."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Optional

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from qlora_kernels.checks import check_choice

HONOURED = ("optim_bits", "lr", "betas", "eps", "weight_decay")
Config = Mapping[str, Any]


class GlobalOptimManager:
    """Overrides of optim_bits, lr, betas, eps and weight_decay, by parameter; one for a process.

    They hold from the next step on, optim_bits for states that are not made yet. Parameters need
    not be registered, and are forgotten when they are gone.
    """

    _instance: Optional["GlobalOptimManager"] = None

    def __init__(self) -> None:
        raise RuntimeError("Call get_instance() instead")

    @classmethod
    def get_instance(cls) -> "GlobalOptimManager":
        """The one manager."""
        if cls._instance is None:
            cls._instance = cls.__new__(cls)
            cls._instance.initialize()
        return cls._instance

    def initialize(self) -> None:
        """Forget all overrides."""
        self._by_parameter: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._by_name: list[tuple[weakref.ref[nn.Module], str, Config]] = []

    def register_parameters(self, params: Iterable[Any]) -> None:
        """Nothing to do: an override finds its parameter by itself, on every device."""

    def override_config(
        self,
        parameters: torch.Tensor | Iterable[torch.Tensor],
        key: str | None = None,
        value: Any = None,
        key_value_dict: Config | None = None,
    ) -> None:
        """Override one setting, or several, of one parameter or several.

        Raises ValueError for a setting other than optim_bits, lr, betas, eps and weight_decay, and
        for both a key and a dict.
        """
        if key is not None and key_value_dict is not None:
            raise ValueError("override_config: should get a key or key_value_dict, got both")
        config = dict(key_value_dict or {}) if key is None else {key: value}
        _check(config)
        for parameter in [parameters] if isinstance(parameters, torch.Tensor) else parameters:
            self._by_parameter[parameter] = {**self._by_parameter.get(parameter, {}), **config}

    def register_module_override(self, module: nn.Module, param_name: str, config: Config) -> None:
        """Override settings of whatever parameter a module has by this name when a step is made."""
        _check(config)
        self._by_name.append((weakref.ref(module), param_name, dict(config)))

    def configs(self) -> dict[int, Config]:
        """The overrides in force, by id of the parameter."""
        found = {id(parameter): config for parameter, config in self._by_parameter.items()}
        for reference, name, config in self._by_name:
            module = reference()
            if module is not None:
                parameter = getattr(module, name)
                found[id(parameter)] = {**found.get(id(parameter), {}), **config}
        return found


def _check(config: Config) -> None:
    for key in config:
        check_choice("override_config", "a setting", key, HONOURED)
