"""Natural and trust-region steps as CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from npg import host
from npg.captured import Captured
from npg.conjugate_gradient import conjugate_gradient, read_solution, solve_unread
from npg.line_search import backtrack
from npg.linear_operator import Damped, LinearOperator, check_damping
from npg.natural_direction import UnreadDirection
from npg.objective import Evaluation, SurrogateObjective
from npg.policy_step import PolicyStep
from npg.states import leaves_of
from npg.step_rule import StepRule, step_length
from npg.trust_region import search_step


class CapturedStep:
    """`natural_step` and `trust_region_step` of one actor, replayed as two CUDA graphs.

        steps = CapturedStep(actor, ExactFisher)
        step = steps.trust_region_step(SurrogateObjective(actor, observations, actions, advantages))

    One graph has the gradient, all iterations of conjugate gradient, the curvature and the full step's
    evaluation, the other one the evaluation of a shorter step. Each is captured once per shape of the data,
    and read once. A step is computed without graphs on devices other than CUDA, once a capture has failed
    (which is a warning), and if its direction is unusable or conjugate gradient has to start again.

    Replacing, freezing and moving layers or buffers is noticed, and a change of training mode. Any other
    Python value that `forward` reads is constant; call `forget` after changing one.

    Args:
        actor: a module whose forward maps observations to an npg distribution, without a host read.
        make_fisher: returns F for actor and observations. It must not read the device, draw random numbers,
            or keep F for later calls.
        max_iterations: of conjugate gradient.
        tolerance: of conjugate gradient.
    """

    def __init__(
        self,
        actor: nn.Module,
        make_fisher: Callable[[nn.Module, Any], LinearOperator],
        *,
        max_iterations: int = 10,
        tolerance: float = 1e-8,
    ):
        self._actor = actor
        self._make_fisher = make_fisher
        self._options: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance}
        self._names: dict[str, tuple[str, ...]] = {}  # of the numbers that each graph returns
        self._solved: dict[str, Any] = {}  # by the first graph, in its memory
        self._device = torch.device("cpu")
        self._start(self._device)

    def _start(self, device: torch.device) -> None:
        self._device = device
        self._solve = Captured(self._solve_and_evaluate, device, reads=self._tensors)
        self._evaluate = Captured(
            self._evaluate_shortened, device, reads=lambda: [*self._tensors(), *_tensors_of(self._solved)]
        )

    def natural_step(
        self,
        objective: SurrogateObjective,
        *,
        target_kl: float = 0.01,
        step_size: float | None = None,
        damping: float = 0.1,
    ) -> PolicyStep:
        """Return the step of `npg.natural_step`.

        Args:
            objective: of this actor, and without `reduce`.
            target_kl: see `npg.natural_step`.
            step_size: see `npg.natural_step`.
            damping: see `npg.natural_step`.
        """
        return self._step(objective, damping, StepRule.natural(target_kl, step_size))

    def trust_region_step(
        self,
        objective: SurrogateObjective,
        *,
        target_kl: float = 0.01,
        damping: float = 0.1,
        shrink: float = 0.8,
        max_iterations: int = 10,
    ) -> PolicyStep:
        """Return the step of `npg.trust_region_step`.

        Args:
            objective: of this actor, and without `reduce`.
            target_kl: see `npg.trust_region_step`.
            damping: see `npg.trust_region_step`.
            shrink: see `npg.trust_region_step`.
            max_iterations: see `npg.trust_region_step`.
        """
        return self._step(objective, damping, StepRule.trust_region(target_kl, shrink, max_iterations))

    @property
    def failure(self) -> str | None:
        """Why a capture failed; None if none has failed."""
        return self._solve.failure or self._evaluate.failure

    def forget(self) -> None:
        """Drop all captures."""
        self._solve.forget()
        self._evaluate.forget()
        self._solved = {}

    def _step(self, objective: SurrogateObjective, damping: float, rule: StepRule) -> PolicyStep:
        check_damping(damping)
        if objective.parameters.device != self._device:
            self._start(objective.parameters.device)
        step = self._replayed_step(objective, damping, rule) if self._solve.replays else None
        if step is not None:
            return step
        fisher = self._make_fisher(self._actor, objective.data["observations"])
        return search_step(objective, fisher, damping, partial(conjugate_gradient, **self._options), rule)

    def _replayed_step(
        self, objective: SurrogateObjective, damping: float, rule: StepRule
    ) -> PolicyStep | None:
        """Return the step, or None if it takes more than the graphs have."""
        solved = self._solve(objective.data, {"damping": damping, **rule.numbers}, self._structure())
        if self._solve.failure:
            return None
        self._solved = solved
        first = host.read_vector(self._names["solve"], solved["numbers"])
        iterations = int(first["iterations"])
        solution = read_solution(
            solved["x"].clone(),
            first,
            self._options["tolerance"],
            iterations,
            self._options["max_iterations"],
        )
        if solution is None or UnreadDirection.rejection_of(first, solution.status) is not None:
            return None

        def evaluate(scale: float) -> Evaluation:
            if scale == 1:
                return Evaluation.of(first)
            numbers = self._evaluate(scale, self._structure())
            return Evaluation.of(host.read_vector(self._names["evaluate"], numbers))

        search = backtrack(
            evaluate,
            lambda evaluation: rule.rejection_of(evaluation) is None,
            shrink=rule.shrink,
            max_iterations=rule.max_iterations,
        )
        return PolicyStep.of(
            search.scale * solved["full_step"],
            rule.rejection_of(search.evaluation),
            search.evaluation,
            backtracks=search.backtracks,
            damping=damping,
            solution=solution,
        )

    def _solve_and_evaluate(
        self, data: dict[str, Any], options: dict[str, Tensor], structure: Any
    ) -> dict[str, Any]:
        damping, length = options["damping"], {k: v for k, v in options.items() if k != "damping"}
        with fresh_parameters(self._actor):
            objective = SurrogateObjective(self._actor, **data)
            fisher = self._make_fisher(self._actor, data["observations"])
            gradient = objective.gradient()
            solution = solve_unread(Damped(fisher, damping), gradient, **self._options)
            direction = UnreadDirection.of(gradient, solution.x, fisher, damping)
            full_step = step_length(direction.curvature, **length) * solution.x
            numbers = {**objective.measure(full_step), **direction.numbers(), **solution.numbers}
        self._names["solve"] = tuple(numbers)
        results = {"gradient": gradient, "x": solution.x, "full_step": full_step}
        return {"data": data, **results, "numbers": host.stack(numbers)}

    def _evaluate_shortened(self, scale: Tensor, structure: Any) -> Tensor:
        solved = self._solved
        with fresh_parameters(self._actor):
            objective = SurrogateObjective(self._actor, **solved["data"])
            numbers = objective.measure(scale * solved["full_step"], solved["gradient"])
        self._names["evaluate"] = tuple(numbers)
        return host.stack(numbers)

    def _tensors(self) -> list[Tensor]:
        """Return all parameters and buffers, frozen ones and those of the critic included."""
        held = (held for m in self._actor.modules() for held in (m._parameters, m._buffers))
        return [tensor for tensors in held for tensor in tensors.values() if tensor is not None]

    def _structure(self) -> tuple[Any, ...]:
        """Return what a graph depends on besides tensors."""
        return tuple((module, module.training) for module in self._actor.modules())


@contextmanager
def fresh_parameters(module: nn.Module) -> Iterator[None]:
    """Replace the trainable parameters by others with the same memory, which no graph of autograd has yet.

    Autograd synchronises a stream with the streams on which it has met the parameters before. This makes a
    capture fail while an older graph is alive.
    """
    fresh = {id(p): nn.Parameter(p.detach()) for p in module.parameters() if p.requires_grad}
    held = [(m._parameters, name, p) for m in module.modules() for name, p in m._parameters.items()]
    held = [(parameters, name, p) for parameters, name, p in held if id(p) in fresh]
    try:
        for parameters, name, p in held:
            parameters[name] = fresh[id(p)]
        yield
    finally:
        for parameters, name, p in held:
            parameters[name] = p


def _tensors_of(data: Any) -> list[Tensor]:
    return [leaf for leaf in leaves_of(data) if isinstance(leaf, Tensor)]
