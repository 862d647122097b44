"""Muon for hidden matrices, AdamW for the rest, behind one learning-rate factor.

Muon (Keller Jordan, 2024) orthogonalises the momentum of each matrix with a few Newton-Schulz
steps (four here, where they take a quarter of the time); it needs far fewer steps than AdamW on the
small transformers trained here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalised(matrices: Tensor, steps: int = 4) -> Tensor:
    """An approximation of U V^T for each matrix = U S V^T of (N, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT.contiguous() if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled so that one rate suits every shape.

    Matrices of one shape are orthogonalised together.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update each matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                directions = orthogonalised(
                    torch.stack([self._wanted(one, group["momentum"]) for one in parameters])
                )
                scale = 0.2 * max(shape) ** 0.5
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _wanted(self, parameter: Tensor, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        velocity = state.setdefault("velocity", torch.zeros_like(parameter))
        velocity.lerp_(gradient, 1 - momentum)
        return gradient.lerp(velocity, momentum)


class Optimisers:
    """Both optimisers as one: set the rate, clip, step, save and load."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], peak_lr: float) -> None:
        hidden, rest = [], []
        for name, parameter in named:
            (hidden if _is_hidden_matrix(name, parameter) else rest).append(parameter)
        self.peak_lr = peak_lr
        self.muon = Muon(hidden, peak_lr, momentum=0.95, weight_decay=0.01)
        self.adam = torch.optim.AdamW(
            rest, peak_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self._all = hidden + rest

    def step(self, factor: float) -> None:
        """Clip to norm 1, step with `factor` times the peak rate, forget the gradients."""
        nn.utils.clip_grad_norm_(self._all, 1.0)
        for optimiser in (self.muon, self.adam):
            for group in optimiser.param_groups:
                group["lr"] = self.peak_lr * factor
            optimiser.step()
            optimiser.zero_grad()

    def state_dict(self) -> dict:
        """Both states."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken; parameters added at the end since start anew."""
        for own, saved in ((self.muon, state["muon"]), (self.adam, state["adam"])):
            known = saved["param_groups"][0]["params"]
            known += range(len(known), len(own.param_groups[0]["params"]))
            own.load_state_dict(saved)


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    inside = "blocks." in name or "layers." in name
    return inside and parameter.ndim == 2
