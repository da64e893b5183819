"""AdamW as a torch.optim.Optimizer: which parameter has which state; the maths is ops/adamw's."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from qlora_kernels.ops.adamw import (
    Gate,
    Guard,
    Hyperparameters,
    Segment,
    adamw_step,
    count_steps,
    gradient_gate,
    guarded_step,
)
from qlora_kernels.optim.loading import Stored, load
from qlora_kernels.optim.paged import PagedParameter, Pages, check_budget, stats_of
from qlora_kernels.optim.paging import out_of_memory
from qlora_kernels.optim.settings import Settings, check_group
from qlora_kernels.optim.sharded import as_sharded, local, sum_over_shards
from qlora_kernels.optim.state import (
    check_parameters,
    contiguous_gradient,
    new_state,
    places,
    segment_of,
)
from qlora_kernels.optim.stored import fitted

Owner = Segment | PagedParameter
Work = list[tuple[Owner, Tensor, Hyperparameters]]
Total = Callable[[Tensor], Tensor]
_NO_SEGMENT: tuple[tuple[int, ...], Segment | None] = (), None


class AdamW(Optimizer):
    """`p -= lr (weight_decay p + m / (sqrt(v) + eps))`, one fused step over all parameters.

    The whole formula is in ops/adamw/op.py; with 32-bit states it gives the bits of
    torch.optim.AdamW. lr, betas, eps, weight_decay and bits may differ between parameter groups.
    `options` are the fields of optim.Settings: bits=8, max_gradient_norm=1.0 and so on.

    Parameters are float32, bfloat16 or float16, and contiguous. `state[p]` has torch's names: step,
    exp_avg and exp_avg_sq; with exp_avg_absmax and exp_avg_sq_absmax where those are 8-bit codes,
    and master where the parameter has 16 bits. Works with torch's schedulers and with GradScaler,
    which leaves the scale in the gradients. Raises InputError for arguments that make no sense.
    """

    # GradScaler sets grad_scale and found_inf before it calls step, and deletes them after.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Any,
    ) -> None:
        """As torch.optim.AdamW, and the fields of Settings."""
        self.settings = Settings.of(options)
        self._skipped = torch.zeros(())
        self._segments: dict[Tensor, tuple[tuple[int, ...], Segment]] = {}  # by places
        self._pages = Pages(self.settings)
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**numbers, "bits": self.settings.bits})

    @property
    def skipped_steps(self) -> int:
        """How many steps changed nothing because a gradient was not finite; waits for a GPU."""
        return int(self._skipped.item())

    def paging_stats(self) -> dict[str, Any]:
        """Bytes of states by tier (device, host, file), their peak, copies, stalls, evictions.

        Without `paged` all states are resident and nothing is copied.
        """
        return stats_of(self._pages, self.state)

    def state_dict(self) -> dict[str, Any]:
        """torch's form, under torch's names, whatever is paged.

        Paged states are copies on the CPU; while pages are in use they are mapped from a file
        beside the page file, so that they take no memory that the system could not take back.
        """
        packed: dict[str, Any] = super().state_dict()
        paged = self._pages.read()
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, parameter in enumerate(parameters):
            if self._pages.awaits(parameter):
                packed["state"].pop(number, None)
            elif state := packed["state"].get(number):
                states = {**state, **paged.get(parameter, {})}
                packed["state"][number] = as_sharded(parameter, states)
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """States of this optimizer or of torch's AdamW, of any bits and any budget.

        How states are kept stays this optimizer's matter (optim/stored.py has the rule); numbers of
        groups are the file's. Raises InputError, nothing changed, for states that do not fit.
        """
        load(self, lambda: super(AdamW, self).load_state_dict(state_dict), self._keep)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; those not given are the optimizer's.

        Raises InputError, nothing added, for what does not fit.
        """
        check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups.pop()  # torch has made a list of what it was given
        check_parameters(group["params"])
        if self.settings.memory_budget is not None:
            check_budget(group, self.settings)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if work := self._work():
            guard = self._guard()
            parameters = (p for group in self.param_groups for p in group["params"])
            total = sum_over_shards(parameters) if guard else None
            devices = {owner.device for owner, _, _ in work}
            if total is None and len(devices) == 1 and not self.settings.paged:
                owners, gradients, hyper = zip(*work, strict=True)
                gate = guarded_step(owners, gradients, hyper, guard)
            else:
                gate = self._gate([gradient for _, gradient, _ in work], guard, total)
                for device in devices:
                    self._update([w for w in work if w[0].device == device], gate.to(device))
            # In place, so that a replayed CUDA graph goes on counting.
            self._skipped = self._skipped.to(gate.skip.device).add_(gate.skip)
        return loss

    def _work(self) -> Work:
        """What this step updates, making the states of parameters that are new to it."""
        work: Work = []
        if self.settings.paged:
            self._add_pages(lambda parameter: parameter.grad is not None)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            lr, eps, weight_decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
            hyper = Hyperparameters(lr, beta1, beta2, eps, weight_decay)
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    owner: Owner
                    if self.settings.paged:
                        owner = self._pages[parameter]
                    else:
                        owner = self._segment(parameter, group["bits"])
                    work.append((owner, contiguous_gradient(gradient), hyper))
        return work

    def _add_pages(self, wanted: Callable[[Tensor], bool]) -> None:
        """Places for the states of parameters that are new, side by side."""
        added = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if wanted(parameter) and parameter not in self._pages:
                    self.state[parameter] = {"step": torch.zeros((), device=parameter.device)}
                    kept = (
                        self.settings.bits_of(parameter, group["bits"]),
                        self.settings.has_master(parameter),
                    )
                    added.append(PagedParameter(parameter, self.state[parameter]["step"], *kept))
        self._pages.add(added)

    def _keep(self, taken: Mapping[Tensor, Stored]) -> None:
        """Take over states that were loaded."""
        bits = {p: group["bits"] for group in self.param_groups for p in group["params"]}
        if self.settings.paged:
            self._add_pages(lambda parameter: parameter in taken)
        for parameter, stored in taken.items():
            kept = (
                self.settings.bits_of(parameter, bits[parameter]),
                self.settings.has_master(parameter),
            )
            states = fitted(stored, local(parameter), *kept)
            if self.settings.paged:
                self._pages.write(parameter, states)
            else:
                on_device = {name: tensor.to(parameter.device) for name, tensor in states.items()}
                step = torch.zeros((), device=parameter.device)
                self.state[parameter] = {"step": step, **on_device}
            self.state[parameter]["step"].fill_(float(stored["step"]))

    def _segment(self, parameter: Tensor, bits: int) -> Segment:
        state, shard = self.state[parameter], local(parameter)
        if not state:
            bits = self.settings.bits_of(parameter, bits)
            state.update(new_state(shard, bits, self.settings.master_weights))
        known, segment = self._segments.get(parameter, _NO_SEGMENT)
        here = places(shard, state)
        if segment is None or known != here or segment.step is not state["step"]:
            segment = segment_of(shard, state)
            self._segments[parameter] = here, segment
        return segment

    def _guard(self) -> Guard | None:
        """What is asked of the gradients of this step; None: nothing."""
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        max_norm = self.settings.max_gradient_norm
        if not self.settings.skip_nonfinite and max_norm is grad_scale is found_inf is None:
            return None
        return Guard(max_norm, grad_scale, found_inf)

    def _gate(self, gradients: list[Tensor], guard: Guard | None, total: Total | None) -> Gate:
        if guard is None:
            return Gate.open(gradients[0].device)
        try:
            return gradient_gate(gradients, *guard, total)
        except (RuntimeError, MemoryError) as error:
            if not (self.settings.paged and out_of_memory(error)):
                raise
        self._pages.make_room()
        return gradient_gate(gradients, *guard, total)

    def _update(self, work: Work, gate: Gate) -> None:
        owners, gradients, hyper = zip(*work, strict=True)
        count_steps([owner.step for owner in owners], gate)
        if self.settings.paged:
            self._pages.update(owners, gradients, hyper, gate)
        else:
            adamw_step(owners, gradients, hyper, gate)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"settings": self.settings, "_skipped": self._skipped, "_segments": {}}
        state = {p: states for p, states in self.state.items() if not self._pages.awaits(p)}
        for parameter, states in self._pages.read().items():
            state[parameter] = {**state[parameter], **states}
        return {**super().__getstate__(), **kept, "state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has pages of its own."""
        super().__setstate__(state)
        self._segments, self._pages = {}, Pages(self.settings)
        if self.settings.paged:
            states, self.state = self.state, defaultdict(dict)
            self._keep(states)
